"""Listeners of a sidecar's outbound side in the transparent shape.

Called by `translate` for sidecars under transparent capture. Redirected connections arrive at `virtualOutbound`
(15001), which hands them to the listener of their original destination: `0.0.0.0_PORT` for HTTP (any address, routed by
name) and TLS (by SNI), `ADDRESS_PORT` for TCP services and for ports without a declared protocol, which are sniffed.
What no listener knows is passed through, or refused under REGISTRY_ONLY.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_components_pb2 as part_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2

from headrace.envoy.resources import LISTENER, XdsResource
from headrace.envoy.translate.clusters import BLACK_HOLE, PASSTHROUGH
from headrace.envoy.translate.hcm import Direction, HcmSettings, access_logs, hcm_filter
from headrace.envoy.translate.inbound import listener_access_logs
from headrace.envoy.translate.inspectors import http_inspector, tls_inspector
from headrace.envoy.translate.memo import Memo, resource_of
from headrace.envoy.translate.messages import boolean, duration, packed, socket_address
from headrace.envoy.translate.virtual_hosts import PortTable
from headrace.envoy.view import ProxyView, Scope, Target
from headrace.model.mesh import MeshConfig, OutboundMode
from headrace.model.names import outbound_cluster
from headrace.model.service import Protocol, Resolution, ServicePort

VIRTUAL_OUTBOUND = "virtualOutbound"
VIRTUAL_OUTBOUND_PORT = 15001
ANY = "0.0.0.0"  # noqa: S104 - the listeners bind no port, they only take what virtualOutbound hands over
_HTTP_WORDS = ("http/1.1", "h2c")
_BY_SNI = (Protocol.TLS, Protocol.HTTPS)


@dataclass(frozen=True, slots=True)
class Opaque:
    """A port of a service whose bytes are passed on as they are. `hosts` not empty: chosen by SNI; `sniffed`: what
    looks like HTTP goes through the service's own route table."""

    cluster: str
    hosts: tuple[str, ...] = ()
    routes: str = ""


@dataclass(slots=True)
class Plan:
    """What one listener will hold, while it is gathered. `table` names the route table of its HTTP."""

    table: str = ""
    opaque: list[Opaque] = field(default_factory=list)


def resources(memo: Memo, view: ProxyView, tables: Sequence[PortTable]) -> Sequence[XdsResource]:
    """All outbound listeners, the same for every proxy of the scope with or without the module."""
    scope, module = view.scope, view.instance.module
    ports = tuple(table.port for table in tables)
    key = (scope.mesh, scope.targets, ports)
    return memo.latest("outbound listeners", (scope.key, module), key, _build, memo, scope, ports, module)


def sniffed_tables(scope: Scope) -> Iterable[tuple[Target, int]]:
    """Services and ports that need a route table of their own: without a declared protocol, at an own address."""
    for target in scope.targets:
        if _addresses(target):
            for port in target.service.ports:
                if port.protocol is Protocol.UNDECLARED:
                    yield target, port.number


def _build(memo: Memo, scope: Scope, ports: tuple[int, ...], module: bool) -> tuple[XdsResource, ...]:
    plans: dict[tuple[str, int], Plan] = {(ANY, port): Plan(table=str(port)) for port in ports}
    for target in scope.targets:
        for port in target.service.ports:
            _plan_port(plans, target, port)
    mesh = scope.mesh
    found = [memo.get("virtual outbound", mesh, _virtual_outbound, mesh)]
    for (address, number), plan in sorted(plans.items()):
        key = (mesh, module, address, number, plan.table, tuple(plan.opaque))
        found.append(memo.get("outbound listener", key, _listener, *key))
    return tuple(found)


def _plan_port(plans: dict[tuple[str, int], Plan], target: Target, port: ServicePort) -> None:
    service = target.service
    if port.protocol.is_http or port.protocol is Protocol.UDP:
        return
    cluster = outbound_cluster(port.number, "", service.host)
    addresses = _addresses(target)
    for address in addresses:
        routes = f"{service.host}:{port.number}" if port.protocol is Protocol.UNDECLARED else ""
        plan = plans.setdefault((address, port.number), Plan())
        if not plan.opaque:  # the first service of an address has it
            plan.opaque.append(Opaque(cluster, (), routes))
    if addresses or port.protocol is Protocol.UNDECLARED:
        return
    if port.protocol in _BY_SNI:
        plan = plans.setdefault((ANY, port.number), Plan())
        plan.opaque.append(Opaque(cluster, (service.host,)))
    elif service.resolution is not Resolution.NONE or service.external:
        plan = plans.setdefault((ANY, port.number), Plan())
        if not any(not item.hosts for item in plan.opaque):  # without an address only one service can have a port
            plan.opaque.append(Opaque(cluster))


def _addresses(target: Target) -> tuple[str, ...]:
    """The service's own addresses; blocks of addresses have no listener of their own here."""
    return tuple(address for address in target.service.addresses if "/" not in address)


def _virtual_outbound(mesh: MeshConfig) -> XdsResource:
    """The listener that the kernel's redirection leads to; nobody may connect to its own port."""
    loop = part_pb2.FilterChain(name="virtualOutbound-blackhole", filters=[_tcp(BLACK_HOLE, BLACK_HOLE, mesh)])
    loop.filter_chain_match.destination_port.value = VIRTUAL_OUTBOUND_PORT
    rest = part_pb2.FilterChain(name="virtualOutbound-catchall-tcp", filters=[_unknown(mesh)])
    listener = listener_pb2.Listener(
        name=VIRTUAL_OUTBOUND,
        address=socket_address(ANY, VIRTUAL_OUTBOUND_PORT),
        use_original_dst=boolean(True),
        traffic_direction=base_pb2.OUTBOUND,
        filter_chains=[loop, rest],
        access_log=listener_access_logs(mesh),
    )
    return resource_of(LISTENER, VIRTUAL_OUTBOUND, listener)


def _listener(
    mesh: MeshConfig, module: bool, address: str, port: int, table: str, opaque: tuple[Opaque, ...]
) -> XdsResource:
    name = f"{address}_{port}"
    chains: list[Any] = []
    default = part_pb2.FilterChain(name="PassthroughFilterChain", filters=[_unknown(mesh)])
    for item in opaque:
        if item.hosts:
            chain = part_pb2.FilterChain(filters=[_tcp(item.cluster, item.cluster, mesh)])
            chain.filter_chain_match.server_names.extend(item.hosts)
            chains.append(chain)
        else:
            default = part_pb2.FilterChain(filters=[_tcp(item.cluster, item.cluster, mesh)])
            table = item.routes or table
    if table:
        chains.append(_http_chain(HcmSettings(Direction.OUTBOUND, f"outbound_{name}", mesh, rds=table, module=module)))
    listener = listener_pb2.Listener(
        name=name,
        address=socket_address(address, port),
        bind_to_port=boolean(False),
        traffic_direction=base_pb2.OUTBOUND,
        filter_chains=chains or [default],
        access_log=listener_access_logs(mesh),
    )
    if chains:
        listener.default_filter_chain.CopyFrom(default)
        listener.listener_filters.append(tls_inspector())
        if table:
            listener.listener_filters.append(http_inspector())
        listener.continue_on_listener_filters_timeout = True
        listener.listener_filters_timeout.CopyFrom(duration(mesh.protocol_detection_timeout))
    return resource_of(LISTENER, name, listener)


def _http_chain(settings: HcmSettings) -> Any:
    """Clear-text HTTP; what an application encrypts by itself is passed through."""
    chain = part_pb2.FilterChain(filters=[hcm_filter(settings)])
    chain.filter_chain_match.transport_protocol = "raw_buffer"
    chain.filter_chain_match.application_protocols.extend(_HTTP_WORDS)
    return chain


def _unknown(mesh: MeshConfig) -> Any:
    """What happens to connections to nobody that the mesh knows."""
    cluster = PASSTHROUGH if mesh.outbound_mode is OutboundMode.ALLOW_ANY else BLACK_HOLE
    return _tcp(cluster, cluster, mesh)


def _tcp(cluster: str, stat_prefix: str, mesh: MeshConfig) -> Any:
    proxy = tcp_proxy_pb2.TcpProxy(stat_prefix=stat_prefix, cluster=cluster, access_log=access_logs(mesh))
    return part_pb2.Filter(name="envoy.filters.network.tcp_proxy", typed_config=packed(proxy))
