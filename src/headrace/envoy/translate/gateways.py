"""Listeners and route tables of a gateway proxy.

Called by `envoy.translate` for proxies of kind gateway. Clusters and endpoints are those of every visible service, as
for a sidecar.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2

from headrace.envoy.guards import Guard
from headrace.envoy.module_filter import guard_network_filter
from headrace.envoy.resources import LISTENER, ROUTE, XdsResource
from headrace.envoy.translate.gateway_routes import HTTPS_PORT, gateway_route_config
from headrace.envoy.translate.gateway_servers import BoundServer, GatewayPort, merged_ports
from headrace.envoy.translate.guard_filters import http_guards
from headrace.envoy.translate.hcm import Direction, HcmSettings, hcm_filter
from headrace.envoy.translate.inbound import listener_access_logs
from headrace.envoy.translate.inspectors import tls_inspector
from headrace.envoy.translate.memo import Memo, resource_of
from headrace.envoy.translate.messages import duration, socket_address, uint32
from headrace.envoy.translate.tls import gateway_downstream
from headrace.envoy.translate.ways_in import WayIn, way_in
from headrace.envoy.view import ProxyView, Scope
from headrace.model.gateway import ServerTls, ServerTlsMode
from headrace.model.proxy import Proxy

_HANDSHAKE_SECONDS = 15.0
"""A TLS handshake at a gateway must end in this time: half-open connections cost memory (Istio's number)."""


def resources(memo: Memo, view: ProxyView) -> Sequence[XdsResource]:
    """Listeners and routes of the gateway's own Gateway documents (none: an empty sequence)."""
    proxy, scope = view.instance, view.scope
    place = (proxy.bind, proxy.port_map, proxy.fronted, proxy.module)
    guard = view.inbound.guard
    return memo.latest(
        "gateway",
        (scope.key, place, proxy.namespace, proxy.workload),
        (scope, place, guard),
        _build,
        memo,
        scope,
        proxy,
        guard,
    )


def _build(memo: Memo, scope: Scope, proxy: Proxy, guard: Guard) -> tuple[XdsResource, ...]:
    ports = merged_ports(scope.gateways, proxy.bind, proxy.port_map)
    https_port = HTTPS_PORT if proxy.fronted else dict(proxy.port_map).get(HTTPS_PORT, HTTPS_PORT)
    guards = http_guards(guard, scope.mesh, gateway=True)
    native = Native(proxy.module, way_in(memo, scope, proxy.module), guards, guard.names_hosts)
    found: list[XdsResource] = []
    tables: dict[str, list[BoundServer]] = {}
    for port in ports:
        listener = _listener(port, scope, native)
        found.append(resource_of(LISTENER, listener.name, listener))
        for server in port.servers:
            tables.setdefault(server.route_name, []).append(server)
    for name, servers in sorted(tables.items()):
        found.append(resource_of(ROUTE, name, gateway_route_config(memo, scope, name, servers, https_port)))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Native:
    """Whether the proxy has the native module, and whether it is a way into a pool; the filters of its policies."""

    module: bool
    pools: WayIn
    guards: tuple[Any, ...] = ()
    plain_host: bool = False


def _listener(port: GatewayPort, scope: Scope, native: Native) -> Any:
    name = f"{port.bind}_{port.port}"
    if port.tls:
        chains = [_tls_chain(server, name, scope, native) for server in port.servers]
    else:
        chains = [listener_components_pb2.FilterChain(filters=[_http(port.servers[0], name, scope, native)])]
    return listener_pb2.Listener(
        name=name,
        address=socket_address(port.bind, port.port),
        traffic_direction=base_pb2.OUTBOUND,
        listener_filters=[tls_inspector()] if port.tls else [],
        filter_chains=chains,
        max_connections_to_accept_per_socket_event=uint32(1),
        access_log=listener_access_logs(scope.mesh),
    )


def _tls_chain(server: BoundServer, listener: str, scope: Scope, native: Native) -> Any:
    """The chain of one HTTPS server, chosen by SNI."""
    tls = server.server.tls
    if tls is None:
        raise ValueError(f"server {server.route_name} of {server.gateway} has no tls settings")
    chain = listener_components_pb2.FilterChain(
        transport_socket=gateway_downstream(scope.mesh, tls),
        transport_socket_connect_timeout=duration(_HANDSHAKE_SECONDS),
        filters=[*_revocation_guard(tls, scope, native), _http(server, listener, scope, native)],
    )
    if server.sni:
        chain.filter_chain_match.server_names.extend(server.sni)
    return chain


def _revocation_guard(tls: ServerTls, scope: Scope, native: Native) -> list[Any]:
    """What closes connections of revoked clients, where they have certificates of the mesh."""
    mesh_clients = tls.mode is ServerTlsMode.ISTIO_MUTUAL
    return [guard_network_filter()] if mesh_clients and native.module and scope.mesh.guarded else []


def _http(server: BoundServer, listener: str, scope: Scope, native: Native) -> Any:
    return hcm_filter(
        HcmSettings(
            direction=Direction.GATEWAY,
            stat_prefix=(server.server.name if server.server.tls else "") or f"outbound_{listener}",
            mesh=scope.mesh,
            rds=server.route_name,
            module=native.module,
            first=native.guards,
            plain_host=native.plain_host,
            pools=native.pools,
            grpc_web=server.server.protocol.upper() == "GRPC-WEB",
        )
    )
