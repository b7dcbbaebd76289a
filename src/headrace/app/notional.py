"""What documents describe, as if it ran: for questions about documents alone (`headrace trace`, `headrace describe`).

A Workload and a Deployment have no addresses before they run. Here every replica gets one of 198.18.0.0/15 (RFC 2544:
it is nobody's), so that who asks where a request goes is told which workload answers, and not that nobody is there.
`headrace translate` does without: it prints what documents say.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from headrace.app.control_plane.assignments import plan
from headrace.config.revision import ConfigRevision
from headrace.model.gateway import Gateway
from headrace.model.proxy import ProxyKind
from headrace.model.resource import ResourceKey, selects
from headrace.model.workload import StaticWorkload, Workload, WorkloadRole
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
    resources: dict[ResourceKey, object] = dict(revision.resources)
    for key, workload in _without_address(resources):
        resources[key] = replace(workload, address=next(addresses))
    found = [item for item in resources.values() if isinstance(item, Workload)]
    gateways = [item for item in resources.values() if isinstance(item, Gateway)]
    observed = {}
    for planned in plan(found, gateways, revision.mesh):
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
