"""TCP and TLS routes of VirtualServices: which connections they take, and the ways that these go.

`outbound` asks for the chains of a service's port (`sidecar_chains`). A gateway asks, for one of its servers, with the
VirtualServices that are bound to the Gateway and whose hosts fit the server's (`scope.gateway_virtual_services`,
`gateway_servers.intersection`), oldest first:

    caller = l4_caller(scope, server.server.port, server.gateway)     # the port as documents know it
    way = gateway_tcp_way(virtual_services, caller)                   # TCP, and TLS that ends here; None: nobody's
    chains = gateway_tls_chains(virtual_services, caller, taken)      # PASSTHROUGH: one chain for each SNI match
    filters = way_filters(way, mesh, guards=network_guards(guard, mesh), revocable=...)   # of `tcp_proxy`

`taken` is a set that all PASSTHROUGH servers of one listener share: Envoy takes a name once. `service_way` is the way
to a service that no rule speaks for (AUTO_PASSTHROUGH). The rules are Istio's: conditions on the caller (gateways,
port, source labels and namespace) are decided here; the first rule that takes a connection has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from headrace.envoy.translate.claims import claims_of
from headrace.envoy.translate.destination_rules import effective_policy, subset_named
from headrace.envoy.translate.messages import document_path
from headrace.envoy.translate.route_action import Place, destination_cluster, destination_port
from headrace.envoy.translate.tcp_proxy import Way
from headrace.envoy.view import Scope, Target
from headrace.envoy.visibility import wildcard_covers
from headrace.model.destination import DestinationRule, Subset
from headrace.model.names import MESH_GATEWAY, outbound_cluster
from headrace.model.resource import Metadata
from headrace.model.service import Protocol, Resolution
from headrace.model.traffic import L4Match, L4Route, Pairs, RouteDestination, VirtualService

BY_SNI = (Protocol.TLS, Protocol.HTTPS)
"""Protocols whose connections are told apart by SNI: `tls` rules are for them, `tcp` rules for all others."""


@dataclass(frozen=True, slots=True)
class L4Caller:
    """Who calls, as far as rules ask: the place (mesh, port, visible services), the gateway (`mesh` for sidecars), and
    the proxy's namespace and labels."""

    place: Place
    gateway: str
    namespace: str
    labels: Pairs


@dataclass(frozen=True, slots=True)
class L4Chain:
    """Connections that go one way: with one of these SNI names (none: any) to one of these blocks of addresses (none:
    any). `document` is the VirtualService that says so, as Istio writes it in metadata ('' : nobody's rule)."""

    way: Way
    sni: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    document: str = ""

    @property
    def takes_all(self) -> bool:
        """Whether it takes every connection of its listener."""
        return not self.sni and not self.blocks


def l4_caller(scope: Scope, port: int, gateway: str = MESH_GATEWAY) -> L4Caller:
    """The proxies of a scope, calling through a listener's port."""
    place = Place(scope.mesh, port, False, scope.by_host)
    return L4Caller(place, gateway, scope.namespace, scope.key.labels)


def service_way(target: Target, port: int, cluster: str = "") -> Way:
    """The way to a service's port that no rule speaks for; `cluster` in place of the port's own."""
    name = cluster or outbound_cluster(port, "", target.service.host)
    looked_up = target.service.resolution is Resolution.DYNAMIC_DNS
    return _shaped(replace(Way.to(name), by_sni=port if looked_up else 0), target.rule, port, None)


def gateway_tcp_way(virtual_services: Sequence[VirtualService], caller: L4Caller) -> Way | None:
    """Where a server's connections go: by the first `tcp` rule that is for its port and gateway (None: there is none).
    A gateway looks at no addresses (Istio's rule)."""
    for item in virtual_services:
        for rule in item.tcp:
            if not rule.matches or any(_applies(match, caller) for match in rule.matches):
                return way_of(rule.route, item.meta, caller.place)
    return None


def gateway_tls_chains(
    virtual_services: Sequence[VirtualService], caller: L4Caller, taken: set[tuple[str, str]]
) -> list[L4Chain]:
    """A chain for every match of a `tls` rule that is for the server's port and gateway; a match with a name that is in
    `taken` (which learns the new ones) is left out whole (Istio's rule for gateways)."""
    found: list[L4Chain] = []
    for item in virtual_services:
        for rule, match in _tls_matches(item, caller):
            names = {(name, "") for name in match.sni_hosts}
            if not names & taken:
                taken |= names
                way = way_of(rule.route, item.meta, caller.place)
                found.append(L4Chain(way, match.sni_hosts, (), _document(item.meta)))
    return found


def without_taken(chain: L4Chain, taken: set[tuple[str, str]]) -> list[L4Chain]:
    """The chain without what earlier chains of its listener (`taken`: pairs of SNI name and block, '' for any) have:
    Envoy refuses a listener with two chains for the same connection. Mostly one chain, none where nothing is left."""
    groups: dict[tuple[str, ...], list[str]] = {}
    blocks = () if any(block.endswith("/0") for block in chain.blocks) else chain.blocks
    for name in ("",) if "*" in chain.sni else chain.sni or ("",):
        free = tuple(block for block in blocks or ("",) if (name, block) not in taken)
        if free:
            groups.setdefault(free, []).append(name)
            taken.update((name, block) for block in free)
    return [
        replace(chain, sni=tuple(sorted(filter(None, names))), blocks=tuple(filter(None, free)))
        for free, names in groups.items()
    ]


class L4Rules:
    """The VirtualServices with `tls` or `tcp` rules that a scope's sidecars know."""

    def __init__(self, virtual_services: Sequence[VirtualService]) -> None:
        self._order = {item: at for at, item in enumerate(virtual_services)}
        self._claims = claims_of(virtual_services)

    def of(self, host: str) -> list[VirtualService]:
        """Those that speak for a service's host, in order of precedence; names that a wildcard service covers too."""
        if not self._order:
            return []
        if host.startswith("*"):
            return [item for item in self._order if any(_overlap(name, host) for name in item.hosts)]
        return sorted(set(self._claims.of(host)), key=self._order.__getitem__)


def l4_services(virtual_services: Iterable[VirtualService]) -> tuple[VirtualService, ...]:
    """Those of the VirtualServices that have `tls` or `tcp` rules."""
    return tuple(item for item in virtual_services if item.tls or item.tcp)


def sidecar_chains(rules: L4Rules, caller: L4Caller, host: str, protocol: Protocol, own: L4Chain) -> list[L4Chain]:
    """How connections to a port of a service (its `host`) are told apart, first chain first. `own` has what no rule
    speaks for: with the service's blocks of addresses, which rules that name none have too, and its SNI."""
    services = rules.of(host)
    if protocol in BY_SNI:
        return [chain for item in services for chain in _tls_chains(item, caller, own.blocks)] or [own]
    found: list[L4Chain] = []
    for item in services:
        for rule in item.tcp:
            matches = [match for match in rule.matches if _applies(match, caller)]
            if rule.matches and not matches:
                continue
            named = () if not all(match.subnets for match in matches) else _subnets(matches)
            way = way_of(rule.route, item.meta, caller.place)
            found.append(L4Chain(way, (), named or own.blocks, _document(item.meta)))
            if not named:
                return found
    return [*found, own]


def _tls_chains(item: VirtualService, caller: L4Caller, blocks: tuple[str, ...]) -> Iterator[L4Chain]:
    for rule, match in _tls_matches(item, caller):
        way = way_of(rule.route, item.meta, caller.place)
        yield L4Chain(way, match.sni_hosts, match.subnets or blocks, _document(item.meta))


def _tls_matches(item: VirtualService, caller: L4Caller) -> Iterator[tuple[L4Route, L4Match]]:
    for rule in item.tls:
        for match in rule.matches:
            if _applies(match, caller):
                yield rule, match


def _subnets(matches: Iterable[L4Match]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(block for match in matches for block in match.subnets))


def _applies(match: L4Match, caller: L4Caller) -> bool:
    """Whether the part of the condition that is known now holds; who calls counts for sidecars only (Istio's rule)."""
    if match.port and match.port != caller.place.port:
        return False
    if match.gateways and caller.gateway not in match.gateways:
        return False
    if caller.gateway != MESH_GATEWAY:
        return True
    labels = dict(caller.labels)
    if any(labels.get(name) != value for name, value in match.source_labels):
        return False
    return not match.source_namespace or match.source_namespace == caller.namespace


def way_of(route: Sequence[RouteDestination], meta: Metadata, place: Place) -> Way:
    """The way of a rule's destinations: one, or several by weight (those of weight 0 get nothing). How long its
    connections live, and whether they go through a tunnel, is up to the first one's DestinationRule: of several a
    subset's own tunnel does not count (Istio's rule)."""
    first = route[0].destination
    target = place.targets.get(first.host)
    rule = target.rule if target is not None else None
    port = destination_port(place, first)
    if len(route) == 1:
        way = Way.to(destination_cluster(place, first))
        return _shaped(way, rule, port, subset_named(rule, first.subset), named=bool(first.subset))
    weighted = tuple((destination_cluster(place, item.destination), item.weight) for item in route if item.weight)
    return _shaped(Way(weighted, f"{meta.name}.{meta.namespace}"), rule, port, None)


def _shaped(way: Way, rule: DestinationRule | None, port: int, subset: Subset | None, *, named: bool = False) -> Way:
    """The way as the destination's rule has it; `named`: one subset is called, whether the rule has it or not."""
    if rule is None:
        return way
    policy = effective_policy(rule, port, subset)
    pool, balancer = policy.connection_pool, policy.load_balancer
    key = balancer.consistent_hash if balancer else None
    teller = subset.policy if subset is not None else None if named else rule.policy
    tunnel = teller.tunnel if teller is not None else None
    return replace(
        way,
        idle_timeout=pool.tcp_idle_timeout if pool else None,
        life=pool.max_connection_duration if pool else None,
        by_source=key is not None and key.use_source_ip,
        tunnel=tunnel.target if tunnel is not None else "",
        post=tunnel is not None and tunnel.post,
    )


def _document(meta: Metadata) -> str:
    return document_path(meta, "virtual-service")


def _overlap(one: str, other: str) -> bool:
    return wildcard_covers(one, other) or wildcard_covers(other, one)
