"""Load assignments of every EDS cluster of a scope, kept up to date by what changed.

Called by `translate`: the short path of an endpoint change. Only the assignments of services whose endpoints or rules
changed are made again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headrace.envoy.resources import ENDPOINT, XdsResource
from headrace.envoy.translate.clusters import is_eds, parts_of
from headrace.envoy.translate.destination_rules import effective_policy
from headrace.envoy.translate.endpoints import (
    in_subset,
    is_address,
    load_assignment,
    taking_requests,
)
from headrace.envoy.translate.localities import (
    ANYWHERE,
    Caller,
    caller_at,
    caller_for,
    groups_of,
    localities_of,
    locality_setting,
)
from headrace.envoy.translate.memo import Memo, resource_of
from headrace.envoy.view import ProxyView, Target
from headrace.model.destination import BY_DISTANCE, DestinationRule, LocalityLb
from headrace.model.service import Endpoint, Health, Service


@dataclass(frozen=True, slots=True)
class _Shape:
    """What decides a scope's assignments beside services and endpoints: where the caller is, what the mesh says of
    localities, whether clusters of AUTO_PASSTHROUGH are there, and whether services' addresses lead anywhere."""

    caller: Caller = ANYWHERE
    localities: LocalityLb = BY_DISTANCE
    dnat: bool = False
    routed: bool = True


class AssignmentKeeper:
    """The last assignments of one scope, as one mapping by cluster name that is replaced, never changed."""

    def __init__(self) -> None:
        self._seen: tuple[object, object] = (None, None)
        self._targets: tuple[Target, ...] = ()
        self._shape = _Shape()
        self._endpoints: list[tuple[Endpoint, ...]] = []
        self._resources: Mapping[str, XdsResource] = {}

    def update(self, memo: Memo, view: ProxyView) -> Mapping[str, XdsResource]:
        """The assignments of the view, by name."""
        scope = view.scope
        if self._seen[0] is scope and self._seen[1] is view.endpoints:
            return self._resources
        self._seen = (scope, view.endpoints)
        shape = _Shape(caller_at(scope.key.labels), scope.mesh.locality, scope.passes_by_sni, scope.mesh.routed)
        current = [view.endpoints.get(target.key, ()) for target in scope.targets]
        if scope.targets is not self._targets or shape != self._shape:
            found: dict[str, XdsResource] = {}
            for target, endpoints in zip(scope.targets, current, strict=True):
                _put(memo, found, target, endpoints, shape)
            self._resources = dict(sorted(found.items()))
        else:
            changed = [at for at, (one, old) in enumerate(zip(current, self._endpoints, strict=True)) if one is not old]
            if changed:
                renewed = dict(self._resources)
                for at in changed:
                    _put(memo, renewed, scope.targets[at], current[at], shape)
                self._resources = renewed
        self._targets, self._endpoints, self._shape = scope.targets, current, shape
        return self._resources


def _put(
    memo: Memo,
    found: dict[str, XdsResource],
    target: Target,
    endpoints: tuple[Endpoint, ...],
    shape: _Shape,
) -> None:
    known = endpoints if target.is_pool else taking_requests(endpoints)
    caller = caller_for(shape.caller, target.rule, localities_of(target.service, shape.localities))
    for dnat in (False, True) if shape.dnat and not target.service.external else (False,):
        shown = _Shape(caller, shape.localities, dnat, shape.routed)
        key = (target.service, target.rule, known, shown)
        kept = memo.latest("assignments", (*target.slot, caller, dnat), key, _assignments, *key)
        for resource in kept:
            found[resource.name] = resource


def _assignments(
    service: Service, rule: DestinationRule | None, endpoints: tuple[Endpoint, ...], shape: _Shape
) -> tuple[XdsResource, ...]:
    """The assignments of all clusters of one service. With `dnat`: of the clusters that pass mesh mutual TLS on
    (`sni_dnat`), which have only the endpoints that demand it."""
    found = []
    for part in parts_of(service, rule):
        policy = effective_policy(rule, part.port.number, part.subset)
        if not is_eds(service, policy, routed=shape.routed):
            continue
        labels = part.subset.labels if part.subset else ()
        chosen = [item for item in in_subset(endpoints, part.port.number, labels) if is_address(item.address)]
        if shape.dnat:
            chosen = [item for item in chosen if item.mtls and item.health is Health.HEALTHY]
        name = part.sni(service) if shape.dnat else part.cluster(service)
        setting = locality_setting(localities_of(service, shape.localities), policy.load_balancer)
        groups = groups_of(chosen, shape.caller, setting, policy.outlier_detection is not None)
        message = load_assignment(name, groups)
        found.append(resource_of(ENDPOINT, name, message))
    return tuple(found)
