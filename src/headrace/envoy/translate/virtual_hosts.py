"""Virtual hosts and route tables of a sidecar: which names are answered on which port.

Called by `translate` (one RouteConfiguration a port) and by `loopback`, which derives its one proxy table from the
same parts. A table is put together from the serialised bytes of its virtual hosts, so that a change of one of a
thousand costs one translation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from envoy.config.route.v3 import route_components_pb2, route_pb2

from headrace.envoy.resources import ROUTE, XdsResource
from headrace.envoy.translate.claims import Claims, claims_of
from headrace.envoy.translate.domains import host_domains, service_domains
from headrace.envoy.translate.dynamic_dns import ALLOW_ANY_DYNAMIC_DNS, looks_up_unknown
from headrace.envoy.translate.memo import Memo
from headrace.envoy.translate.messages import boolean, duration, serialized, uint32
from headrace.envoy.translate.overflow import overflow_host
from headrace.envoy.translate.routes import Caller, caller_of, default_routes, routes_for
from headrace.envoy.view import Outside, Scope, Target
from headrace.envoy.visibility import wildcard_covers
from headrace.model.mesh import MeshConfig, OutboundMode
from headrace.model.names import MESH_GATEWAY
from headrace.model.service import Protocol
from headrace.model.traffic import VirtualService

_PLAIN_HTTP = 80
"""The one port on which a VirtualService also speaks for hosts that are no services (Istio's rule)."""
_LARGEST_DIRECT_RESPONSE = 1024 * 1024
"""Bytes; Envoy's default is 4 KiB."""


@dataclass(frozen=True, slots=True, eq=False)
class HostPart:
    """One virtual host: `name` (`host:port`), `domains`, and `rest`: a serialised VirtualHost without those two; `host`
    is its full name, `data` a serialised RouteConfiguration that holds only this virtual host.

    Messages concatenate in the wire format, so a virtual host under other domains costs no translation.
    """

    name: str
    host: str
    domains: tuple[str, ...]
    rest: bytes
    data: bytes


@dataclass(frozen=True, slots=True, eq=False)
class PortTable:
    """All virtual hosts of one outbound port, sorted by name, without the catch-all."""

    port: int
    hosts: tuple[HostPart, ...]


def virtual_host_bytes(part: HostPart, domains: tuple[str, ...] | None = None, name: str = "") -> bytes:
    """A serialised RouteConfiguration that holds only this virtual host (append it to another one's bytes); `domains`
    and `name` in place of the part's own."""
    if domains is None and not name:
        return part.data
    return _host_bytes(name or part.name, part.domains if domains is None else domains, part.rest)


def port_tables(memo: Memo, scope: Scope) -> tuple[PortTable, ...]:
    """The route tables of a sidecar's outbound HTTP ports, sorted by port; unchanged tables are the same objects."""
    return memo.latest("port tables", scope.key, scope, _tables, memo, scope)


def every_table(memo: Memo, scope: Scope) -> tuple[PortTable, ...]:
    """The tables of all egress listeners of a Sidecar together, for a proxy that has one listener: of two for one port
    the first."""
    if not scope.through:
        return port_tables(memo, scope)
    found: dict[int, PortTable] = {}
    for part in scope.through:
        only = 0 if part.listener.http_proxy else part.listener.port
        for table in port_tables(memo, part):
            if only in (0, table.port):
                found.setdefault(table.port, table)
    return tuple(found[port] for port in sorted(found))


def catch_all_table(outside: Outside) -> Any:
    """The catch-all virtual host alone, as a route table that stands inside a listener."""
    name = _catch_all(outside).name
    return route_pb2.RouteConfiguration.FromString(table_head(name) + _catch_all(outside).data)


def catch_all(scope: Scope) -> HostPart:
    """The virtual host of unknown names: `allow_any` to PassthroughCluster (or to the one that takes it) or `block_all`
    with 502."""
    return _catch_all(scope.outside)


def route_table(memo: Memo, scope: Scope, name: str, parts: Sequence[HostPart]) -> XdsResource:
    """The RouteConfiguration `name` of these virtual hosts and the catch-all."""
    unknown = memo.get("catch-all host", scope.outside, _catch_all, scope.outside)
    hosts = (*parts, unknown)
    return memo.latest("route table", (scope.key, name), hosts, _route_table, name, hosts)


def alone(memo: Memo, scope: Scope, part: HostPart) -> XdsResource:
    """The RouteConfiguration of a listener that serves one service only: every name is that service's."""
    name = part.name
    return memo.latest("route table", (scope.key, name), part, _alone, name, part)


def table_head(name: str, *, any_port: bool = True) -> bytes:
    """A serialised RouteConfiguration without virtual hosts, to be continued with `virtual_host_bytes`. `any_port`: the
    port that a client writes into the host does not count."""
    return serialized(
        route_pb2.RouteConfiguration(
            name=name,
            validate_clusters=boolean(False),
            max_direct_response_body_size_bytes=uint32(_LARGEST_DIRECT_RESPONSE),
            ignore_port_in_host_matching=any_port,
        )
    )


def any_port_hosts(tables: Sequence[PortTable]) -> bytes:
    """All ports' virtual hosts in one table, serialised. A client that speaks to a proxy names the port in the host,
    except 80, so that every domain gets its port."""
    body = b""
    taken: set[str] = set()
    for table in tables:
        for part in table.hosts:
            domains = [name for name in with_port(part.domains, table.port) if name not in taken]
            taken.update(domains)
            if domains:
                body += virtual_host_bytes(part, tuple(domains))
    return body


def with_port(domains: Sequence[str], port: int) -> list[str]:
    """`chat` → `chat:8000`; for port 80 also `chat`."""
    found: dict[str, None] = {}
    for domain in domains:
        if domain.rpartition(":")[2].isdigit() and (domain.count(":") == 1 or "]:" in domain):
            found[domain] = None
            continue
        found[f"{domain}:{port}"] = None
        if port == _PLAIN_HTTP:
            found[domain] = None
    return list(found)


def _route_table(name: str, hosts: Sequence[HostPart]) -> XdsResource:
    return XdsResource.of(ROUTE, name, table_head(name) + b"".join(part.data for part in hosts))


def _alone(name: str, part: HostPart) -> XdsResource:
    return XdsResource.of(ROUTE, name, table_head(name) + virtual_host_bytes(part, ("*",)))


def _host_bytes(name: str, domains: tuple[str, ...], rest: bytes) -> bytes:
    host = serialized(route_components_pb2.VirtualHost(name=name, domains=domains)) + rest
    return b"\x12" + _varint(len(host)) + host  # field 2 of RouteConfiguration, length-delimited


def _varint(value: int) -> bytes:
    """A length as protobuf writes it: seven bits a byte, the lowest first."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _rest(routes: Sequence[Any]) -> bytes:
    return serialized(route_components_pb2.VirtualHost(routes=routes, include_request_attempt_count=True))


def _part(host: str, port: int, domains: tuple[str, ...], rest: bytes) -> HostPart:
    name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return HostPart(name, host, domains, rest, _host_bytes(name, domains, rest))


def _catch_all(outside: Outside) -> HostPart:
    route = route_components_pb2.Route(match=route_components_pb2.RouteMatch(prefix="/"))
    if outside.mode is not OutboundMode.REGISTRY_ONLY:
        dynamic = looks_up_unknown(outside)
        route.name = "allow_any_dynamic_dns" if dynamic else "allow_any"
        direct = ALLOW_ANY_DYNAMIC_DNS if dynamic else "PassthroughCluster"
        route.route.cluster = outside.proxy or direct
        route.route.timeout.CopyFrom(duration(0))
        route.route.max_grpc_timeout.CopyFrom(duration(0))
    else:
        route.name = "block_all"
        route.direct_response.status = 502
    rest = _rest([route])
    return HostPart(route.name, "*", ("*",), rest, _host_bytes(route.name, ("*",), rest))


def _tables(memo: Memo, scope: Scope) -> tuple[PortTable, ...]:
    claims = memo.latest("claims", scope.key, scope.virtual_services, claims_of, scope.virtual_services)
    by_port = memo.latest("http ports", scope.key, scope.targets, _by_port, scope.targets)
    tables = []
    for port in sorted({*by_port, _PLAIN_HTTP}):
        targets = by_port.get(port, {})
        parts = _port_parts(memo, scope, port, targets, claims)
        if parts:
            key = tuple(parts)
            tables.append(memo.latest("port table", (scope.key, port), key, PortTable, port, key))
    return tuple(tables)


def _by_port(targets: Sequence[Target]) -> dict[int, dict[str, Target]]:
    """Services by port and host, of the ports that carry HTTP or may (undeclared)."""
    found: dict[int, dict[str, Target]] = {}
    for target in targets:
        for port in target.service.ports:
            if port.protocol.is_http or port.protocol is Protocol.UNDECLARED:
                found.setdefault(port.number, {})[target.service.host] = target
    return found


_Spoken = tuple[tuple[VirtualService, ...], HostPart]
"""What was found for a host: the claims that it was found for, and the part."""


def _port_parts(memo: Memo, scope: Scope, port: int, targets: Mapping[str, Target], claims: Claims) -> list[HostPart]:
    """The virtual hosts of one port. While services stay the same, a host is looked at again only where other
    VirtualServices claim it than the last time."""
    known: dict[str, _Spoken] = memo.latest("hosts of a port", (scope.key, port), (scope.mesh, scope.targets), dict)
    parts: list[HostPart] = []
    claiming: dict[VirtualService, None] = {}
    for host, target in targets.items():
        claimed = claims.of(host)
        found = known.get(host)
        if found is None or found[0] != claimed:
            found = known[host] = (claimed, _spoken(memo, scope, port, target, claimed))
        parts.append(found[1])
        claiming.update(dict.fromkeys(claimed))
    parts += _other_hosts(memo, scope, port, targets, claiming)
    parts.sort(key=lambda part: part.name)
    return _without_duplicates(memo, parts)


def _spoken(memo: Memo, scope: Scope, port: int, target: Target, claimed: Sequence[VirtualService]) -> HostPart:
    """A service's virtual host, by the first VirtualService that has a route for this caller, else the default."""
    rest = b""
    for item in claimed:
        rest = _claimed_rest(memo, scope, item, port)
        if rest:
            break
    rest = rest or _default_rest(memo, scope, target, port)
    key = (target.service, scope.namespace, port, rest)
    slot = (*target.key, scope.namespace, port)
    return memo.latest("virtual host", slot, key, _service_part, *key)


def _service_part(service: Any, namespace: str, port: int, rest: bytes) -> HostPart:
    return _part(service.host, port, service_domains(service, namespace), rest)


def _claimed_rest(memo: Memo, scope: Scope, item: VirtualService, port: int) -> bytes:
    """The routes that a VirtualService makes for this caller (empty: none)."""
    caller = caller_of(memo, scope, item, port, MESH_GATEWAY)
    return memo.latest("virtual host routes", caller.slot(item), (item, caller), _rest_of_routes, memo, item, caller)


def _rest_of_routes(memo: Memo, item: VirtualService, caller: Caller) -> bytes:
    routes = routes_for(memo, item, caller)
    return _rest(routes) if routes else b""


def _default_rest(memo: Memo, scope: Scope, target: Target, port: int) -> bytes:
    key = (scope.mesh, target, port, scope.by_host.get(overflow_host(target)))
    return memo.latest("default routes", (*target.slot, port), key, _build_default, *key)


def _build_default(mesh: MeshConfig, target: Target, port: int, beside: Target | None) -> bytes:
    others = {beside.service.host: beside} if beside is not None else {}
    return _rest(default_routes(mesh, target, port, others))


def _other_hosts(
    memo: Memo,
    scope: Scope,
    port: int,
    targets: Mapping[str, Target],
    claiming: Mapping[VirtualService, None],
) -> list[HostPart]:
    """Virtual hosts for names that are no service on this port: those of every VirtualService that claims a service
    here (also where an older one speaks for that), and on port 80 those of any."""
    candidates = [item for item in scope.virtual_services if port == _PLAIN_HTTP or item in claiming]
    parts: list[HostPart] = []
    taken: set[str] = set()
    for item in candidates:
        for host in item.hosts:
            if host in targets or host in taken or (item not in claiming and host in scope.by_host):
                continue
            if host.startswith("*") and any(wildcard_covers(host, name) for name in targets):
                continue
            rest = _claimed_rest(memo, scope, item, port)
            if rest:
                taken.add(host)
                key = (host, port, rest)
                slot = (scope.key, host, port)
                parts.append(memo.latest("virtual host", slot, key, _other_part, *key))
    return parts


def _other_part(host: str, port: int, rest: bytes) -> HostPart:
    return _part(host, port, host_domains(host), rest)


def _without_duplicates(memo: Memo, parts: list[HostPart]) -> list[HostPart]:
    """The parts with every domain only once (Envoy refuses the table otherwise): a full name belongs to its own host,
    any other domain to the first part that has it."""
    if len(set().union(*(part.domains for part in parts))) == sum(len(part.domains) for part in parts):
        return parts
    full = {part.host for part in parts}
    seen: set[str] = set()
    kept: list[HostPart] = []
    for part in parts:
        own = tuple(
            domain for domain in part.domains if domain not in seen and (domain == part.host or domain not in full)
        )
        seen.update(own)
        if own == part.domains:
            kept.append(part)
        elif own:
            kept.append(memo.get("virtual host", (part, own), _renamed, part, own))
    return kept


def _renamed(part: HostPart, domains: tuple[str, ...]) -> HostPart:
    return HostPart(part.name, part.host, domains, part.rest, _host_bytes(part.name, domains, part.rest))
