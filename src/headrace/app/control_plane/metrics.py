"""The control plane's own state as metrics in Prometheus' text format: certificates, trust, discovery, readiness.

Read when somebody asks (`GET /metrics`), from what the control plane knows anyway; nothing is counted twice. Where
istiod has a metric of the same meaning its name is used (citadel_*, pilot_*), so that alerts carry over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from headrace.app.control_plane.mesh import Mesh
from headrace.app.control_plane.trust import Expiries, TrustKeeper

_MESH: web.AppKey[CollectorRegistry] = web.AppKey("metrics", CollectorRegistry)
_FORMAT = "text/plain; version=0.0.4; charset=utf-8"


class MeshCollector(Collector):
    """Every metric of one control plane, made anew at each scrape."""

    def __init__(self, mesh: Mesh, trust: TrustKeeper, signed: Mapping[str, int]) -> None:
        """`signed` counts requests for certificates by how they ended: `issued`, or the stage that refused."""
        self._mesh = mesh
        self._trust = trust
        self._signed = signed

    def collect(self) -> Iterable[Metric]:
        yield from self._certificates(self._trust.expiries())
        yield from self._discovery()
        yield from self._readiness()

    def _certificates(self, until: Expiries) -> Iterable[Metric]:
        yield _gauge(
            "citadel_server_root_cert_expiry_timestamp",
            "When the first of the mesh's own roots expires, seconds since the epoch",
            until.root,
        )
        yield _gauge(
            "citadel_server_cert_chain_expiry_timestamp",
            "When the first certificate of the chain that signs expires, seconds since the epoch",
            until.chain,
        )
        yield _gauges(
            "headrace_certificate_expiry_timestamp_seconds",
            "When the certificate that a replica uses expires, seconds since the epoch",
            "replica",
            until.certificates,
        )
        yield _gauges(
            "headrace_revocation_list_expiry_timestamp_seconds",
            "When the newest revocation list of an authority expires, seconds since the epoch",
            "issuer",
            until.lists,
        )
        requests = CounterMetricFamily(
            "headrace_certificate_requests", "Requests for certificates by how they ended", labels=["result"]
        )
        for result, count in sorted(self._signed.items()):
            requests.add_metric([result], count)
        yield requests
        yield CounterMetricFamily(
            "headrace_signing_failures", "Certificates and lists that could not be signed", self._trust.signing_failures
        )
        yield _gauge("headrace_certificates_revoked", "Revoked certificates that have not expired", until.revoked)
        yield _gauge("headrace_identities_revoked", "Identities that get no certificates", until.blocked)
        yield _gauge("headrace_trust_problems", "Lines under problems of `headrace ca list`", until.problems)

    def _discovery(self) -> Iterable[Metric]:
        hub = self._mesh.hub
        statuses = hub.statuses()
        yield _gauge("pilot_xds", "Proxies connected for discovery", len(statuses))
        in_sync = sum(status.in_sync for status in statuses)
        yield _gauge("headrace_proxies_in_sync", "Connected proxies that acknowledged all that was published", in_sync)
        pushes = CounterMetricFamily("pilot_xds_pushes", "Discovery responses by type", labels=["type"])
        for url, count in sorted(hub.counters.by_type.items()):
            pushes.add_metric([url.rpartition(".")[2]], count)
        yield pushes
        yield CounterMetricFamily(
            "pilot_total_xds_rejects", "Discovery responses that a proxy refused", hub.counters.nacks
        )

    def _readiness(self) -> Iterable[Metric]:
        status = self._mesh.status()
        yield _gauge("headrace_ready", "1 where every replica is ready and its proxy acknowledged", status["ready"])
        yield _gauge("headrace_replicas", "Replicas that the documents ask for", status["replicas"])
        yield _gauge("headrace_replicas_ready", "Replicas that are ready", status["ready_replicas"])
        problems = Counter(problem.severity.value for problem in self._mesh.documents.store.revision().problems)
        yield _gauges(
            "headrace_document_problems",
            "Findings about the documents in force by severity",
            "severity",
            {name: float(problems[name]) for name in ("error", "warning", "info")},
        )
        hosts = self._mesh.hosts.hosts.values()
        yield _gauge("headrace_hosts_connected", "Hosts whose agents report", sum(host.connected for host in hosts))
        yield _gauge(
            "headrace_translation_seconds", "How long the last translation took", status["last_translation_ms"] / 1000
        )


def _gauge(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(name, words, float(value))


def _gauges(name: str, words: str, label: str, values: Mapping[str, float]) -> Metric:
    found = GaugeMetricFamily(name, words, labels=[label])
    for key, value in sorted(values.items()):
        found.add_metric([key], value)
    return found


def add_metrics(app: web.Application, collector: Collector) -> None:
    """Serve `GET /metrics`. It names replicas, identities of authorities and counts, and nothing secret."""
    registry = CollectorRegistry()
    registry.register(collector)
    ProcessCollector(registry=registry)
    app[_MESH] = registry
    app.router.add_get("/metrics", _metrics)


async def _metrics(request: web.Request) -> web.Response:
    return web.Response(body=generate_latest(request.app[_MESH]), headers={"content-type": _FORMAT})
