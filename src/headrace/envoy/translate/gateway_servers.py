"""Which servers a gateway proxy really runs: the servers of all its Gateway documents, merged per port.

Called by `gateways` (listeners) and `gateway_routes`. Istio's rules: HTTP servers of one port share a listener and a
route table; TLS servers of one port share a listener, with a filter chain each, told apart by SNI; a server that
conflicts with an older one (the other protocol on the port, or a host that another server of the port has) is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headrace.model.gateway import Gateway, Server, ServerTlsMode
from headrace.model.service import Protocol

_TERMINATING = (
    ServerTlsMode.SIMPLE,
    ServerTlsMode.MUTUAL,
    ServerTlsMode.OPTIONAL_MUTUAL,
    ServerTlsMode.ISTIO_MUTUAL,
)
_HTTP = {Protocol.HTTP.value, Protocol.HTTP2.value, Protocol.GRPC.value, "GRPC-WEB"}

Hosts = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, eq=False)
class BoundServer:
    """One server of a Gateway: `gateway` is `namespace/name`, `hosts` with namespaces resolved ('*': any)."""

    gateway: str
    server: Server
    hosts: Hosts
    route_name: str

    @property
    def sni(self) -> tuple[str, ...]:
        """The names of its filter chain, sorted; empty: every name."""
        names = sorted({name for _, name in self.hosts})
        return () if "*" in names else tuple(names)


@dataclass(frozen=True, slots=True, eq=False)
class GatewayPort:
    """One listener: `port` is the port really bound, `tls` whether its servers terminate TLS."""

    bind: str
    port: int
    tls: bool
    servers: tuple[BoundServer, ...]


def merged_ports(gateways: Sequence[Gateway], bind: str, port_map: Iterable[tuple[int, int]]) -> list[GatewayPort]:
    """The listeners of a gateway proxy, sorted by port and address; `gateways` are ordered oldest first.

    Servers that are neither HTTP nor HTTPS with TLS termination are not translated (`check` says so).
    """
    bound = dict(port_map)
    ports: dict[tuple[int, str], list[BoundServer]] = {}
    for gateway in gateways:
        for server in gateway.servers:
            if not (is_http(server) or _terminates_tls(server)):
                continue
            port = bound.get(server.port, server.port)
            candidate = _bound_server(gateway, server, port)
            held = ports.setdefault((port, server.bind or bind), [])
            if all(_fits(candidate, other) for other in held):
                held.append(candidate)
    return [
        GatewayPort(address, port, not is_http(servers[0].server), tuple(servers))
        for (port, address), servers in sorted(ports.items())
    ]


def is_http(server: Server) -> bool:
    """Whether a server speaks clear-text HTTP (only there `httpsRedirect` has a meaning)."""
    return server.protocol.upper() in _HTTP


def _terminates_tls(server: Server) -> bool:
    return server.protocol.upper() == "HTTPS" and server.tls is not None and server.tls.mode in _TERMINATING


def _bound_server(gateway: Gateway, server: Server, port: int) -> BoundServer:
    namespace = gateway.meta.namespace
    hosts = tuple((namespace if part == "." else part, name.lower()) for part, name in server.hosts)
    at = f".{server.bind}" if server.bind else ""
    if is_http(server):
        route_name = f"http.{port}{at}"
    else:
        route_name = f"https.{server.port}.{server.port_name}.{gateway.meta.name}.{namespace}{at}"
    return BoundServer(f"{namespace}/{gateway.meta.name}", server, hosts, route_name)


def _fits(candidate: BoundServer, other: BoundServer) -> bool:
    """Whether two servers can share a port."""
    if is_http(candidate.server) != is_http(other.server):
        return False
    if is_http(candidate.server):
        return True
    # Names decide, without their namespaces: Envoy refuses two filter chains for one name.
    names = {name for _, name in candidate.hosts} & {name for _, name in other.hosts}
    return candidate.route_name != other.route_name and not names


def intersection(server: Hosts, hosts: Sequence[str], namespace: str) -> list[str]:
    """The names under which a VirtualService of `namespace` with `hosts` is served by a server: of each pair that
    overlaps the narrower one, in order."""
    found: dict[str, None] = {}
    for part, name in server:
        if part not in ("*", namespace):
            continue
        for host in hosts:
            if _covers(host, name):
                found[name] = None
            elif _covers(name, host):
                found[host] = None
    return list(found)


def _covers(pattern: str, host: str) -> bool:
    """Whether every name that `host` (maybe a wildcard) stands for is covered by `pattern`."""
    if pattern in ("*", host):
        return True
    return pattern.startswith("*") and host.removeprefix("*").endswith(pattern[1:])
