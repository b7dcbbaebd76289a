"""Which endpoints a caller prefers: priorities and weights by locality, as a DestinationRule or the mesh says.

Called by `endpoints` (load assignments) and `clusters`. Rules (Istio): `distribute` weighs the localities that it names
and leaves the others out; failover (only where outlier detection can tell that near endpoints are sick, and always for
zone-aware settings) ranks the rest by how much of the caller's locality they share, or by the labels of
`failoverPriority`. A caller whose locality nobody knows prefers none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from headrace.model.destination import DISTRIBUTIONS, DestinationRule, LoadBalancer, LocalityLb, failover_labels
from headrace.model.locality import LOCALITY_LABELS, NETWORK, locality_of, parts_of_locality, with_topology
from headrace.model.service import Endpoint, Service
from headrace.model.traffic import Pairs

_FAR = 3
"""Rank of another region; 0 to 2 share everything, the zone, the region."""
_RANKS = 5
"""Ranks that failover by locality tells apart, at most."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Where a proxy runs (`region/zone/subzone`, '' : unknown), and those of its labels that a failover may ask for."""

    locality: str = ""
    labels: Pairs = ()


ANYWHERE = Caller()
"""A caller of whom nothing is known."""


def caller_at(labels: Pairs) -> Caller:
    """The caller with these labels (a scope's: those that policies select by)."""
    known = dict(labels)
    locality = locality_of(known)
    own = {name: value for name, value in known.items() if name not in LOCALITY_LABELS}
    return Caller(locality, tuple(sorted(with_topology(own, locality).items())))


def caller_for(caller: Caller, rule: DestinationRule | None, mesh: LocalityLb) -> Caller:
    """The caller with only those labels that the rule, or the mesh, ranks endpoints by: callers who are alike then
    share their assignments."""
    names = failover_labels(rule, mesh)
    return Caller(caller.locality, tuple(pair for pair in caller.labels if pair[0] in names))


def localities_of(service: Service, mesh: LocalityLb) -> LocalityLb:
    """What holds for a service that no rule speaks for: its own trafficDistribution, else the mesh's."""
    return DISTRIBUTIONS.get(service.distribution, mesh)


def locality_setting(mesh: LocalityLb, balancer: LoadBalancer | None) -> LocalityLb | None:
    """What holds for a cluster: the rule's setting, else the mesh's (None: localities count for nothing)."""
    setting = balancer.locality if balancer is not None and balancer.locality is not None else mesh
    return setting if setting is not None and (setting.enabled or setting.zone_aware) else None


@dataclass(slots=True)
class Group:
    """Endpoints of one locality and priority, with the share that their locality has."""

    locality: str
    endpoints: list[Endpoint] = field(default_factory=list)
    priority: int = 0
    weight: int = 0


def groups_of(endpoints: Iterable[Endpoint], caller: Caller, setting: LocalityLb | None, detects: bool) -> list[Group]:
    """The endpoints by locality in order of name, and by priority; `detects`: sick ones are found out."""
    by_locality: dict[str, Group] = {}
    for endpoint in endpoints:
        by_locality.setdefault(endpoint.locality, Group(endpoint.locality)).endpoints.append(endpoint)
    groups = [by_locality[name] for name in sorted(by_locality)]
    for group in groups:
        group.weight = sum(endpoint.weight or 1 for endpoint in group.endpoints)
    if setting is None or (setting.zone_aware and not setting.enabled):
        return groups
    if setting.distribute:
        return _distributed(groups, caller, setting)
    if not (detects or setting.zone_aware or setting.forced):
        return groups
    if setting.failover_priority and caller.labels:
        groups = _by_labels(groups, caller, setting.failover_priority)
    if caller.locality and (setting.failover or setting.zone_aware or not setting.failover_priority):
        _by_distance(groups, caller, setting)
    return groups


def weighs_localities(setting: LocalityLb | None, detects: bool) -> bool:
    """Whether Envoy must heed the localities' weights: otherwise it would spoil what least request balances."""
    if setting is None or setting.zone_aware:
        return False
    return bool(setting.distribute or ((detects or setting.forced) and (setting.failover or setting.failover_priority)))


def _distributed(groups: list[Group], caller: Caller, setting: LocalityLb) -> list[Group]:
    """The groups with the weights of the first rule for the caller; those that it does not name are left out."""
    for origin, shares in setting.distribute:
        if not _covers(origin, caller.locality):
            continue
        found: list[Group] = []
        for place, percent in shares:
            named = [group for group in groups if group not in found and _covers(place, group.locality)]
            whole = sum(group.weight for group in named)
            for group in named:
                share = math.ceil(group.weight * percent / whole)
                found.append(Group(group.locality, group.endpoints, group.priority, share))
        return sorted(found, key=lambda group: group.locality)
    return groups


def _covers(pattern: str, locality: str) -> bool:
    """Whether a locality is within a pattern: `*` and missing parts say nothing, but the region must be said."""
    (region, *rest), (own, *parts) = parts_of_locality(pattern), parts_of_locality(locality)
    same = (word in ("*", "", part) for word, part in zip(rest, parts, strict=True))
    return region in ("*", own) and all(same)


def _by_labels(groups: Sequence[Group], caller: Caller, words: tuple[str, ...]) -> list[Group]:
    """The groups split by how many of the labels, from the first on, an endpoint shares with the caller. A network of
    its own puts an endpoint behind all that are in the caller's, and the other labels still count (Istio's rule)."""
    own = dict(caller.labels)
    parted = (word.partition("=") for word in words)
    wanted = [(name, value if equals else own.get(name, "")) for name, equals, value in parted]
    found: list[Group] = []
    for group in groups:
        split: dict[int, Group] = {}
        for endpoint in group.endpoints:
            rank = _label_rank(endpoint, wanted)
            part = split.setdefault(rank, Group(group.locality, priority=rank))
            part.endpoints.append(endpoint)
            part.weight += endpoint.weight or 1
        found += (split[rank] for rank in sorted(split))
    _close_ranks(found)
    return found


def _label_rank(endpoint: Endpoint, wanted: Sequence[tuple[str, str]]) -> int:
    labels = with_topology(dict(endpoint.labels), endpoint.locality, endpoint.network)
    behind = 0
    for at, (name, value) in enumerate(wanted):
        if labels.get(name, "") != value:
            if at == 0 and name == NETWORK:
                behind = len(wanted)
                continue
            return behind + len(wanted) - at
    return behind


def _by_distance(groups: Sequence[Group], caller: Caller, setting: LocalityLb) -> None:
    """Rank the groups by distance, within the priorities that labels gave them."""
    rank: Callable[[str], int] = _region_rank(caller, setting) if setting.zone_aware else _rank(caller, setting)
    for group in groups:
        group.priority = group.priority * _RANKS + rank(group.locality)
    _close_ranks(groups)


def _rank(caller: Caller, setting: LocalityLb) -> Callable[[str], int]:
    """The same subzone, zone, region; then where the region fails over to (without a rule: anywhere); then the rest."""
    own = parts_of_locality(caller.locality)
    to = dict(reversed(setting.failover)).get(own[0])

    def rank(locality: str) -> int:
        parts = parts_of_locality(locality)
        same = next((at for at, (one, other) in enumerate(zip(own, parts, strict=True)) if one != other), _FAR)
        if same:
            return _FAR - same
        return _FAR if to is None or parts[0] == to else _FAR + 1

    return rank


def _region_rank(caller: Caller, setting: LocalityLb) -> Callable[[str], int]:
    """The same region, then where it fails over to, then the rest."""
    own = parts_of_locality(caller.locality)[0]
    to = dict(reversed(setting.failover)).get(own)

    def rank(locality: str) -> int:
        region = parts_of_locality(locality)[0]
        return 0 if region == own else 1 if region == to else 2

    return rank


def _close_ranks(groups: Sequence[Group]) -> None:
    """Priorities without gaps (Envoy demands that)."""
    order = {value: at for at, value in enumerate(sorted({group.priority for group in groups}))}
    for group in groups:
        group.priority = order[group.priority]
