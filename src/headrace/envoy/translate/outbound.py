"""Listeners of a sidecar's outbound side in the transparent shape.

Called by `translate` for sidecars under transparent capture. Redirected connections arrive at `virtualOutbound`
(15001), which hands them to the listener of their original destination: `0.0.0.0_PORT` for HTTP (any address, routed by
name) and TLS (by SNI), `ADDRESS_PORT` for TCP services and for ports without a declared protocol, which are sniffed; a
headless service is found at the addresses of its endpoints. What no listener knows is passed through, or refused under
REGISTRY_ONLY.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from envoy.config.core.v3 import address_pb2, base_pb2
from envoy.config.listener.v3 import listener_components_pb2 as part_pb2
from envoy.config.listener.v3 import listener_pb2

from headrace.envoy.resources import LISTENER, ROUTE, XdsResource
from headrace.envoy.translate.access_log import listener_access_logs
from headrace.envoy.translate.clusters import BLACK_HOLE, PASSTHROUGH
from headrace.envoy.translate.dynamic_dns import forward_filter, forwards, looks_up_unknown
from headrace.envoy.translate.hcm import Direction, HcmSettings, hcm_filters
from headrace.envoy.translate.inbound import VIRTUAL_INBOUND_PORT
from headrace.envoy.translate.inspectors import http_inspector, tls_inspector
from headrace.envoy.translate.l4_routes import L4Chain
from headrace.envoy.translate.memo import Memo, resource_of
from headrace.envoy.translate.messages import boolean, duration, listening_address, socket_address, uint32
from headrace.envoy.translate.outbound_plan import ANY, Opaque, Planned
from headrace.envoy.translate.tcp_proxy import Way, tcp_filter, way_filters
from headrace.envoy.translate.virtual_hosts import (
    PortTable,
    alone,
    any_port_hosts,
    catch_all,
    catch_all_table,
    port_tables,
    route_table,
    table_head,
    virtual_host_bytes,
)
from headrace.envoy.translate.ways_in import WayIn, way_in
from headrace.envoy.view import Outside, ProxyView, Scope
from headrace.model.mesh import MeshConfig, OutboundMode

VIRTUAL_OUTBOUND = "virtualOutbound"
VIRTUAL_OUTBOUND_PORT = 15001
_HTTP_WORDS = ("http/1.1", "h2c")


@dataclass(frozen=True, slots=True)
class Native:
    """What the connection managers of a scope have: the native module, a way into pools, names that are looked up."""

    module: bool
    pools: WayIn
    forwards: bool


def resources(memo: Memo, view: ProxyView, planned: tuple[Planned, ...]) -> Sequence[XdsResource]:
    """All outbound listeners, the same for every proxy of the scope with or without the module."""
    scope, module = view.scope, view.instance.module
    native = Native(module, way_in(memo, scope, module), forwards(memo, scope))
    key = (scope.mesh, scope.outside, planned, native)
    return memo.latest("outbound listeners", (scope.key, module), key, _build, memo, scope, planned, native)


def _build(memo: Memo, scope: Scope, planned: tuple[Planned, ...], native: Native) -> tuple[XdsResource, ...]:
    mesh, outside = scope.mesh, scope.outside
    key = (mesh, outside, native.module)
    found = [memo.get("virtual outbound", key, _virtual_outbound, *key)]
    for item in planned:
        if item.address == ANY and item.port in (VIRTUAL_OUTBOUND_PORT, VIRTUAL_INBOUND_PORT):
            continue  # those addresses are the virtual listeners' own, and Envoy takes none twice
        parts = (mesh, outside, native, item)
        found.append(memo.get("outbound listener", parts, _listener, *parts))
    return tuple(found)


def route_tables(memo: Memo, scope: Scope, planned: Sequence[Planned]) -> tuple[XdsResource, ...]:
    """The route tables that the listeners read, each once."""
    parts = {part.key.listener: part for part in scope.through or (scope,)}
    found: dict[str, XdsResource] = {}
    for item in planned:
        part = parts[item.scope]
        for name in item.tables:
            table = _route_table(memo, part, name)
            if table is not None:
                found.setdefault(name, table)
    return tuple(found.values())


def _route_table(memo: Memo, scope: Scope, name: str) -> XdsResource | None:
    """A table by its name: `PORT`, `HOST:PORT` of a service that is alone behind its listener, or that of a listener
    whose clients name the port themselves."""
    tables = port_tables(memo, scope)
    if scope.listener.http_proxy or scope.listener.is_unix:
        return memo.latest("any port table", (scope.key, name), (scope.outside, tables), _any_port, scope, name, tables)
    if name.isdecimal():
        hosts = next((table.hosts for table in tables if table.port == int(name)), ())
        return route_table(memo, scope, name, hosts)
    part = next((part for table in tables for part in table.hosts if part.name == name), None)
    return alone(memo, scope, part) if part is not None else None


def _any_port(scope: Scope, name: str, tables: Sequence[PortTable]) -> XdsResource:
    unknown = virtual_host_bytes(catch_all(scope))
    return XdsResource.of(ROUTE, name, table_head(name, any_port=False) + any_port_hosts(tables) + unknown)


def _virtual_outbound(mesh: MeshConfig, outside: Outside, module: bool) -> XdsResource:
    """The listener that the kernel's redirection leads to; nobody may connect to its own port."""
    loop = part_pb2.FilterChain(name="virtualOutbound-blackhole", filters=[tcp_filter(Way.to(BLACK_HOLE), mesh)])
    loop.filter_chain_match.destination_port.value = VIRTUAL_OUTBOUND_PORT
    rest = part_pb2.FilterChain(name="virtualOutbound-catchall-tcp", filters=[_unknown(mesh, outside)])
    looked_up = [_looked_up(mesh, outside, module)] if looks_up_unknown(outside) else []
    listener = listener_pb2.Listener(
        name=VIRTUAL_OUTBOUND,
        address=socket_address(ANY, VIRTUAL_OUTBOUND_PORT),
        use_original_dst=boolean(True),
        traffic_direction=base_pb2.OUTBOUND,
        filter_chains=[loop, *looked_up, rest],
        access_log=listener_access_logs(mesh),
    )
    if looked_up:
        listener.listener_filters.append(http_inspector())
        listener.continue_on_listener_filters_timeout = True
        listener.listener_filters_timeout.CopyFrom(duration(mesh.protocol_detection_timeout))
    return resource_of(LISTENER, VIRTUAL_OUTBOUND, listener)


def _looked_up(mesh: MeshConfig, outside: Outside, module: bool) -> Any:
    """Clear-text HTTP to ports of nobody: to what its host is looked up as (ALLOW_ANY_DYNAMIC_DNS)."""
    name = "virtualOutbound-catchall-tcp-http"
    settings = HcmSettings(
        direction=Direction.OUTBOUND,
        stat_prefix=f"outbound_{VIRTUAL_OUTBOUND}",
        mesh=mesh,
        routes=catch_all_table(outside),
        module=module,
        first=(forward_filter(),),
    )
    chain = part_pb2.FilterChain(name=name, filters=hcm_filters(settings))
    chain.filter_chain_match.application_protocols.extend(_HTTP_WORDS)
    return chain


def _listener(mesh: MeshConfig, outside: Outside, native: Native, planned: Planned) -> XdsResource:
    settings = HcmSettings(
        direction=Direction.OUTBOUND,
        stat_prefix=f"outbound_{planned.name}",
        mesh=mesh,
        rds=planned.http,
        module=native.module,
        first=(forward_filter(),) if native.forwards else (),
        pools=native.pools,
        port=planned.port,
    )
    chains: list[Any] = []
    default = part_pb2.FilterChain(name="PassthroughFilterChain", filters=[_unknown(mesh, outside)])
    for item in planned.opaque:
        if item.chain.takes_all:
            default = _opaque_chain(item.chain, settings)
        else:
            chains += _chosen_chains(item, settings)
    if planned.plain:
        default = part_pb2.FilterChain(filters=hcm_filters(settings))
    elif planned.http:
        chains.append(_http_chain(settings))
    listener = listener_pb2.Listener(
        name=planned.name,
        address=listening_address(planned.address, planned.port),
        traffic_direction=base_pb2.OUTBOUND,
        filter_chains=chains or [default],
        access_log=listener_access_logs(mesh),
    )
    if planned.bound:
        listener.max_connections_to_accept_per_socket_event.value = 1
    else:
        listener.bind_to_port.value = False
    sniffs = bool(planned.http) and not planned.plain
    if chains:
        listener.default_filter_chain.CopyFrom(default)
        listener.continue_on_listener_filters_timeout = True
        listener.listener_filters_timeout.CopyFrom(duration(mesh.protocol_detection_timeout if sniffs else 0))
    # An inspector waits for the client's first bytes, which never come where the server speaks first.
    if any(item.chain.sni for item in planned.opaque):
        listener.listener_filters.append(tls_inspector())
    if sniffs:
        listener.listener_filters.append(http_inspector())
    return resource_of(LISTENER, planned.name, listener)


def _chosen_chains(item: Opaque, settings: HcmSettings) -> list[Any]:
    """The chains of what is chosen by SNI or address. Envoy looks at the address before the protocol and never goes
    back, so that HTTP to a block has a chain with the block too, and clear text that is no HTTP another."""
    chain = _opaque_chain(item.chain, settings)
    chain.filter_chain_match.server_names.extend(item.chain.sni)
    chain.filter_chain_match.prefix_ranges.extend(_range(block) for block in item.chain.blocks)
    if not item.routes:
        return [chain]
    http = _http_chain(replace(settings, rds=item.routes))
    http.filter_chain_match.prefix_ranges.extend(chain.filter_chain_match.prefix_ranges)
    clear = part_pb2.FilterChain.FromString(chain.SerializeToString())
    clear.filter_chain_match.transport_protocol = "raw_buffer"
    return [http, clear, chain]


def _range(block: str) -> Any:
    network = ipaddress.ip_network(block)
    return address_pb2.CidrRange(address_prefix=str(network.network_address), prefix_len=uint32(network.prefixlen))


def _http_chain(settings: HcmSettings) -> Any:
    """Clear-text HTTP; what an application encrypts by itself is passed through."""
    chain = part_pb2.FilterChain(filters=hcm_filters(settings))
    chain.filter_chain_match.transport_protocol = "raw_buffer"
    chain.filter_chain_match.application_protocols.extend(_HTTP_WORDS)
    return chain


def _unknown(mesh: MeshConfig, outside: Outside) -> Any:
    """What happens to connections to nobody that the mesh knows."""
    allowed = outside.mode is not OutboundMode.REGISTRY_ONLY
    return tcp_filter(Way.to(outside.proxy or PASSTHROUGH if allowed else BLACK_HOLE), mesh)


def _opaque_chain(chain: L4Chain, settings: HcmSettings) -> Any:
    """TCP to a service, which ends when its server is revoked."""
    found = part_pb2.FilterChain(
        filters=way_filters(chain.way, settings.mesh, revocable=settings.module, port=settings.port)
    )
    if chain.document:
        found.metadata.filter_metadata["istio"]["config"] = chain.document
    return found
