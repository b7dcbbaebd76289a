"""Where a cluster's requests go: endpoints, and how a connection to one of them is made.

Called by `app.trace`. Rules: envoy.config.cluster.v3.Cluster (transport_socket_matches, the first whose labels the
endpoint's metadata has).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.envoy.trace.proxy import Resources
from headrace.envoy.trace.request import Data, Tls
from headrace.envoy.trace.routes import document

_MATCH = "envoy.transport_socket_match"


@dataclass(frozen=True, slots=True)
class Wrap:
    """How connections to an endpoint are wrapped."""

    tls: Tls = Tls.PLAIN
    sni: str = ""
    alpn: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint of a cluster: lower `priority` first; `workload` as the endpoint's metadata has it."""

    address: str
    port: int
    health: str
    priority: int
    weight: int
    workload: str
    wrap: Wrap

    @property
    def is_ready(self) -> bool:
        return self.health in ("UNKNOWN", "HEALTHY", "DEGRADED")


@dataclass(frozen=True, slots=True)
class Place:
    """A cluster: its kind (EDS, STRICT_DNS, ORIGINAL_DST, ...), endpoints (first priority first), and the document
    whose policy it carries. `original`: requests go to the address that the client meant."""

    name: str
    kind: str
    endpoints: tuple[Endpoint, ...]
    document: str
    original: bool
    wrap: Wrap


def place_of(resources: Resources, cluster: str) -> Place | None:
    """The cluster of that name; None where the proxy has none."""
    found = next((item for item in resources["clusters"] if item["name"] == cluster), None)
    if found is None:
        return None
    kind = found.get("type") or found.get("cluster_type", {}).get("name", "STATIC")
    wrap = _wrap(found.get("transport_socket"))
    assignment = found.get("load_assignment", {})
    if kind == "EDS":
        name = found.get("eds_cluster_config", {}).get("service_name") or cluster
        assignment = next((item for item in resources["endpoints"] if item["cluster_name"] == name), {})
    endpoints = tuple(
        _endpoint(item, group, found)
        for group in sorted(assignment.get("endpoints", []), key=lambda item: item.get("priority", 0))
        for item in group.get("lb_endpoints", [])
    )
    return Place(cluster, kind, endpoints, document(found), kind == "ORIGINAL_DST", wrap)


def _endpoint(item: Data, group: Data, cluster: Data) -> Endpoint:
    socket = item.get("endpoint", {}).get("address", {}).get("socket_address", {})
    known: Mapping[str, Any] = item.get("metadata", {}).get("filter_metadata", {})
    return Endpoint(
        address=socket.get("address", ""),
        port=socket.get("port_value", 0),
        health=item.get("health_status", "UNKNOWN"),
        priority=group.get("priority", 0),
        weight=item.get("load_balancing_weight", 1),
        workload=known.get("istio", {}).get("workload", ""),
        wrap=_wrap_for(known.get(_MATCH, {}), cluster),
    )


def _wrap_for(labels: Mapping[str, Any], cluster: Data) -> Wrap:
    matches: Sequence[Data] = cluster.get("transport_socket_matches", [])
    for item in matches:
        wanted = item.get("match", {})
        if all(labels.get(name) == value for name, value in wanted.items()):
            return _wrap(item.get("transport_socket"))
    return _wrap(cluster.get("transport_socket"))


def _wrap(socket: Data | None) -> Wrap:
    context = (socket or {}).get("typed_config", {})
    common = context.get("common_tls_context")
    if common is None:
        return Wrap()
    mesh = bool(common.get("tls_certificate_sds_secret_configs") or common.get("tls_certificates"))
    return Wrap(Tls.MESH if mesh else Tls.SIMPLE, context.get("sni", ""), tuple(common.get("alpn_protocols", ())))
