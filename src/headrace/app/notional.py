"""What documents describe, as if it ran: for questions about documents alone (`headrace trace`, `headrace describe`).

A Workload and a Deployment have no addresses before they run. Here every replica gets one of 198.18.0.0/15 (RFC 2544:
it is nobody's), so that who asks where a request goes is told which workload answers, and not that nobody is there.
`headrace translate` does without: it prints what documents say. Called by `app.offline`, and by `app.trace` for who is
a gateway.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from headrace.app.control_plane.assignments import PlannedReplica, plan
from headrace.config.revision import ConfigRevision
from headrace.model.gateway import Gateway
from headrace.model.mesh import MeshConfig
from headrace.model.proxy import ProxyKind
from headrace.model.resource import ResourceKey, selects
from headrace.model.service import Service
from headrace.model.workload import StaticWorkload, Workload, WorkloadRole
from headrace.registry.build import declare
from headrace.registry.observed import ObservedReplica, ReplicaState

NOTIONAL = ipaddress.IPv4Network("198.18.0.0/15")
_MOST = 3
"""Replicas of one Workload that count here: more would only make answers longer."""


@dataclass(frozen=True, slots=True)
class Running:
    """The revision with addresses for its described workloads, and the replicas of those that Headrace would run."""

    revision: ConfigRevision
    observed: Mapping[str, ObservedReplica]


def running(revision: ConfigRevision) -> Running:
    """Deterministic: addresses follow the order of namespaces and names."""
    addresses = map(str, NOTIONAL.hosts())
    declared = declare(revision)
    doors = gateway_workloads(declared.gateways, declared.documents.services, declared.documents.static_workloads)
    # A client speaks mutual TLS of itself only to Pods with a label that injection gives to sidecars alone (Istio).
    resources: dict[ResourceKey, object] = {
        **revision.resources,
        **{door.meta.key: replace(door, proxied=False) for door in doors},
    }
    for key, workload in _without_address(resources):
        resources[key] = replace(workload, address=next(addresses))
    observed = {}
    for planned in planned_replicas(declared.documents.workloads, doors, declared.gateways, revision.mesh):
        if planned.index < _MOST:
            observed[planned.id] = ObservedReplica(
                planned.id,
                planned.namespace,
                planned.workload,
                tuple(sorted(planned.labels.items())),
                planned.identity.service_account,
                planned.identity.uri,
                next(addresses),
                planned.ports,
                ReplicaState.READY,
                ProxyKind.GATEWAY if planned.role is WorkloadRole.GATEWAY else ProxyKind.SIDECAR,
            )
    return Running(replace(revision, resources=resources), observed)


def gateway_workloads(
    gateways: Iterable[Gateway], services: Iterable[Service], workloads: Iterable[StaticWorkload]
) -> list[StaticWorkload]:
    """The described workloads that are gateways: a Gateway selects them, or names a Service before them. (A Gateway for
    every gateway does not say who is one.)"""
    named = [item for item in gateways if item.selector or item.services]
    wanted = frozenset(place for item in named for place in item.before)
    fronts = [item for item in services if item.selector and (item.namespace, item.host) in wanted]
    found = []
    for workload in workloads:
        namespace = workload.meta.namespace
        before = [
            (item.namespace, item.host)
            for item in fronts
            if item.namespace == namespace and selects(item.selector or {}, workload.labels)
        ]
        if any(item.takes(namespace, workload.labels, before) for item in named):
            found.append(workload)
    return found


def planned_replicas(
    workloads: Iterable[Workload], doors: Sequence[StaticWorkload], gateways: Sequence[Gateway], mesh: MeshConfig
) -> list[PlannedReplica]:
    """What `up` would run, without a gateway of its own for Gateways that a described one (of `doors`) serves."""
    unserved = [
        item for item in gateways if not any(item.takes(door.meta.namespace, door.labels, ()) for door in doors)
    ]
    return [item for item in plan(workloads, gateways, mesh) if item.spec is not None or _for_some(item, unserved)]


def _for_some(planned: PlannedReplica, gateways: Iterable[Gateway]) -> bool:
    return any(item.selector and item.takes(planned.namespace, planned.labels, ()) for item in gateways)


def _without_address(resources: Mapping[ResourceKey, object]) -> Iterator[tuple[ResourceKey, StaticWorkload]]:
    """Controllers none of whose Pods is described. (A WorkloadEntry without an address is reached in another way.)"""
    static = {
        key: item
        for key, item in resources.items()
        if isinstance(item, StaticWorkload) and key.short_kind != "WorkloadEntry"
    }
    pods = [item for item in static.values() if item.address]
    for key, item in sorted(static.items(), key=lambda pair: (pair[0].namespace, pair[0].name, pair[0].kind)):
        mine = (pod for pod in pods if pod.meta.namespace == item.meta.namespace)
        if not item.address and not any(selects(dict(item.labels), pod.labels) for pod in mine):
            yield key, item
