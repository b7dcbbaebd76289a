"""What an agent reported about one replica: the observed half of the mesh.

Made by `app` from the agents' reports, read by `registry.build`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from headrace.model.proxy import ProxyKind
from headrace.model.traffic import Pairs
from headrace.model.workload import WorkloadPort


class ReplicaState(StrEnum):
    """A replica's state, as `ReplicaReport.state` spells it."""

    STARTING = "starting"
    READY = "ready"
    UNREADY = "unready"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ObservedReplica:
    """One replica of a Workload. `id` is `namespace/workload-index`, `labels` sorted pairs, `identity` its SPIFFE URI,
    `ports` those of the Workload as the mesh sees them at `address`; `port_map` those that really are others there (a
    gateway's, where they were taken or privileged). Only a READY replica gets new requests. Compared by value."""

    id: str
    namespace: str
    workload: str
    labels: Pairs
    service_account: str
    identity: str
    address: str
    ports: tuple[WorkloadPort, ...] = ()
    state: ReplicaState = ReplicaState.STARTING
    kind: ProxyKind = ProxyKind.SIDECAR
    port_map: tuple[tuple[int, int], ...] = ()
