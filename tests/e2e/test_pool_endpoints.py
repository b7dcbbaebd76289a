"""Endpoints of pools that come, drain, fall ill and die: who gets requests, and what clients see."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from tests.e2e.asking import asked, burst, example, needs_module
from tests.e2e.conftest import StartMesh
from tests.e2e.load import Load, Tally, Target
from tests.e2e.load import burst as paced
from tests.e2e.running import RunningMesh, until

pytestmark = needs_module
CLUSTER = "outbound|8000||large.default.inference.local"
ONLY_LARGE = example("pool")["gateway.yaml"].replace("weight: 90", "weight: 100").replace("weight: 10\n", "weight: 0\n")
WORKLOADS = example("pool")["workloads.yaml"]


@pytest.fixture(scope="module")
def mesh(start_mesh: StartMesh) -> RunningMesh:
    return start_mesh({**example("pool"), "gateway.yaml": ONLY_LARGE})


def gateway_of(mesh: RunningMesh) -> str:
    """The gateway's replica."""
    return next(name for name in mesh.proxies() if name.startswith("istio-system/"))


def replicas(mesh: RunningMesh, count: int) -> None:
    """Run so many replicas of the large model, and wait until the gateway sends requests to just as many."""
    assert "replicas: 3" in WORKLOADS
    mesh.write("workloads.yaml", WORKLOADS.replace("replicas: 3", f"replicas: {count}"))
    until(lambda: len(mesh.replicas("large")) == count, f"{count} replicas", 60.0)
    until(lambda: healths(mesh) == Counter({"HEALTHY": count}), f"{count} endpoints at the gateway", 60.0)


def hosts(mesh: RunningMesh) -> dict[str, dict[str, Any]]:
    """What the gateway's Envoy knows of the pool's endpoints, by address."""
    clusters = json.loads(mesh.admin(gateway_of(mesh), "/clusters?format=json"))["cluster_statuses"]
    found: list[dict[str, Any]] = [
        host for cluster in clusters if cluster["name"] == CLUSTER for host in cluster.get("host_statuses", [])
    ]
    return {host["address"]["socket_address"]["address"]: host for host in found}


def health(host: dict[str, Any]) -> str:
    """An endpoint's health as discovery says it."""
    return str(host.get("health_status", {}).get("eds_health_status", ""))


def healths(mesh: RunningMesh) -> Counter[str]:
    return Counter(health(host) for host in hosts(mesh).values())


def sent_to(mesh: RunningMesh, address: str, name: str = "rq_total") -> int:
    """Requests that the gateway has sent to an endpoint (`rq_active`: that run there now)."""
    host = hosts(mesh).get(address, {"stats": []})
    return sum(int(item.get("value", 0)) for item in host["stats"] if item["name"] == name)


def books(mesh: RunningMesh, statistic: str) -> int:
    """What the module says of the large pool."""
    found = mesh.stats(gateway_of(mesh), f"dynamicmodulescustom.headrace_{statistic}")
    return sum(value for name, value in found.items() if "large.default.inference.local" in name)


def settled(read: Callable[[], int]) -> int:
    """A count that the module tells a few times a second, once it stands still."""
    before = -1
    while before != (before := read()):
        time.sleep(0.6)
    return before


class Streams:
    """So many long streams at once in a thread; leaving the context waits for their ends."""

    def __init__(self, mesh: RunningMesh, count: int, tokens: int) -> None:
        self.tally = Tally()
        target = Target(mesh.gateway())
        self._thread = threading.Thread(target=self._run, args=(target, count, tokens), daemon=True)

    def _run(self, target: Target, count: int, tokens: int) -> None:
        self.tally = paced(target, count, at_once=count, tokens=tokens)

    def __enter__(self) -> Streams:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(60.0)
        assert not self._thread.is_alive()


def test_a_draining_replica_gets_nothing_new_and_loses_nothing(mesh: RunningMesh) -> None:
    replicas(mesh, 3)
    address = mesh.row("default/large-2")["address"]
    with Streams(mesh, 18, 400) as streams:  # 4 s each
        until(lambda: sum(sent_to(mesh, one, "rq_active") for one in hosts(mesh)) == 18, "all streams run")
        running = sent_to(mesh, address)
        mesh.write("workloads.yaml", WORKLOADS.replace("replicas: 3", "replicas: 2"))
        until(lambda: health(hosts(mesh).get(address, {})) == "DRAINING", "the gateway hears that it drains", 3.0)
        marked = sent_to(mesh, address)
        assert marked >= running > 0
        for _ in range(4):
            answers = burst(mesh.gateway(), ["quick"] * 10)
            assert {answer.status for answer in answers} == {200}
        until(lambda: books(mesh, "in_flight") >= 18, "the books keep what still runs there", 2.0)
        assert sent_to(mesh, address) == marked, "a draining replica got a request"
        assert health(hosts(mesh).get(address, {})) == "DRAINING", "it left before its streams ended"
    assert (streams.tally.sent, streams.tally.failed) == (18, 0), streams.tally
    until(lambda: healths(mesh) == Counter({"HEALTHY": 2}), "it is gone", 30.0)
    assert settled(lambda: books(mesh, "in_flight")) == 0


def test_a_replica_that_is_not_ready_gets_nothing_and_comes_back(mesh: RunningMesh) -> None:
    replicas(mesh, 2)
    ill, address = "default/large-0", mesh.row("default/large-0")["address"]
    mesh.ask_app(ill, "PUT", "/faults", {"unhealthy": True})
    until(lambda: health(hosts(mesh)[address]) == "DRAINING", "the gateway hears that it is not ready", 60.0)
    before = sent_to(mesh, address)
    assert {answer.status for answer in burst(mesh.gateway(), ["go"] * 20)} == {200}
    assert sent_to(mesh, address) == before
    mesh.ask_app(ill, "PUT", "/faults", {})
    until(lambda: health(hosts(mesh)[address]) == "HEALTHY", "it is ready again", 60.0)

    def works() -> bool:
        burst(mesh.gateway(), ["go"] * 10)
        return sent_to(mesh, address) > before

    until(works, "it gets requests again")


def test_replicas_come_and_go_under_load_without_a_lost_request(mesh: RunningMesh) -> None:
    replicas(mesh, 2)
    with Load(Target(mesh.gateway()), rate=30.0) as load:
        for count in (3, 1, 3):
            replicas(mesh, count)
            load.run_on(20)
    assert load.tally.failed == 0, load.tally


def test_every_attempt_is_in_the_books(mesh: RunningMesh) -> None:
    """Each attempt of Envoy's router, first or again, is one pick of the scheduler's; a retry outside its books would
    make the two differ. And no request goes twice to the endpoint that refused it."""
    replicas(mesh, 3)
    policy = example("pool")["pools.yaml"]
    mesh.write("pools.yaml", policy + "  retries: {attempts: 1}\n")
    sick = "default/large-1"
    address = mesh.row(sick)["address"]

    def counts() -> tuple[int, int, int]:
        found = mesh.stats(gateway_of(mesh), f"cluster.{CLUSTER}.upstream_rq")
        total = sum(value for name, value in found.items() if name.endswith("upstream_rq_total"))
        again = sum(value for name, value in found.items() if name.endswith("upstream_rq_retry"))
        return settled(lambda: books(mesh, "picks")), total, again

    mesh.ask_app(sick, "PUT", "/faults", {"status": 503})
    in_force = lambda: {answer.status for answer in burst(mesh.gateway(), ["go"] * 12)} == {200}  # noqa: E731
    until(in_force, "requests are sent again")
    before, sent = counts(), sent_to(mesh, address)
    answers = burst(mesh.gateway(), [f"go {number}" for number in range(60)], 3)
    mesh.ask_app(sick, "PUT", "/faults", {})
    picks, total, again = (now - then for now, then in zip(counts(), before, strict=True))
    assert {answer.status for answer in answers} == {200}
    assert again > 0 and total == 60 + again, (total, again)
    assert picks == total, f"{total} attempts, {picks} of them in the books"
    assert sent_to(mesh, address) - sent == again, "a retry went back to the endpoint that had refused it"
    assert settled(lambda: books(mesh, "in_flight")) == 0
    mesh.write("pools.yaml", policy)


def test_a_new_replica_gets_less_than_its_share_at_first(mesh: RunningMesh) -> None:
    policy = example("pool")["pools.yaml"]
    assert "sessionHeader: x-session-id" in policy
    mesh.write("pools.yaml", policy.replace("sessionHeader: x-session-id", "warmup: 10s"))
    replicas(mesh, 1)
    time.sleep(10.0)  # now this one is warm
    replicas(mesh, 2)
    address = mesh.row("default/large-1")["address"]

    def share() -> float:
        before = sent_to(mesh, address)
        answers = asyncio.run(asked(mesh.gateway(), [f"go {number} " * 20 for number in range(60)], 20))
        assert {answer.status for answer in answers} == {200}
        return (sent_to(mesh, address) - before) / len(answers)

    cold = share()
    mesh.write("pools.yaml", policy)
    warm = until(lambda: found if (found := share()) > 0.4 else 0.0, "both have half of it without the warm-up", 30.0)
    print(f"share of the new replica: {cold:.2f} while it warms up, {warm:.2f} without")
    assert cold < 0.35, (cold, warm)
