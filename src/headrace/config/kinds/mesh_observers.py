"""Providers of logs and spans in MeshConfig.extensionProviders: which ones Envoy can write to, how they are lowered.

Used by `mesh_config`. A Telemetry names a provider, or MeshConfig.defaultProviders does. The rules are Istio's
(telemetry_logging.go, tracing.go).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from headrace.config.documents import Path
from headrace.config.fields import shown
from headrace.config.kinds.istio_names import warning
from headrace.config.kinds.mesh_providers import (
    ExtensionProvider,
    GrpcService,
    HeaderValueSpec,
    HttpService,
    LogFormat,
    OpenTelemetry,
    TcpLog,
    Zipkin,
)
from headrace.config.kinds.proxy_config import CustomTag, ProxyConfigSpec
from headrace.config.schema import NO_EFFECT, NOT_SUPPORTED, Finding, to_camel
from headrace.model.problem import Severity
from headrace.model.telemetry import (
    ENVOY_LOG,
    Exporter,
    MeshTracing,
    Provider,
    ProviderKind,
    Sampler,
    SpanTag,
    TagSource,
)
from headrace.model.telemetry import LogFormat as Format

_STATE = ("upstream_peer", "downstream_peer")
"""Filter states that Istio's loggers send; upstream Envoy has none of them, and sends nothing for them."""
_OBSERVERS = ("zipkin", "datadog", "skywalking", "opentelemetry", "envoy_http_als", "envoy_tcp_als", "envoy_otel_als")
_USELESS = {
    "lightstep": "Envoy has no Lightstep tracer any more: use opentelemetry",
    "opencensus": "Envoy has no OpenCensus tracer any more: use opentelemetry",
    "stackdriver": "Istio's Stackdriver filters are no part of Envoy: use opentelemetry",
    "prometheus": "Istio's metrics come from a filter that Envoy does not have",
    "sds": "certificates come from Headrace's own authority and from Secrets",
}
"""Providers without effect, and why."""


def observer_findings(provider: ExtensionProvider, path: Path) -> Iterator[Finding]:
    """Judge what has no effect, or not yet, in a provider of logs or spans."""
    for field, why in _USELESS.items():
        if getattr(provider, field) is not None:
            message = f"a provider {shown(field)} has no effect in this mesh: {why}"
            yield Finding((*path, field), message, "", NO_EFFECT, Severity.WARNING)
    for field in _OBSERVERS:
        backend = getattr(provider, field)
        if backend is not None and not backend.port:
            message = "a provider without a port cannot be called: nothing is sent to it"
            yield warning((*path, to_camel(field), "port"), message, "Add port.")
    otel = provider.opentelemetry
    if otel is not None and otel.http is not None and otel.grpc is not None:
        yield warning((*path, "opentelemetry", "grpc"), "http and grpc exclude each other: http is used", "Keep one.")
    if provider.skywalking is not None and provider.skywalking.access_token:
        message = "'accessToken' has no effect: Istio does not use it either"
        yield Finding((*path, "skywalking", "accessToken"), message, "", NO_EFFECT, Severity.WARNING)
    for place, header in _headers(provider):
        if header.env_name is not None:
            message = "'envName' is not supported yet: the header is left out"
            at = (*path, *place, "envName")
            yield Finding(at, message, "Write value.", NOT_SUPPORTED, Severity.WARNING)


def lower_mesh_tracing(enabled: bool, config: ProxyConfigSpec | None) -> MeshTracing:
    """What MeshConfig says of traces by `enableTracing` and `defaultConfig.tracing`."""
    tracing = config.tracing if config is not None else None
    if tracing is None:
        return MeshTracing(enabled)
    return MeshTracing(
        enabled=enabled,
        sampling=tracing.sampling,
        tags=_tags(tracing.custom_tags),
        istio_tags=tracing.enable_istio_tags is not False,
        max_tag_length=tracing.max_path_tag_length,
    )


def _tags(tags: Mapping[str, CustomTag]) -> tuple[SpanTag, ...]:
    found = []
    for name, tag in sorted(tags.items()):
        if tag.literal is not None:
            found.append(SpanTag(name, TagSource.LITERAL, tag.literal.value))
        elif tag.environment is not None:
            found.append(SpanTag(name, TagSource.ENVIRONMENT, tag.environment.name, tag.environment.default_value))
        elif tag.header is not None:
            found.append(SpanTag(name, TagSource.HEADER, tag.header.name, tag.header.default_value))
    return tuple(found)


def _headers(provider: ExtensionProvider) -> Iterator[tuple[Path, HeaderValueSpec]]:
    if provider.zipkin is not None:
        yield from ((("zipkin", "headers", at), item) for at, item in enumerate(provider.zipkin.headers))
    otel = provider.opentelemetry
    if otel is not None and otel.http is not None:
        yield from ((("opentelemetry", "http", "headers", at), item) for at, item in enumerate(otel.http.headers))
    if otel is not None and otel.grpc is not None:
        where: Path = ("opentelemetry", "grpc", "initialMetadata")
        yield from (((*where, at), item) for at, item in enumerate(otel.grpc.initial_metadata))


def lower_observers(providers: Iterable[ExtensionProvider], encoding: str, text: str) -> tuple[Provider, ...]:
    """The providers of logs and spans, and the built-in one; `encoding` and `text` are MeshConfig's access log
    format."""
    found = {ENVOY_LOG.name: replace(ENVOY_LOG, format=_mesh_format(encoding, text))}
    for spec in providers:
        provider = _lower(spec, _mesh_format(encoding, text))
        if provider is not None:
            found[spec.name] = provider
    return tuple(found[name] for name in sorted(found))


def _lower(spec: ExtensionProvider, mesh_format: Format) -> Provider | None:
    if spec.envoy_file_access_log is not None:
        log = spec.envoy_file_access_log
        form = _format(log.log_format, omit_empty=log.omit_empty_values)
        if spec.name == ENVOY_LOG.name and log.log_format is None and not log.omit_empty_values:
            form = mesh_format
        return Provider(spec.name, ProviderKind.FILE_LOG, path=log.path or ENVOY_LOG.path, format=form)
    if spec.envoy_http_als is not None:
        http = spec.envoy_http_als
        headers = (
            tuple(http.additional_request_headers_to_log),
            tuple(http.additional_response_headers_to_log),
            tuple(http.additional_response_trailers_to_log),
        )
        return _collector(spec.name, ProviderKind.HTTP_LOG, http, headers)
    if spec.envoy_tcp_als is not None:
        return _collector(spec.name, ProviderKind.TCP_LOG, spec.envoy_tcp_als)
    if spec.envoy_otel_als is not None:
        otel = spec.envoy_otel_als
        form = _format(otel.log_format, omit_empty=False)
        return Provider(spec.name, ProviderKind.OTEL_LOG, otel.service, otel.port, format=form, log_name=otel.log_name)
    return _lower_tracer(spec)


def _collector(
    name: str,
    kind: ProviderKind,
    spec: TcpLog,
    headers: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]] = ((), (), ()),
) -> Provider:
    state = tuple(spec.filter_state_objects_to_log) or _STATE
    return Provider(
        name, kind, spec.service, spec.port, log_name=spec.log_name, filter_state=state, headers_to_log=headers
    )


def _lower_tracer(spec: ExtensionProvider) -> Provider | None:
    if spec.zipkin is not None:
        return _zipkin(spec.name, spec.zipkin)
    if spec.datadog is not None:
        item = spec.datadog
        return Provider(spec.name, ProviderKind.DATADOG, item.service, item.port, max_tag_length=item.max_tag_length)
    if spec.skywalking is not None:
        return Provider(spec.name, ProviderKind.SKYWALKING, spec.skywalking.service, spec.skywalking.port)
    return _otel(spec.name, spec.opentelemetry) if spec.opentelemetry is not None else None


def _zipkin(name: str, spec: Zipkin) -> Provider:
    return Provider(
        name,
        ProviderKind.ZIPKIN,
        spec.service,
        spec.port,
        exporter=Exporter(True, spec.path, spec.timeout, _pairs(spec.headers)),
        max_tag_length=spec.max_tag_length,
        wide_ids=not spec.enable_64bit_trace_id,
        w3c=spec.trace_context_option == "USE_B3_WITH_W3C_PROPAGATION",
    )


def _otel(name: str, spec: OpenTelemetry) -> Provider:
    detectors = spec.resource_detectors
    semantic = spec.service_attribute_enrichment == "OTEL_SEMANTIC_CONVENTIONS"
    named = ["environment"] if semantic or (detectors and detectors.environment is not None) else []
    named += ["dynatrace"] if detectors and detectors.dynatrace is not None else []
    return Provider(
        name,
        ProviderKind.OPENTELEMETRY,
        spec.service,
        spec.port,
        exporter=_exporter(spec.http, spec.grpc),
        max_tag_length=spec.max_tag_length,
        detectors=tuple(named),
        semantic=semantic,
        sampler=_sampler(spec),
    )


def _exporter(http: HttpService | None, grpc: GrpcService | None) -> Exporter:
    if http is not None:
        return Exporter(True, http.path, http.timeout, _pairs(http.headers))
    return Exporter() if grpc is None else Exporter(False, "", grpc.timeout, _pairs(grpc.initial_metadata))


def _sampler(spec: OpenTelemetry) -> Sampler | None:
    item = spec.dynatrace_sampler
    if item is None:
        return None
    api = item.http_service
    return Sampler(
        item.tenant,
        item.cluster_id,
        item.root_spans_per_minute,
        api.service if api else "",
        api.port if api else 0,
        _exporter(api.http, None) if api else Exporter(),
    )


def _pairs(headers: Iterable[HeaderValueSpec]) -> tuple[tuple[str, str], ...]:
    return tuple((item.name, item.value or "") for item in headers if item.env_name is None)


def _format(spec: LogFormat | None, *, omit_empty: bool) -> Format:
    if spec is None:
        return Format(omit_empty=omit_empty)
    labels: dict[str, Any] | None = spec.labels
    return Format(spec.text or "", "" if labels is None else json.dumps(labels, sort_keys=True), omit_empty)


def _mesh_format(encoding: str, text: str) -> Format:
    return Format(json=text or "{}") if encoding == "JSON" else Format(text=text)
