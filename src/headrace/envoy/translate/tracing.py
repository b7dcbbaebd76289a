"""Traces: what a connection manager does with them, and the collector that spans go to.

Called by `hcm`. Telemetry and MeshConfig say what is traced (`envoy.observing` settles it); the configuration of each
tracer is Istio's.
"""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3 import base_pb2, extension_pb2, http_service_pb2
from envoy.config.trace.v3 import datadog_pb2, http_tracer_pb2, opentelemetry_pb2, skywalking_pb2, zipkin_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.request_id.uuid.v3 import uuid_pb2
from envoy.extensions.tracers.opentelemetry.resource_detectors.v3 import (
    dynatrace_resource_detector_pb2,
    environment_resource_detector_pb2,
)
from envoy.extensions.tracers.opentelemetry.samplers.v3 import dynatrace_sampler_pb2
from envoy.type.tracing.v3 import custom_tag_pb2

from headrace.envoy.translate.messages import boolean, duration, packed, uint32
from headrace.model.mesh import MeshConfig
from headrace.model.telemetry import Exporter, Producer, Provider, ProviderKind, Spans, SpanTag, TagSource

_KEEP_CONTEXT = b"\x68\x01"
"""`no_context_propagation: true` (field 13), which the generated classes do not have yet."""
_ZIPKIN_PATH = "/api/v2/spans"
_ZIPKIN_SECONDS = 5.0
_SAMPLING_API = "api/v2/samplingConfiguration"
_DRY_RUN = "istio_dry_run_"
_RBAC = "envoy.filters.http.rbac"


def trace(manager: Any, mesh: MeshConfig, *, server: bool, gateway: bool) -> None:
    """Let the connection manager trace as its side is told to; nothing where it is told nothing."""
    spans = (mesh.observed.server if server else mesh.observed.client).spans
    if spans is None:
        return
    tracing = hcm_pb2.HttpConnectionManager.Tracing()
    if spans.keep_context:
        tracing.MergeFromString(_KEEP_CONTEXT)
    tracing.client_sampling.value = tracing.overall_sampling.value = 100.0
    tracing.random_sampling.value = spans.sampling
    if spans.max_tag_length:
        tracing.max_path_tag_length.CopyFrom(uint32(spans.max_tag_length))
    producer = mesh.producer or Producer()
    tags = [_tag(tag) for tag in spans.tags] + (_istio_tags(producer) if spans.istio_tags else [])
    tracing.custom_tags.extend(sorted(tags, key=lambda tag: tag.tag))
    if spans.provider is not None:
        tracer, config = _tracer(spans, spans.provider, producer)
        tracing.provider.CopyFrom(http_tracer_pb2.Tracing.Http(name=tracer, typed_config=packed(config)))
        if gateway or spans.provider.kind is ProviderKind.SKYWALKING:
            tracing.spawn_upstream_span.CopyFrom(boolean(True))
    manager.tracing.CopyFrom(tracing)
    if spans.by_request_id is not None:
        identity = uuid_pb2.UuidRequestIdConfig(use_request_id_for_trace_sampling=boolean(spans.by_request_id))
        manager.request_id_extension.typed_config.CopyFrom(packed(identity))


def _tracer(spans: Spans, provider: Provider, producer: Producer) -> tuple[str, Any]:
    """Envoy's name of the tracer, and its configuration."""
    match provider.kind:
        case ProviderKind.ZIPKIN:
            return "envoy.tracers.zipkin", _zipkin(spans, provider)
        case ProviderKind.DATADOG:
            return "envoy.tracers.datadog", datadog_pb2.DatadogConfig(
                collector_cluster=spans.cluster, service_name=producer.service, collector_hostname=spans.host
            )
        case ProviderKind.SKYWALKING:
            config = skywalking_pb2.SkyWalkingConfig()
            config.grpc_service.envoy_grpc.cluster_name = spans.cluster
            config.grpc_service.envoy_grpc.authority = spans.host
            return "envoy.tracers.skywalking", config
        case _:
            return "envoy.tracers.opentelemetry", _otel(spans, provider, producer)


def _zipkin(spans: Spans, provider: Provider) -> Any:
    kind = zipkin_pb2.ZipkinConfig
    exporter = provider.exporter
    uri = f"http://{spans.host}{exporter.path or _ZIPKIN_PATH}"
    seconds = _ZIPKIN_SECONDS if exporter.timeout is None else exporter.timeout
    return kind(
        collector_endpoint_version=kind.HTTP_JSON,
        trace_id_128bit=provider.wide_ids,
        shared_span_context=boolean(False),
        trace_context_option=kind.USE_B3_WITH_W3C_PROPAGATION if provider.w3c else kind.USE_B3,
        collector_service=_http_service(exporter, uri, spans.cluster, seconds),
    )


def _otel(spans: Spans, provider: Provider, producer: Producer) -> Any:
    name = producer.workload if provider.semantic else producer.service
    config = opentelemetry_pb2.OpenTelemetryConfig(service_name=name)
    exporter = provider.exporter
    if exporter.http:
        uri = _joined(spans.host, exporter.path)
        config.http_service.CopyFrom(_http_service(exporter, uri, spans.cluster, exporter.timeout))
    else:
        service = config.grpc_service
        service.envoy_grpc.cluster_name, service.envoy_grpc.authority = spans.cluster, spans.host
        if exporter.timeout is not None:
            service.timeout.CopyFrom(duration(exporter.timeout))
        service.initial_metadata.extend(base_pb2.HeaderValue(key=key, value=value) for key, value in exporter.headers)
    config.resource_detectors.extend(_detector(item) for item in provider.detectors)
    if provider.sampler is not None:
        config.sampler.CopyFrom(_sampler(spans, provider))
    return config


def _detector(name: str) -> Any:
    kinds = {
        "environment": environment_resource_detector_pb2.EnvironmentResourceDetectorConfig,
        "dynatrace": dynatrace_resource_detector_pb2.DynatraceResourceDetectorConfig,
    }
    return extension_pb2.TypedExtensionConfig(
        name=f"envoy.tracers.opentelemetry.resource_detectors.{name}", typed_config=packed(kinds[name]())
    )


def _sampler(spans: Spans, provider: Provider) -> Any:
    """Dynatrace's sampler, which asks its own service, or the one that spans go to."""
    sampler = provider.sampler
    if sampler is None:
        raise ValueError(f"provider {provider.name} has no sampler")
    config = dynatrace_sampler_pb2.DynatraceSamplerConfig(
        tenant=sampler.tenant, cluster_id=sampler.cluster_id, root_spans_per_minute=sampler.spans_per_minute
    )
    if sampler.service:
        uri = _joined(spans.sampler_host, sampler.exporter.path)
        timeout = sampler.exporter.timeout
        service = _http_service(sampler.exporter, uri, spans.sampler_cluster, timeout)
    else:
        uri = _joined(spans.host, _SAMPLING_API)
        service = _http_service(provider.exporter, uri, spans.cluster, provider.exporter.timeout)
    config.http_service.CopyFrom(service)
    name = "envoy.tracers.opentelemetry.samplers.dynatrace"
    return extension_pb2.TypedExtensionConfig(name=name, typed_config=packed(config))


def _http_service(exporter: Exporter, uri: str, cluster: str, timeout: float | None) -> Any:
    """`timeout` None: Envoy demands one, and none was written: its usual of five seconds."""
    service = http_service_pb2.HttpService()
    service.http_uri.uri, service.http_uri.cluster = uri, cluster
    service.http_uri.timeout.CopyFrom(duration(_ZIPKIN_SECONDS if timeout is None else timeout))
    for key, value in exporter.headers:
        service.request_headers_to_add.add(
            header=base_pb2.HeaderValue(key=key, value=value),
            append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
        )
    return service


def _joined(host: str, path: str) -> str:
    return f"{host}/{path.lstrip('/')}" if path else host


def _tag(tag: SpanTag) -> Any:
    found = custom_tag_pb2.CustomTag(tag=tag.name)
    match tag.source:
        case TagSource.LITERAL:
            found.literal.value = tag.value
        case TagSource.ENVIRONMENT:
            found.environment.name, found.environment.default_value = tag.value, tag.default
        case TagSource.HEADER:
            found.request_header.name, found.request_header.default_value = tag.value, tag.default
        case TagSource.FORMATTER:
            found.value = tag.value
    return found


def _istio_tags(producer: Producer) -> list[Any]:
    """What Istio says of the proxy in each of its spans, and what policies on trial would have done."""
    said = {
        "istio.canonical_revision": producer.revision,
        "istio.canonical_service": producer.canonical,
        "istio.cluster_id": producer.cluster,
        "istio.mesh_id": producer.mesh,
        "istio.namespace": producer.namespace,
    }
    tags = [_tag(SpanTag(name, TagSource.LITERAL, value)) for name, value in said.items()]
    for action in ("allow", "deny"):
        prefix = f"istio.authorization.dry_run.{action}_policy"
        tags.append(_dry_run_tag(f"{prefix}.name", f"{_DRY_RUN}{action}_shadow_effective_policy_id"))
        tags.append(_dry_run_tag(f"{prefix}.result", f"{_DRY_RUN}{action}_shadow_engine_result"))
    return tags


def _dry_run_tag(name: str, key: str) -> Any:
    tag = custom_tag_pb2.CustomTag(tag=name)
    tag.metadata.kind.request.SetInParent()
    tag.metadata.metadata_key.key = _RBAC
    tag.metadata.metadata_key.path.add(key=key)
    return tag
