"""Listeners of a sidecar's outbound side in the transparent shape.

Called by `translate` for sidecars under transparent capture. Redirected connections arrive at `virtualOutbound`
(15001), which hands them to the listener of their original destination: `0.0.0.0_PORT` for HTTP (any address, routed by
name) and TLS (by SNI), `ADDRESS_PORT` for TCP services and for ports without a declared protocol, which are sniffed; a
headless service is found at the addresses of its endpoints. What no listener knows is passed through, or refused under
REGISTRY_ONLY.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from envoy.config.core.v3 import address_pb2, base_pb2
from envoy.config.listener.v3 import listener_components_pb2 as part_pb2
from envoy.config.listener.v3 import listener_pb2

from headrace.envoy.resources import LISTENER, XdsResource
from headrace.envoy.translate.clusters import BLACK_HOLE, PASSTHROUGH
from headrace.envoy.translate.endpoints import is_address, taking_requests
from headrace.envoy.translate.hcm import Direction, HcmSettings, hcm_filter
from headrace.envoy.translate.inbound import VIRTUAL_INBOUND_PORT, listener_access_logs
from headrace.envoy.translate.inspectors import http_inspector, tls_inspector
from headrace.envoy.translate.l4_routes import (
    BY_SNI,
    L4Chain,
    L4Rules,
    l4_caller,
    l4_services,
    sidecar_chains,
    without_taken,
)
from headrace.envoy.translate.memo import Memo, resource_of
from headrace.envoy.translate.messages import boolean, duration, socket_address, uint32
from headrace.envoy.translate.tcp_proxy import Way, tcp_filter, way_filters
from headrace.envoy.translate.virtual_hosts import PortTable
from headrace.envoy.translate.ways_in import WayIn, way_in
from headrace.envoy.view import ProxyView, Scope, Target
from headrace.model.mesh import MeshConfig, OutboundMode
from headrace.model.service import Protocol, ServicePort
from headrace.model.traffic import VirtualService

VIRTUAL_OUTBOUND = "virtualOutbound"
VIRTUAL_OUTBOUND_PORT = 15001
ANY = "0.0.0.0"  # noqa: S104 - the listeners bind no port, they only take what virtualOutbound hands over
_HTTP_WORDS = ("http/1.1", "h2c")


@dataclass(frozen=True, slots=True)
class Opaque:
    """Connections whose bytes are passed on as they are; `routes`: what looks like HTTP goes through that table."""

    chain: L4Chain
    routes: str = ""


@dataclass(slots=True)
class Plan:
    """What one listener will hold, while it is gathered. `table` names the route table of its HTTP; `taken` is what
    its chains have (`l4_routes.without_taken`)."""

    table: str = ""
    opaque: list[Opaque] = field(default_factory=list)
    taken: set[tuple[str, str]] = field(default_factory=set)

    def add(self, chains: Iterable[L4Chain], routes: str) -> None:
        """Add chains, of which only what no earlier one has remains."""
        for chain in chains:
            self.opaque += [Opaque(found, routes) for found in without_taken(chain, self.taken)]


_Instances = tuple[tuple[tuple[str, str, int], tuple[str, ...]], ...]
"""Addresses of headless services' endpoints by service and port."""


def resources(memo: Memo, view: ProxyView, tables: Sequence[PortTable]) -> Sequence[XdsResource]:
    """All outbound listeners, the same for every proxy of the scope with or without the module; `tables` are those of
    `shared_tables`."""
    scope, module = view.scope, view.instance.module
    ports = tuple(table.port for table in tables)
    instances = tuple(_instances(view))
    rules = memo.latest("l4 services", scope.key, scope.virtual_services, l4_services, scope.virtual_services)
    key = (scope.mesh, scope.targets, rules, ports, instances)
    return memo.latest(
        "outbound listeners", (scope.key, module), key, _build, memo, scope, (rules, ports, instances), module
    )


def shared_tables(scope: Scope, tables: Sequence[PortTable]) -> tuple[PortTable, ...]:
    """The tables that listeners on any address read: those with a host that has no listener of its own."""
    own = {f"{target.service.host}:{port}" for target, port in sniffed_tables(scope)}
    return tuple(table for table in tables if any(part.name not in own for part in table.hosts))


def sniffed_tables(scope: Scope) -> Iterable[tuple[Target, int]]:
    """Services and ports that need a route table of their own: without a declared protocol, at own addresses."""
    for target in scope.targets:
        if target.service.headless or _addresses(target):
            for port in target.service.ports:
                if port.protocol is Protocol.UNDECLARED:
                    yield target, port.number


def headless_targets(targets: Iterable[Target]) -> tuple[Target, ...]:
    """Those that connections reach at their endpoints' addresses, which decide the listeners."""
    return tuple(
        target
        for target in targets
        if target.service.headless and not all(port.protocol.is_http for port in target.service.ports)
    )


def _instances(view: ProxyView) -> Iterable[tuple[tuple[str, str, int], tuple[str, ...]]]:
    for target in headless_targets(view.scope.targets):
        for port in target.service.ports:
            ready = taking_requests(view.endpoints_of(target))
            found = {item.address for item in ready if item.service_port == port.number}
            yield (*target.key, port.number), tuple(sorted(filter(is_address, found)))


def _build(
    memo: Memo, scope: Scope, parts: tuple[tuple[VirtualService, ...], tuple[int, ...], _Instances], module: bool
) -> tuple[XdsResource, ...]:
    """`parts`: VirtualServices with rules for connections, ports with a route table, where headless services are."""
    virtual_services, ports, instances = parts
    rules = L4Rules(virtual_services)
    plans: dict[tuple[str, int], Plan] = {(ANY, port): Plan(table=str(port)) for port in ports}
    known = dict(instances)
    for target in sorted(scope.targets, key=lambda item: item.service.meta.age()):
        for port in target.service.ports:
            headless = known.get((*target.key, port.number), ())
            addresses = headless if target.service.headless else _addresses(target)
            _plan_port(plans, target, port, addresses, (rules, scope))
    mesh = scope.mesh
    pools = way_in(memo, scope, module)
    found = [memo.get("virtual outbound", mesh, _virtual_outbound, mesh)]
    for (address, number), plan in sorted(plans.items()):
        if address == ANY and number in (VIRTUAL_OUTBOUND_PORT, VIRTUAL_INBOUND_PORT):
            continue  # those addresses are the virtual listeners' own, and Envoy takes none twice
        key = (mesh, (module, pools), address, number, plan.table, tuple(plan.opaque))
        found.append(memo.get("outbound listener", key, _listener, *key))
    return tuple(found)


def _plan_port(
    plans: dict[tuple[str, int], Plan],
    target: Target,
    port: ServicePort,
    addresses: tuple[str, ...],
    known: tuple[L4Rules, Scope],
) -> None:
    """Plan the listeners of a port that is no HTTP; called oldest service first, which has what several ask for."""
    service = target.service
    if port.protocol.is_http or port.protocol is Protocol.UDP:
        return
    rules, scope = known
    caller = l4_caller(scope, port.number)
    sniffed = port.protocol is Protocol.UNDECLARED
    if addresses:
        chains = sidecar_chains(rules, caller, target, port, (), ())
        for address in addresses:
            routes = f"{service.host}:{port.number}" if sniffed else ""
            plans.setdefault((address, port.number), Plan()).add(chains, routes)
    if addresses or service.headless:
        return
    plan = plans.setdefault((ANY, port.number), Plan())
    blocks = _blocks(target)
    sni = (service.host,) if port.protocol in BY_SNI else ()
    chains = sidecar_chains(rules, caller, target, port, blocks, sni)
    plan.add(chains, plan.table if sniffed else "")


def _addresses(target: Target) -> tuple[str, ...]:
    """The service's own addresses; a block of addresses is a filter chain of the listener on any address."""
    return tuple(address for address in target.service.addresses if "/" not in address)


def _blocks(target: Target) -> tuple[str, ...]:
    """The service's blocks of addresses without their insignificant bits, each once."""
    blocks = (address for address in target.service.addresses if "/" in address)
    return tuple(dict.fromkeys(str(ipaddress.ip_network(block, strict=False)) for block in blocks))


def _virtual_outbound(mesh: MeshConfig) -> XdsResource:
    """The listener that the kernel's redirection leads to; nobody may connect to its own port."""
    loop = part_pb2.FilterChain(name="virtualOutbound-blackhole", filters=[tcp_filter(Way.to(BLACK_HOLE), mesh)])
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
    mesh: MeshConfig, native: tuple[bool, WayIn], address: str, port: int, table: str, opaque: tuple[Opaque, ...]
) -> XdsResource:
    """`native`: whether the proxy has the native module, and whether it is a way into a pool."""
    module, pools = native
    name = f"{address}_{port}"
    prefix = f"outbound_{name}"
    chains: list[Any] = []
    default = part_pb2.FilterChain(name="PassthroughFilterChain", filters=[_unknown(mesh)])
    for item in opaque:
        if item.chain.takes_all:
            default = _opaque_chain(item.chain, mesh, module)
            table = item.routes or table
        else:
            settings = HcmSettings(Direction.OUTBOUND, prefix, mesh, rds=item.routes, module=module, pools=pools)
            chains += _chosen_chains(item, settings)
    if table:
        settings = HcmSettings(Direction.OUTBOUND, prefix, mesh, rds=table, module=module, pools=pools)
        chains.append(_http_chain(settings))
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
        listener.continue_on_listener_filters_timeout = True
        listener.listener_filters_timeout.CopyFrom(duration(mesh.protocol_detection_timeout if table else 0))
    # An inspector waits for the client's first bytes, which never come where the server speaks first.
    if any(item.chain.sni for item in opaque):
        listener.listener_filters.append(tls_inspector())
    if table:
        listener.listener_filters.append(http_inspector())
    return resource_of(LISTENER, name, listener)


def _chosen_chains(item: Opaque, settings: HcmSettings) -> list[Any]:
    """The chains of what is chosen by SNI or address. Envoy looks at the address before the protocol, so that HTTP to a
    block has a chain with the block too."""
    chain = _opaque_chain(item.chain, settings.mesh, settings.module)
    chain.filter_chain_match.server_names.extend(item.chain.sni)
    chain.filter_chain_match.prefix_ranges.extend(_range(block) for block in item.chain.blocks)
    if not item.routes:
        return [chain]
    http = _http_chain(settings)
    http.filter_chain_match.prefix_ranges.extend(chain.filter_chain_match.prefix_ranges)
    return [http, chain]


def _range(block: str) -> Any:
    network = ipaddress.ip_network(block)
    return address_pb2.CidrRange(address_prefix=str(network.network_address), prefix_len=uint32(network.prefixlen))


def _http_chain(settings: HcmSettings) -> Any:
    """Clear-text HTTP; what an application encrypts by itself is passed through."""
    chain = part_pb2.FilterChain(filters=[hcm_filter(settings)])
    chain.filter_chain_match.transport_protocol = "raw_buffer"
    chain.filter_chain_match.application_protocols.extend(_HTTP_WORDS)
    return chain


def _unknown(mesh: MeshConfig) -> Any:
    """What happens to connections to nobody that the mesh knows."""
    return tcp_filter(Way.to(PASSTHROUGH if mesh.outbound_mode is OutboundMode.ALLOW_ANY else BLACK_HOLE), mesh)


def _opaque_chain(chain: L4Chain, mesh: MeshConfig, module: bool) -> Any:
    """TCP to a service, which ends when its server is revoked."""
    found = part_pb2.FilterChain(filters=way_filters(chain.way, mesh, revocable=module))
    if chain.document:
        found.metadata.filter_metadata["istio"]["config"] = chain.document
    return found
