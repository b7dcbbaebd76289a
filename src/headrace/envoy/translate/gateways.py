"""Listeners and route tables of a gateway proxy.

Called by `envoy.translate` for proxies of kind gateway. Clusters and endpoints are those of every visible service, as
for a sidecar; `sni_dnat` adds those of AUTO_PASSTHROUGH.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from envoy.config.core.v3 import address_pb2, base_pb2
from envoy.config.listener.v3 import listener_pb2

from headrace.envoy.guards import Guard
from headrace.envoy.resources import LISTENER, ROUTE, XdsResource
from headrace.envoy.translate.access_log import listener_access_logs
from headrace.envoy.translate.gateway_chains import ChainParts, listener_chains
from headrace.envoy.translate.gateway_routes import HTTPS_PORT, gateway_route_config
from headrace.envoy.translate.gateway_servers import BoundServer, GatewayPort, merged_ports
from headrace.envoy.translate.guard_filters import http_guards, network_guards
from headrace.envoy.translate.inspectors import proxy_protocol, tls_inspector
from headrace.envoy.translate.memo import Memo, resource_of
from headrace.envoy.translate.messages import socket_address, uint32
from headrace.envoy.translate.ways_in import way_in
from headrace.envoy.view import ProxyView, Scope
from headrace.model.gateway import UNIX
from headrace.model.proxy import Proxy

_OWNER_ONLY = 0o600
"""Who may connect to a socket that a server binds: the gateway's own user, as with every socket of Headrace."""


def resources(memo: Memo, view: ProxyView) -> Sequence[XdsResource]:
    """Listeners and routes of the gateway's own Gateway documents (none: an empty sequence)."""
    proxy, scope = view.instance, view.scope
    place = (proxy.bind, proxy.port_map, proxy.behind, proxy.module, proxy.topology)
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
    ports = merged_ports(scope.gateways, proxy.bind, proxy.port_map, proxy.behind)
    https_port = HTTPS_PORT if proxy.fronted else dict(proxy.port_map).get(HTTPS_PORT, HTTPS_PORT)
    parts = ChainParts(
        scope=scope,
        module=proxy.module,
        pools=way_in(memo, scope, proxy.module),
        http_guards=http_guards(guard, scope.mesh, gateway=True),
        network_guards=network_guards(guard, scope.mesh),
        plain_host=guard.names_hosts,
        topology=proxy.topology or scope.mesh.gateway_topology,
    )
    found: list[XdsResource] = []
    tables: dict[str, list[BoundServer]] = {}
    for port in ports:
        listener = _listener(port, parts)
        if listener is None:
            continue
        found.append(resource_of(LISTENER, listener.name, listener))
        for server in port.servers:
            if server.route_name:
                tables.setdefault(server.route_name, []).append(server)
    for name, servers in sorted(tables.items()):
        found.append(resource_of(ROUTE, name, gateway_route_config(memo, scope, name, servers, https_port)))
    return tuple(found)


def _listener(port: GatewayPort, parts: ChainParts) -> Any | None:
    """The listener of a port; None where no rule leads anywhere from it (Istio opens no port then)."""
    name = f"{port.bind}_{port.port}"
    chains = listener_chains(port, name, parts)
    if not chains:
        return None
    looks = any(chain.HasField("transport_socket") or chain.filter_chain_match.server_names for chain in chains)
    told = parts.topology.proxy_protocol
    return listener_pb2.Listener(
        name=name,
        address=_address(port),
        traffic_direction=base_pb2.OUTBOUND,
        listener_filters=[*([proxy_protocol()] if told else []), *([tls_inspector()] if looks else [])],
        filter_chains=chains,
        max_connections_to_accept_per_socket_event=uint32(1),
        access_log=listener_access_logs(parts.scope.mesh),
    )


def _address(port: GatewayPort) -> Any:
    if not port.bind.startswith(UNIX):
        return socket_address(port.bind, port.port)
    path = port.bind.removeprefix(UNIX)
    # An abstract socket has no file, and so no mode: Envoy refuses one.
    mode = 0 if path.startswith("@") else _OWNER_ONLY
    return address_pb2.Address(pipe=address_pb2.Pipe(path=path, mode=mode))
