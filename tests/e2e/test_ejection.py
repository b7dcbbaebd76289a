"""A sick replica is ejected after five errors in a row, gets nothing until its time is over, and comes back."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from tests.e2e.conftest import StartMesh
from tests.e2e.load import burst, through_client
from tests.e2e.running import RunningMesh, until
from tests.e2e.shop import CLIENT, QUICK_EJECTION, SERVICE, servers, weights

CLUSTER = "outbound|80|v1|chat.default.svc.cluster.local"
EJECTION_SECONDS = 3.0
SICK, WELL = "default/chat-v1-0", "default/chat-v1-1"


@pytest.fixture(scope="module")
def mesh(start_mesh: StartMesh) -> RunningMesh:
    files = {"service.yaml": SERVICE + QUICK_EJECTION, "routes.yaml": weights(100, 0)}
    return start_mesh(files | {"chat-v1.yaml": servers("v1"), "client.yaml": CLIENT})


def endpoint(mesh: RunningMesh, replica: str) -> dict[str, Any]:
    """What the client's Envoy knows of a replica: ejected or not, and the requests it sent there."""
    wanted = mesh.row(replica)["address"]
    clusters = json.loads(mesh.admin("default/client-0", "/clusters?format=json"))["cluster_statuses"]
    for host in next(cluster for cluster in clusters if cluster["name"] == CLUSTER)["host_statuses"]:
        if host["address"]["socket_address"]["address"] == wanted:
            stats = {item["name"]: int(item.get("value", 0)) for item in host["stats"]}
            ejected = bool(host.get("health_status", {}).get("failed_outlier_check"))
            return {"ejected": ejected, "requests": stats["rq_total"]}
    raise AssertionError(f"{wanted} is no endpoint of {CLUSTER}")


def test_a_sick_replica_is_ejected_and_comes_back(mesh: RunningMesh) -> None:
    target = through_client(mesh)
    assert burst(target, 20).failed == 0
    mesh.ask_app(SICK, "PUT", "/faults", {"status": 500})
    failed = 0
    while not endpoint(mesh, SICK)["ejected"]:
        failed += burst(target, 1).failed
        assert failed <= 5, "five errors in a row do not eject it"
    ejected_at = time.monotonic()
    assert failed == 5
    mesh.ask_app(SICK, "PUT", "/faults", {})

    at_ejection = (endpoint(mesh, SICK)["requests"], mesh.served(SICK), mesh.served(WELL))
    sent, last_away = 0, ejected_at
    while endpoint(mesh, SICK)["ejected"]:
        requests, served = endpoint(mesh, SICK)["requests"], mesh.served(SICK)
        if not endpoint(mesh, SICK)["ejected"]:
            break  # it may have come back between the look and the count
        last_away = time.monotonic()
        assert (requests, served) == at_ejection[:2], "an ejected replica got a request"
        assert last_away - ejected_at < 10.0, "it never comes back"
        tally = burst(target, 5, at_once=1)
        assert tally.failed == 0, tally
        sent += tally.sent
    away = last_away - ejected_at
    print(f"ejected after 5 errors, away for {away:.2f} s, {sent} requests meanwhile, none of them to it")
    assert sent > 20
    assert away >= EJECTION_SECONDS - 0.2, "back before its time was over"
    assert mesh.served(WELL) >= at_ejection[2] + sent - 5

    def serves_again() -> bool:
        assert burst(target, 4).failed == 0
        return mesh.served(SICK) > at_ejection[1]

    until(serves_again, "the replica serves again", 5.0)
