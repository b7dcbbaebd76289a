"""A replica that drains: pools keep it, marked, until it is gone; ordinary clusters lose it at once."""

from __future__ import annotations

from envoy.config.core.v3 import health_check_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from tests.unit.envoy.translate.test_pools import POOL, SERVICE, gateway, snapshot, translated

from headrace.envoy.resources import ENDPOINT
from headrace.model.workload import WorkloadPort
from headrace.registry.observed import ObservedReplica, ReplicaState

READY, DRAINING = health_check_pb2.HEALTHY, health_check_pb2.DRAINING


def replica(index: int, state: ReplicaState) -> ObservedReplica:
    identity = "spiffe://cluster.local/ns/default/sa/default"
    name, address, ports = f"default/chat-{index}", f"127.0.0.2{index}", (WorkloadPort(8000), WorkloadPort(8001))
    return ObservedReplica(name, "default", "chat", (("app", "chat"),), "default", identity, address, ports, state)


def healths(cluster: str, *states: ReplicaState) -> list[tuple[str, int]]:
    """Addresses and health of the cluster's endpoints, where chat's replicas are in these states."""
    replicas = [replica(index, state) for index, state in enumerate(states)]
    mesh = snapshot(SERVICE, POOL, replicas={item.id: item for item in replicas})
    message = endpoint_pb2.ClusterLoadAssignment.FromString(translated(mesh, gateway()).of_type(ENDPOINT)[cluster].body)
    return [
        (item.endpoint.address.socket_address.address, item.health_status)
        for group in message.endpoints
        for item in group.lb_endpoints
        if item.endpoint.address.socket_address.port_value == 8000
    ]


def test_a_pool_keeps_what_drains_and_says_so() -> None:
    for state in (ReplicaState.DRAINING, ReplicaState.UNREADY):
        found = healths("outbound|8000||chat.default.inference.local", ReplicaState.READY, state)
        assert found == [("127.0.0.20", READY), ("127.0.0.21", DRAINING)]


def test_other_services_lose_it_at_once() -> None:
    found = healths("outbound|8000||chat.default.svc.cluster.local", ReplicaState.READY, ReplicaState.DRAINING)
    assert found == [("127.0.0.20", READY)]


def test_what_was_never_ready_is_no_endpoint() -> None:
    for state in (ReplicaState.STARTING, ReplicaState.FAILED):
        assert healths("outbound|8000||chat.default.inference.local", state, ReplicaState.READY) == [
            ("127.0.0.21", READY)
        ]
