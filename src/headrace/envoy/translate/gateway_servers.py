"""Which servers a gateway proxy really runs: the servers of all its Gateway documents, merged per port.

Called by `gateways` (listeners) and `gateway_routes`. Istio's rules, in the order of age:
- Clear-text HTTP servers of one port and address share a filter chain and a route table.
- Servers with TLS share the port, with filter chains told apart by SNI; a clear-text server that comes after them has
  the chain for what is no TLS.
- Left out is a server whose port and address have an older clear-text server of another protocol, and one with TLS
  settings that names a host that an older one of the port and address has.
- Addresses (`bind`) keep servers of one port apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.model.gateway import Gateway, Server
from headrace.model.proxy import PortPairs, ServicesBefore
from headrace.model.service import Protocol

_HTTP = {Protocol.HTTP.value, Protocol.HTTP2.value, Protocol.GRPC.value, "GRPC-WEB"}

Hosts = tuple[tuple[str, str], ...]
_Door = tuple[int, str, str]
"""Port really bound, protocol, address as written: what Istio keeps servers by."""


@dataclass(frozen=True, slots=True, eq=False)
class BoundServer:
    """One server of a Gateway: `gateway` is `namespace/name`, `hosts` with namespaces resolved ('*': any); `route_name`
    is empty where what it carries is not HTTP."""

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
    """One listener: `port` is the port really bound. `groups`: servers of one protocol each, in the order in which the
    first of each came; those of clear-text HTTP are one filter chain, all others have their own."""

    bind: str
    port: int
    groups: tuple[tuple[BoundServer, ...], ...]

    @property
    def servers(self) -> tuple[BoundServer, ...]:
        """All servers of the listener."""
        return tuple(server for group in self.groups for server in group)


def merged_ports(
    gateways: Sequence[Gateway], bind: str, port_map: PortPairs, behind: ServicesBefore = ()
) -> list[GatewayPort]:
    """The listeners of a gateway proxy, sorted by port and address; `gateways` are ordered oldest first. `port_map` and
    `behind` are the proxy's: a Gateway for a selector listens where the port leads to, else on the port itself; one for
    Services on each port that these make of it, maybe on none."""
    bound = dict(port_map)
    merge = _Merge()
    for gateway in gateways:
        leads = [dict(ports) for service, ports in behind if service in gateway.before]
        for server in gateway.servers:
            ports = {bound.get(server.port, server.port)}
            if gateway.services and (leads or gateway.proxy is None):
                ports = {to[server.port] for to in leads if server.port in to}
            for port in sorted(ports):
                merge.add(_bound_server(gateway, server, port), port)
    listeners: dict[tuple[int, str], list[tuple[BoundServer, ...]]] = {}
    for (port, _, address), servers in merge.groups.items():
        listeners.setdefault((port, address or bind), []).append(tuple(servers))
    return [GatewayPort(address, port, tuple(groups)) for (port, address), groups in sorted(listeners.items())]


class _Merge:
    """Servers put together, one after the other."""

    def __init__(self) -> None:
        self.groups: dict[_Door, list[BoundServer]] = {}
        self._plain: dict[int, _Door] = {}
        self._ports: set[int] = set()
        self._routes: set[str] = set()
        self._names: dict[int, dict[tuple[str, str], str]] = {}

    def add(self, candidate: BoundServer, port: int) -> None:
        """Take the server in, or leave it out where it conflicts."""
        server = candidate.server
        if server.tls is not None and not self._claim_names(candidate, port):
            return
        door = (port, server.protocol.upper(), server.bind)
        if port not in self._ports:
            self._ports.add(port)
            self._open(door, candidate)
        elif port in self._plain:
            self._beside(self._plain[port], door, candidate)
        elif not _is_tls(server):
            self._open(door, candidate)
        elif not candidate.route_name or candidate.route_name not in self._routes:
            self._routes.add(candidate.route_name)
            self.groups.setdefault(door, []).append(candidate)

    def _claim_names(self, candidate: BoundServer, port: int) -> bool:
        """Whether no other server with TLS settings of the port and address has one of its hosts; it has them now. A
        host of one namespace is another than the same host of all (Istio)."""
        known = self._names.setdefault(port, {})
        bind = candidate.server.bind
        if any(known.get(host) == bind for host in candidate.hosts):
            return False
        known.update(dict.fromkeys(candidate.hosts, bind))
        return True

    def _beside(self, current: _Door, door: _Door, candidate: BoundServer) -> None:
        """Add to a port that has a clear-text server."""
        if current[2] != door[2]:
            if door in self.groups:
                self.groups[door].append(candidate)
            else:
                self._open(door, candidate)
        elif is_http(candidate.server) and current[1] in _HTTP:
            self.groups[current].append(candidate)

    def _open(self, door: _Door, candidate: BoundServer) -> None:
        if not _is_tls(candidate.server):
            self._plain[door[0]] = door
        self._routes.add(candidate.route_name)
        self.groups[door] = [candidate]


def is_http(server: Server) -> bool:
    """Whether a server speaks clear-text HTTP (only there `httpsRedirect` has a meaning)."""
    return server.protocol.upper() in _HTTP


def _is_tls(server: Server) -> bool:
    """Whether a server has TLS settings that are more than the redirection of clear-text HTTP."""
    return server.tls is not None and not is_http(server)


def _bound_server(gateway: Gateway, server: Server, port: int) -> BoundServer:
    namespace = gateway.meta.namespace
    hosts = tuple((namespace if part == "." else part, name.lower()) for part, name in server.hosts)
    at = f".{server.bind}" if server.bind else ""
    route_name = ""
    if is_http(server):
        route_name = f"http.{port}{at}"
    elif server.protocol.upper() == Protocol.HTTPS.value and server.tls is not None and server.tls.terminates:
        route_name = f"https.{server.port}.{server.port_name}.{gateway.meta.name}.{namespace}{at}"
    return BoundServer(f"{namespace}/{gateway.meta.name}", server, hosts, route_name)


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
