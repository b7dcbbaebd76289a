"""Which listeners a sidecar's outbound side has, and what each of them tells apart: planned before anything is built.

Called by `translate`, once for the listeners (`outbound`) and the routes of a scope. Rules (Istio): HTTP is listened
for on any address of its port and told apart by name; everything else at the service's own addresses, a headless
service at those of its endpoints, and only where there is none on any address, told apart by SNI or by blocks of
addresses. What meets at one address and port is merged: HTTP and bytes together are told apart by looking at the first
bytes, of two that take the same connections the older service has them. MySQL and Mongo meet nobody, because their
servers speak first. Listeners that a Sidecar names come first, and nothing is added to them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from headrace.envoy.translate.domains import names_of
from headrace.envoy.translate.endpoints import is_address, taking_requests
from headrace.envoy.translate.l4_routes import (
    BY_SNI,
    L4Chain,
    L4Rules,
    l4_caller,
    l4_services,
    service_way,
    sidecar_chains,
    without_taken,
)
from headrace.envoy.translate.memo import Memo
from headrace.envoy.translate.sidecar_ingress import LOOPBACK
from headrace.envoy.view import ProxyView, Scope, Target
from headrace.model.service import Protocol, ServicePort
from headrace.model.sidecar import EgressListener

ANY = "0.0.0.0"  # noqa: S104 - most listeners bind no port, they only take what virtualOutbound hands over
_SERVER_FIRST = (Protocol.MYSQL, Protocol.MONGO)


@dataclass(frozen=True, slots=True)
class Opaque:
    """Connections whose bytes are passed on as they are; `routes`: what looks like HTTP goes through that table."""

    chain: L4Chain
    routes: str = ""


@dataclass(frozen=True, slots=True)
class Planned:
    """One listener. `address` is an IP address or `unix://PATH` (with port 0); `http` names the route table of its HTTP
    ('' : none), which is all that it takes where `plain`; `bound`: the application connects to it by itself. `scope` is
    the place of the egress listener that it belongs to (-1: the scope has no listeners of its own)."""

    address: str
    port: int
    http: str = ""
    plain: bool = False
    opaque: tuple[Opaque, ...] = ()
    bound: bool = False
    scope: int = -1

    @property
    def name(self) -> str:
        """As Istio calls it."""
        return f"{self.address}_{self.port}"

    @property
    def tables(self) -> Iterator[str]:
        """The route tables that it reads."""
        yield from dict.fromkeys(name for name in (self.http, *(item.routes for item in self.opaque)) if name)


@dataclass(slots=True)
class _Plan:
    """One listener while it is gathered. `protocol` is that of the port that opened it, UNDECLARED where HTTP and bytes
    meet; `taken` is what its chains have; `locked`: nothing more is added."""

    scope: int
    bound: bool
    protocol: Protocol
    http: str = ""
    plain: bool = False
    opaque: list[Opaque] = field(default_factory=list)
    taken: set[tuple[str, str]] = field(default_factory=set)
    locked: bool = False

    def avoids(self, protocol: Protocol) -> bool:
        """Whether a port of that protocol may not be added."""
        return protocol is not self.protocol and (protocol in _SERVER_FIRST or self.protocol in _SERVER_FIRST)

    def add(self, chains: Iterable[L4Chain], routes: str) -> None:
        """Add chains, of which only what no earlier one has remains; `routes`: a table for the HTTP among blocks."""
        for chain in chains:
            for found in without_taken(chain, self.taken):
                self.opaque.append(Opaque(found, routes if found.blocks else ""))


_Instances = tuple[tuple[tuple[str, str, int], tuple[str, ...]], ...]
"""Addresses of headless services' endpoints by service and port."""


def plan(memo: Memo, view: ProxyView) -> tuple[Planned, ...]:
    """The outbound listeners of all proxies of a scope, sorted by address and port; the same as long as they are."""
    scope = view.scope
    parts = scope.through or (scope,)
    rules = tuple(
        memo.latest("l4 services", part.key, part.virtual_services, l4_services, part.virtual_services)
        for part in parts
    )
    instances = tuple(_instances(view))
    key = (scope.mesh, scope.targets, tuple((part.targets, part.listener) for part in parts), rules, instances)
    return memo.latest("outbound plan", scope.key, key, _plan, parts, tuple(map(L4Rules, rules)), dict(instances))


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


def _plan(
    parts: tuple[Scope, ...], rules: tuple[L4Rules, ...], instances: Mapping[tuple[str, str, int], tuple[str, ...]]
) -> tuple[Planned, ...]:
    plans: dict[tuple[str, int], _Plan] = {}
    for part, known in zip(parts, rules, strict=True):
        if part.listener.takes_all_ports:
            for plan in plans.values():
                plan.locked = True
        planner = _Planner(plans, part, known, instances)
        for target in sorted(part.targets, key=lambda item: item.service.meta.age()):
            for port in _ports(target, part.listener):
                planner.add(target, port)
    return tuple(
        Planned(address, port, plan.http, plan.plain, tuple(plan.opaque), plan.bound, plan.scope)
        for (address, port), plan in sorted(plans.items())
    )


def _ports(target: Target, listener: EgressListener) -> Iterator[ServicePort]:
    """The ports of a service that a listener is for, with the protocol that it names."""
    ports = target.service.ports
    if listener.takes_all_ports:
        yield from ports
    elif listener.http_proxy:
        yield replace(ports[0], protocol=Protocol.HTTP)
    elif listener.port or len(ports) == 1 or listener.protocol.is_http:
        yield replace(ports[0], protocol=listener.protocol)


class _Planner:
    """Adds the ports of services to the listeners of one egress listener."""

    def __init__(
        self,
        plans: dict[tuple[str, int], _Plan],
        scope: Scope,
        rules: L4Rules,
        instances: Mapping[tuple[str, str, int], tuple[str, ...]],
    ) -> None:
        self._plans = plans
        self._scope = scope
        self._rules = rules
        self._instances = instances
        listener = scope.listener
        self._bind = listener.bind or ("" if listener.captured else LOOPBACK)

    def add(self, target: Target, port: ServicePort) -> None:
        """Plan for one port of a service; called oldest service first."""
        if port.protocol is Protocol.UDP:
            return
        listener = self._scope.listener
        number = port.number if listener.takes_all_ports else listener.port
        if port.protocol.is_http:
            self._add_http(self._bind or ANY, number, port.protocol)
            return
        for address in self._addresses(target, port):
            self._add_bytes(target, port, address, number)

    def _add_http(self, address: str, number: int, protocol: Protocol) -> None:
        proxied = self._scope.listener.http_proxy
        opened = Protocol.UNDECLARED if address == ANY and not proxied else protocol
        plan = self._open(address, number, opened)
        if plan is None or plan.http or plan.avoids(protocol):
            return
        plain = opened is not Protocol.UNDECLARED
        if plain and any(item.chain.takes_all for item in plan.opaque):
            return
        plan.http, plan.plain = _table(address, number), plain
        plan.protocol = opened if plain and not plan.opaque else Protocol.UNDECLARED

    def _add_bytes(self, target: Target, port: ServicePort, address: str, number: int) -> None:
        plan = self._open(address, number, port.protocol)
        if plan is None or plan.avoids(port.protocol):
            return
        sniffed = port.protocol is Protocol.UNDECLARED
        anywhere = address == ANY and not self._bind
        if sniffed and (not plan.http or plan.plain):
            plan.plain = False
            own = not anywhere and not address.startswith("unix://")
            plan.http = f"{target.service.host}:{port.number}" if own else _table(address, number)
            plan.protocol = Protocol.UNDECLARED
        blocks = _blocks(target) if anywhere else ()
        sni = self._names(target) if anywhere and port.protocol in BY_SNI else ()
        rest = L4Chain(service_way(target, port.number), sni, blocks)
        caller = l4_caller(self._scope, number or port.number)
        chains = sidecar_chains(self._rules, caller, target.service.host, port.protocol, rest)
        if plan.plain:
            chains = [chain for chain in chains if not chain.takes_all]
        plan.add(chains, plan.http if sniffed else "")

    def _names(self, target: Target) -> tuple[str, ...]:
        """The names that a service's TLS connections ask for."""
        aliases = [name for alias in target.service.aliases for name in names_of(alias, self._scope.namespace)]
        return (target.service.host, *(name for name in aliases if not name.endswith(".")))

    def _open(self, address: str, number: int, protocol: Protocol) -> _Plan | None:
        """The listener at an address (None: nothing may be added)."""
        plan = self._plans.get((address, number))
        if plan is None:
            bound = not self._scope.listener.captured
            plan = self._plans[address, number] = _Plan(self._scope.key.listener, bound, protocol)
        return None if plan.locked else plan

    def _addresses(self, target: Target, port: ServicePort) -> tuple[str, ...]:
        """Where connections for a port that is no HTTP are listened for."""
        if self._bind:
            return (self._bind,)
        if target.service.headless:
            return self._instances.get((*target.key, port.number), ())
        written = target.service.addresses
        own = tuple(address for address in written if "/" not in address)
        return own if own and len(own) == len(written) else (*own, ANY)


def _table(address: str, number: int) -> str:
    """The route table of HTTP that several services share."""
    return address if address.startswith("unix://") else str(number)


def _blocks(target: Target) -> tuple[str, ...]:
    """The service's blocks of addresses without their insignificant bits, each once."""
    blocks = (address for address in target.service.addresses if "/" in address)
    return tuple(dict.fromkeys(str(ipaddress.ip_network(block, strict=False)) for block in blocks))
