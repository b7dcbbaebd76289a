"""Filter chains of a gateway's listener: which connections a server takes, and what becomes of them.

Called by `gateways`. HTTP, in the clear or behind TLS that ends here, gets a connection manager; everything else a TCP
proxy: to where a VirtualService's `tcp` rule says, by SNI to where its `tls` rule says (PASSTHROUGH), or to the service
that the SNI itself names (AUTO_PASSTHROUGH, `sni_dnat`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from envoy.config.listener.v3 import listener_components_pb2

from headrace.envoy.module_filter import guard_network_filter
from headrace.envoy.translate.gateway_servers import BoundServer, GatewayPort, intersection, is_http
from headrace.envoy.translate.hcm import Direction, HcmSettings, hcm_filters
from headrace.envoy.translate.l4_routes import gateway_tcp_way, gateway_tls_chains, l4_caller
from headrace.envoy.translate.messages import duration
from headrace.envoy.translate.sni_dnat import dnat_ways
from headrace.envoy.translate.tcp_proxy import Way, way_filters
from headrace.envoy.translate.tls import CALLERS_ALPN, gateway_downstream
from headrace.envoy.translate.ways_in import WayIn
from headrace.envoy.view import Scope
from headrace.model.gateway import ServerTls, ServerTlsMode
from headrace.model.mesh import GatewayTopology
from headrace.model.traffic import VirtualService

_HANDSHAKE_SECONDS = 15.0
"""A TLS handshake at a gateway must end in this time: half-open connections cost memory (Istio's number)."""


@dataclass(frozen=True, slots=True)
class ChainParts:
    """What all chains of a proxy share: what it sees, whether it has the native module, whether it is a way into a
    pool, the filters of its policies, and what stands before it."""

    scope: Scope
    module: bool
    pools: WayIn
    topology: GatewayTopology
    http_guards: tuple[Any, ...] = ()
    network_guards: tuple[Any, ...] = ()
    plain_host: bool = False


def listener_chains(port: GatewayPort, listener: str, parts: ChainParts) -> list[Any]:
    """The filter chains of one listener, without those that Envoy would refuse because earlier ones take all that they
    would take."""
    chains: list[Any] = []
    passed_on: set[tuple[str, str]] = set()
    for group in port.groups:
        if is_http(group[0].server):
            chains.append(listener_components_pb2.FilterChain(filters=_http(group[0], listener, parts)))
            continue
        for server in group:
            chains += _server_chains(server, listener, parts, passed_on)
    return list(_without_overlap(chains))


def _without_overlap(chains: Iterable[Any]) -> Iterator[Any]:
    """The chains, each without the names that one before it has; none that has nothing left."""
    taken: set[tuple[str, str]] = set()
    for chain in chains:
        match = chain.filter_chain_match
        words = tuple(match.application_protocols) or ("",)
        free = [
            name for name in (tuple(match.server_names) or ("",)) if not any((name, word) in taken for word in words)
        ]
        if not free:
            continue
        taken.update((name, word) for name in free for word in words)
        if len(free) < len(match.server_names):
            del match.server_names[:]
            match.server_names.extend(free)
        yield chain


def _server_chains(
    server: BoundServer, listener: str, parts: ChainParts, passed_on: set[tuple[str, str]]
) -> Iterator[Any]:
    """The chains of one server that is not clear-text HTTP. `passed_on`: the names that PASSTHROUGH servers of the
    listener have."""
    tls = server.server.tls
    if tls is not None and server.route_name:
        yield _terminating(server, tls, [*_revocation_guard(tls, parts), *_http(server, listener, parts)], parts)
    elif tls is None or tls.terminates:
        way = _tcp_way(server, parts)
        if way is None:
            return
        filters = _tcp(way, tls, parts)
        if tls is None:
            yield listener_components_pb2.FilterChain(filters=filters)
        else:
            yield _terminating(server, tls, filters, parts)
    elif tls.mode is ServerTlsMode.AUTO_PASSTHROUGH:
        for name, way in dnat_ways(parts.scope, [host for _, host in server.hosts]):
            # Only what callers of the mesh offer: the gateway cannot see who they are (Istio).
            yield _matching((name,), way_filters(way, parts.scope.mesh), CALLERS_ALPN)
    else:
        caller = l4_caller(parts.scope, server.server.port, server.gateway)
        for chain in gateway_tls_chains(_bound(server, parts), caller, passed_on):
            yield _matching(chain.sni, _tcp(chain.way, None, parts))


def _tcp_way(server: BoundServer, parts: ChainParts) -> Way | None:
    """Where a server's connections go: by the first VirtualService that says so. The `tls` rules of one that is made of
    a TLSRoute hold also where TLS ends at the gateway (Istio: only theirs)."""
    caller = l4_caller(parts.scope, server.server.port, server.gateway)
    for item in _bound(server, parts):
        way = gateway_tcp_way([item], caller)
        if way is not None:
            return way
        if server.server.tls is not None and item.made_of_tls_route:
            for chain in gateway_tls_chains([item], caller, set()):
                return chain.way
    return None


def _bound(server: BoundServer, parts: ChainParts) -> list[VirtualService]:
    """The VirtualServices of the server's Gateway that have a host of it."""
    return [
        item
        for item in parts.scope.gateway_virtual_services.get(server.gateway, ())
        if intersection(server.hosts, item.hosts, item.meta.namespace)
    ]


def _terminating(server: BoundServer, tls: ServerTls, filters: list[Any], parts: ChainParts) -> Any:
    """A chain in which TLS ends, chosen by SNI."""
    chain = listener_components_pb2.FilterChain(
        transport_socket=gateway_downstream(parts.scope.mesh, tls, tcp=not server.route_name),
        transport_socket_connect_timeout=duration(_HANDSHAKE_SECONDS),
        filters=filters,
    )
    if server.sni:
        chain.filter_chain_match.server_names.extend(server.sni)
    return chain


def _matching(names: tuple[str, ...], filters: list[Any], words: tuple[str, ...] = ()) -> Any:
    """A chain for these SNI names ('*' or none: any) and ALPN words; the bytes stay as they are."""
    chain = listener_components_pb2.FilterChain(filters=filters)
    if names and "*" not in names:
        chain.filter_chain_match.server_names.extend(sorted(names))
    chain.filter_chain_match.application_protocols.extend(words)
    return chain


def _tcp(way: Way, tls: ServerTls | None, parts: ChainParts) -> list[Any]:
    """The filters of what is not HTTP, guarded by the gateway's policies."""
    revocable = tls is not None and _shows_mesh_certificates(tls) and parts.module
    return way_filters(way, parts.scope.mesh, guards=parts.network_guards, revocable=revocable)


def _shows_mesh_certificates(tls: ServerTls) -> bool:
    return tls.mode is ServerTlsMode.ISTIO_MUTUAL


def _revocation_guard(tls: ServerTls, parts: ChainParts) -> list[Any]:
    """What closes connections of revoked clients, where they have certificates of the mesh."""
    guarded = _shows_mesh_certificates(tls) and parts.module and parts.scope.mesh.guarded
    return [guard_network_filter()] if guarded else []


def _http(server: BoundServer, listener: str, parts: ChainParts) -> list[Any]:
    return hcm_filters(
        HcmSettings(
            direction=Direction.GATEWAY,
            stat_prefix=(server.server.name if server.server.tls else "") or f"outbound_{listener}",
            mesh=parts.scope.mesh,
            rds=server.route_name,
            module=parts.module,
            first=parts.http_guards,
            plain_host=parts.plain_host,
            topology=parts.topology,
            pools=parts.pools,
            grpc_web=server.server.protocol.upper() == "GRPC-WEB",
            port=server.server.port,
        )
    )
