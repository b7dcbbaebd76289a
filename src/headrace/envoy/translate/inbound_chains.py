"""Filter chains of a server sidecar: which connections a port takes, and what becomes of each.

Called by `inbound` (all ports behind one virtual listener) and `loopback` (a listener for each port). The sets of
chains for each protocol and mutual TLS mode are Istio's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2

from headrace.envoy.guards import OPEN, Guard
from headrace.envoy.module_filter import guard_network_filter
from headrace.envoy.translate.guard_filters import http_guards, network_guards
from headrace.envoy.translate.hcm import Direction, HcmSettings, hcm_filters
from headrace.envoy.translate.messages import boolean, duration, uint32
from headrace.envoy.translate.route_retry import inbound_retry_policy
from headrace.envoy.translate.tcp_proxy import Way, way_filters
from headrace.envoy.translate.tls import CALLERS_ALPN, gateway_downstream, mesh_downstream
from headrace.model.gateway import ServerTls
from headrace.model.mesh import MeshConfig
from headrace.model.security import MtlsMode
from headrace.model.service import Protocol
from headrace.model.traffic import Retries

TLS = "tls"
RAW = "raw_buffer"
SNIFFED_HTTP = ("http/1.1", "h2c")
"""What the HTTP inspector reports of plaintext."""
_MTLS_HTTP = ("istio-http/1.0", "istio-http/1.1", "istio-h2")
_MTLS_TCP = ("istio-peer-exchange", "istio")


@dataclass(frozen=True, slots=True)
class _Kind:
    """One chain of a set: how a connection must look (`transport`, `alpn`), whether the mesh's TLS ends here, and
    whether what is inside is HTTP."""

    http: bool
    mtls: bool
    transport: str = ""
    alpn: tuple[str, ...] = ()


_HTTP_SETS = {
    MtlsMode.STRICT: (_Kind(True, True, TLS),),
    MtlsMode.PERMISSIVE: (_Kind(True, True, TLS, CALLERS_ALPN), _Kind(True, False, RAW)),
    MtlsMode.DISABLE: (_Kind(True, False),),
}
_TCP_SETS = {
    MtlsMode.STRICT: (_Kind(False, True, TLS),),
    MtlsMode.PERMISSIVE: (_Kind(False, True, TLS, CALLERS_ALPN), _Kind(False, False, TLS), _Kind(False, False, RAW)),
    MtlsMode.DISABLE: (_Kind(False, False),),
}
_SNIFFED_SETS = {
    MtlsMode.STRICT: (_Kind(True, True, TLS, _MTLS_HTTP), _Kind(False, True, TLS)),
    MtlsMode.PERMISSIVE: (
        _Kind(True, True, TLS, _MTLS_HTTP),
        _Kind(True, False, RAW, SNIFFED_HTTP),
        _Kind(False, True, TLS, _MTLS_TCP),
        _Kind(False, False, RAW),
        _Kind(False, False, TLS),
    ),
    MtlsMode.DISABLE: (_Kind(True, False, RAW, SNIFFED_HTTP), _Kind(False, False, RAW)),
}


@dataclass(frozen=True, slots=True)
class ChainTarget:
    """Where the connections of one port go. `port` 0: every port without chains of its own. `names` are those of the
    HTTP and the TCP chains; `operation` names the route in traces; `guard` are the policies of the workload; `called`
    is the port that clients know (the service's, 0: none), which names the virtual host as in Istio."""

    cluster: str
    port: int
    protocol: Protocol
    stat_prefix: str
    names: tuple[str, str]
    operation: str
    guard: Guard = OPEN
    called: int = 0


@dataclass(frozen=True, slots=True)
class ChainSettings:
    """What all chains of a proxy share. `address`: the listener's, which names chains as in Istio (`0.0.0.0_8000`)."""

    mesh: MeshConfig
    module: bool = False
    address: str = "0.0.0.0"  # noqa: S104 - the virtual listener's


def chains_for(target: ChainTarget, mode: MtlsMode, settings: ChainSettings) -> list[Any]:
    """The filter chains of one port in one mutual TLS mode, in Istio's order."""
    if target.protocol.is_http:
        kinds = _HTTP_SETS
    elif target.protocol is Protocol.UNDECLARED:
        kinds = _SNIFFED_SETS
    else:
        kinds = _TCP_SETS
    return [_chain(kind, target, settings) for kind in kinds[mode]]


def terminating_chain(target: ChainTarget, tls: ServerTls, settings: ChainSettings) -> Any:
    """The chain of a port whose TLS ends here by a Sidecar's own settings, which needs mutual TLS switched off: what is
    inside HTTPS is HTTP, what is inside TLS bytes."""
    inside = Protocol.HTTP if target.protocol is Protocol.HTTPS else Protocol.TCP
    chain = _chain(_Kind(inside.is_http, False, TLS), replace(target, protocol=inside), settings)
    chain.transport_socket.CopyFrom(gateway_downstream(settings.mesh, tls, tcp=not inside.is_http))
    return chain


def _chain(kind: _Kind, target: ChainTarget, settings: ChainSettings) -> Any:
    match = listener_components_pb2.FilterChainMatch(transport_protocol=kind.transport, application_protocols=kind.alpn)
    if target.port:
        match.destination_port.CopyFrom(uint32(target.port))
    chain = listener_components_pb2.FilterChain(
        name=target.names[0 if kind.http else 1],
        filter_chain_match=match,
        filters=[*revocation_guard(kind.mtls, settings), *_filters(kind.http, kind.mtls, target, settings)],
    )
    if kind.mtls:
        chain.transport_socket.CopyFrom(mesh_downstream(settings.mesh, tcp=not kind.http))
    return chain


def revocation_guard(mtls: bool, settings: ChainSettings) -> list[Any]:
    """What closes connections of revoked clients, where they have certificates of the mesh; first of its chain."""
    return [guard_network_filter()] if mtls and settings.module and settings.mesh.guarded else []


def _filters(http: bool, mtls: bool, target: ChainTarget, settings: ChainSettings) -> list[Any]:
    """The chain's filters, guarded by the workload's policies."""
    if http:
        return _http(target, settings, mtls)
    guards = network_guards(target.guard, settings.mesh)
    return way_filters(Way.to(target.cluster), settings.mesh, guards=guards, server=True, port=target.port)


def _http(target: ChainTarget, settings: ChainSettings, mtls: bool) -> list[Any]:
    return hcm_filters(
        HcmSettings(
            direction=Direction.INBOUND,
            stat_prefix=target.stat_prefix,
            mesh=settings.mesh,
            routes=inbound_routes(target, settings.mesh.traffic.inbound_retries),
            module=settings.module,
            bounded=mtls,
            http2=target.protocol.is_http2,
            first=http_guards(target.guard, settings.mesh),
            plain_host=target.guard.names_hosts,
            grpc_web=target.protocol is Protocol.GRPC_WEB,
            port=target.port,
        )
    )


def inbound_routes(target: ChainTarget, retries: Retries | None = None) -> Any:
    """Everything to the application, without a time limit: limits are the caller's. A request that Envoy had not
    written yet when the connection broke goes again, twice at most, but never for gRPC (Istio's rule); `retries` is
    what the mesh says instead."""
    action = route_components_pb2.RouteAction(
        cluster=target.cluster,
        timeout=duration(0),
        max_stream_duration=route_components_pb2.RouteAction.MaxStreamDuration(
            max_stream_duration=duration(0), grpc_timeout_header_max=duration(0)
        ),
    )
    if target.protocol not in (Protocol.GRPC, Protocol.GRPC_WEB):
        policy = inbound_retry_policy(retries)
        if policy is not None:
            action.retry_policy.CopyFrom(policy)
    route = route_components_pb2.Route(
        name="default",
        match=route_components_pb2.RouteMatch(prefix="/"),
        decorator=route_components_pb2.Decorator(operation=target.operation),
        route=action,
    )
    host = route_components_pb2.VirtualHost(name=f"inbound|http|{target.called}", domains=["*"], routes=[route])
    return route_pb2.RouteConfiguration(name=target.cluster, virtual_hosts=[host], validate_clusters=boolean(False))


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a listener must look at before it can choose a chain: ports whose TLS hello, and whose first bytes, count
    (0: ports without chains of their own); `ports` are all ports with chains."""

    ports: tuple[int, ...]
    tls: frozenset[int]
    http: frozenset[int]


def inspection(chains: Sequence[Any]) -> Inspection:
    """What these chains need inspected."""
    ports = {chain.filter_chain_match.destination_port.value for chain in chains}
    tls = {
        chain.filter_chain_match.destination_port.value
        for chain in chains
        if chain.filter_chain_match.transport_protocol == TLS
    }
    http = {
        chain.filter_chain_match.destination_port.value
        for chain in chains
        if any(word in SNIFFED_HTTP for word in chain.filter_chain_match.application_protocols)
    }
    return Inspection(tuple(sorted(ports)), frozenset(tls), frozenset(http))
