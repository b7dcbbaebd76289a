"""What the proxies of a scope say of their traffic, with the clusters by which they reach who is told.

Called by `envoy.attachments`; the settled value is part of the scope's settings, which listeners are made with. A
provider whose collector the scope cannot call writes nothing (Istio's rule).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from headrace.envoy.guards import service_cluster
from headrace.model.mesh import MeshConfig
from headrace.model.telemetry import UNOBSERVED, Log, Observed, Provider, Side, Spans, Telemetry
from headrace.model.telemetry import WorkloadMode as Mode
from headrace.registry.telemetry import DEFAULT_SAMPLING, TraceSettings, settle_logs, settle_traces

if TYPE_CHECKING:
    from headrace.envoy.view import Target


def observed(mesh: MeshConfig, documents: Sequence[Telemetry], by_host: Mapping[str, Target]) -> Observed:
    """What a scope's proxies say; `documents` are those for its workloads, widest first."""
    if not documents and not mesh.default_logs and not mesh.default_spans and not mesh.tracing.enabled:
        return UNOBSERVED
    return Observed(
        client=Side(_logs(mesh, documents, by_host, Mode.CLIENT), _spans(mesh, documents, by_host, Mode.CLIENT)),
        server=Side(_logs(mesh, documents, by_host, Mode.SERVER), _spans(mesh, documents, by_host, Mode.SERVER)),
    )


def _logs(
    mesh: MeshConfig, documents: Sequence[Telemetry], by_host: Mapping[str, Target], mode: Mode
) -> tuple[Log, ...] | None:
    """The logs of one side by the names of their providers. Without any that can be written MeshConfig's accessLogFile
    counts, as in Istio; one that is switched off is an answer."""
    settled = settle_logs(documents, mesh.default_logs, mode)
    found: list[Log] = []
    answered = False
    for name, expression in sorted((settled or {}).items()):
        provider = _provider(mesh, name)
        if provider is None or not provider.kind.logs:
            continue
        cluster = service_cluster(by_host, provider.service, provider.port) if provider.service else ""
        if provider.service and not cluster:
            continue
        answered = True
        if expression is not None:
            found.append(Log(provider, cluster, _host(provider.service), expression))
    return tuple(found) if answered else None


def _spans(mesh: MeshConfig, documents: Sequence[Telemetry], by_host: Mapping[str, Target], mode: Mode) -> Spans | None:
    """The traces of one side; None: it has none."""
    settled = settle_traces(documents, mesh, mode)
    legacy = mesh.tracing
    if settled is None:
        if not legacy.enabled:
            return None
        settled = TraceSettings(istio_tags=legacy.istio_tags)
        return _spans_to(None, settled, mesh)
    provider = _provider(mesh, settled.provider)
    if settled.disabled or provider is None or provider.kind.logs:
        return None
    return _spans_to(provider, settled, mesh, by_host)


def _spans_to(
    provider: Provider | None, settled: TraceSettings, mesh: MeshConfig, by_host: Mapping[str, Target] | None = None
) -> Spans | None:
    cluster = sampler_cluster = sampler_host = ""
    if provider is not None:
        cluster = service_cluster(by_host or {}, provider.service, provider.port)
        if not cluster:
            return None
        if provider.sampler is not None and provider.sampler.service:
            sampler_host = _host(provider.sampler.service)
            sampler_cluster = service_cluster(by_host or {}, provider.sampler.service, provider.sampler.port)
            if not sampler_cluster:
                return None
    legacy = mesh.tracing
    sampling = legacy.sampling or DEFAULT_SAMPLING if settled.sampling is None else settled.sampling
    longest = provider.max_tag_length if provider is not None else 0
    return Spans(
        provider=provider,
        cluster=cluster,
        host=_host(provider.service) if provider is not None else "",
        sampler_cluster=sampler_cluster,
        sampler_host=sampler_host,
        sampling=100.0 if provider is not None and provider.sampler is not None else sampling,
        tags=settled.tags or legacy.tags,
        istio_tags=settled.istio_tags,
        by_request_id=settled.by_request_id if provider is not None else None,
        keep_context=settled.keep_context,
        max_tag_length=longest or legacy.max_tag_length,
    )


def _provider(mesh: MeshConfig, name: str) -> Provider | None:
    return next((item for item in mesh.providers if item.name.lower() == name.lower()), None)


def _host(service: str) -> str:
    """The host of a service that may be written as `namespace/host`."""
    return service.rpartition("/")[2].lower()
