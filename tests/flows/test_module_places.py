"""Late binding in a real Envoy: places at endpoints, endpoints that drain, settings that change while requests wait."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.flows.admission_rig import GatedBootstrap, HeldServer, Line, count, gated, opened, outcomes
from tests.flows.envoy_process import EnvoyProcess, wait_until
from tests.flows.module_rig import (
    Upstreams,
    ask,
    chat,
    connect,
    in_threads,
    needs_pools,
    pool_envoy,
    simulated,
    upstreams,
)

pytestmark = needs_pools

ONE_EACH = {"concurrency_per_endpoint": 1, "queue": {"requests": 50, "seconds": 60}}


@pytest.fixture
def servers() -> Iterator[Upstreams]:
    with upstreams() as started:
        yield started


def come(envoy: EnvoyProcess, held: list[HeldServer], run: int, count: int, **headers: str) -> Line:
    """So many requests, one after the other, of which the first `run` are with the servers and the others wait."""
    line = Line(envoy)
    for at in range(count):
        line.join("the same prompt " * 50, max(0, at + 1 - run), **headers)
        wait_until(lambda at=at: sum(server.running for server in held) == min(at + 1, run), "it runs or waits", 30)
    return line


@pytest.mark.parametrize("policy", ["predicted-drain", "least-request", "round-robin", "prefix", "random-two"])
def test_no_server_gets_more_than_it_may(tmp_path: Path, servers: Upstreams, policy: str) -> None:
    """Also where a session or a prefix would have all of them on one."""
    held = [HeldServer() for _ in range(3)]
    bootstrap = gated(tmp_path, [servers.add(server.app()) for server in held], {})
    bootstrap.pools["models"] = {
        "admission": {**ONE_EACH, "concurrency_per_endpoint": 2},
        "policy": policy,
        "session_header": "x-session",
        "block_tokens": 16,
    }
    with pool_envoy(bootstrap) as envoy, opened(*held):
        line = come(envoy, held, 6, 10, x_session="one")
        assert [server.running for server in held] == [2, 2, 2]
        for server in held:
            server.gate.set()
        assert line.statuses() == [200] * 10
        assert max(server.most for server in held) <= 2
        assert count(envoy, "overfull") == 0


def test_who_waits_is_bound_to_whichever_server_is_free_first(tmp_path: Path, servers: Upstreams) -> None:
    held = [HeldServer(), HeldServer()]
    with pool_envoy(gated(tmp_path, [servers.add(server.app()) for server in held], ONE_EACH)) as envoy, opened(*held):
        line = come(envoy, held, 2, 6)
        assert [server.running for server in held] == [1, 1]
        held[1].gate.set()  # the other hangs: all that wait go here
        assert [asked.answer().status for asked in line.asked[2:]] == [200] * 4
        assert (len(held[0].requests), len(held[1].requests)) == (1, 5)
        held[0].gate.set()
        assert line.statuses() == [200] * 6


def test_a_bound_of_the_whole_pool(tmp_path: Path, servers: Upstreams) -> None:
    held = [HeldServer(), HeldServer()]
    admission = {"concurrency": 3, "queue": {"requests": 1, "seconds": 60}}
    with pool_envoy(gated(tmp_path, [servers.add(server.app()) for server in held], admission)) as envoy:
        with opened(*held):
            line = come(envoy, held, 3, 4)
            assert ask(envoy, chat("x")).headers["x-headrace-reason"] == "queue-full"
        assert line.statuses() == [200] * 4


def gauge(envoy: EnvoyProcess, name: str) -> int:
    return sum(envoy.stats(f"headrace_{name}").values())


def test_gauges_are_current_while_requests_last(tmp_path: Path, servers: Upstreams) -> None:
    held = HeldServer()
    with pool_envoy(gated(tmp_path, [servers.add(held.app())], {**ONE_EACH, "concurrency_per_endpoint": 2})) as envoy:
        with opened(held):
            line = come(envoy, [held], 2, 3)
            wait_until(lambda: (gauge(envoy, "in_flight"), gauge(envoy, "waiting")) == (2, 1), "gauges say so", 30)
        assert line.statuses() == [200] * 3
        wait_until(lambda: (gauge(envoy, "in_flight"), gauge(envoy, "waiting")) == (0, 0), "nothing is left", 30)


def test_places_that_were_learned_hold_requests_in_the_mesh(tmp_path: Path, servers: Upstreams) -> None:
    """Streams at servers with two places: once that is known, no server has more than three."""
    ports = [servers.add(simulated(slots=2, decode_rate=50.0, seed=at)) for at in range(2)]
    admission = {"learned_concurrency": True, "queue": {"requests": 50, "seconds": 60}}
    with pool_envoy(gated(tmp_path, ports, admission)) as envoy:

        def held() -> bool:
            """Whether, of twelve streams at once, some wait in the mesh and only so many are with the servers."""
            seen = []
            with ThreadPoolExecutor(12) as executor:
                asked = [
                    executor.submit(ask, envoy, chat(f"{time.monotonic()} {at}", 20, stream=True)) for at in range(12)
                ]
                while not all(one.done() for one in asked):
                    seen.append((gauge(envoy, "in_flight"), gauge(envoy, "waiting")))
                    time.sleep(0.05)
            assert [one.result().status for one in asked] == [200] * 12
            return (6, 6) in seen

        wait_until(held, "requests wait in the mesh", 60.0)


class Healthy(GatedBootstrap):
    """Some endpoints of the pool drain."""

    draining: tuple[int, ...] = ()

    def _cluster(self, name: str, ports: list[int]) -> dict[str, Any]:
        cluster = super()._cluster(name, ports)
        for endpoint, port in zip(cluster["load_assignment"]["endpoints"][0]["lb_endpoints"], ports, strict=True):
            if port in self.draining:
                endpoint["health_status"] = "DRAINING"
        return cluster


def changing(tmp_path: Path, ports: list[int], admission: dict[str, Any]) -> Healthy:
    pools = {"models": {"admission": admission}}
    return Healthy(tmp_path / "admin.sock", {"models": ports}, pools=pools, log=tmp_path / "log", dynamic=True)


def test_what_runs_where_an_endpoint_drains_takes_no_place_of_the_others(tmp_path: Path, servers: Upstreams) -> None:
    held = [HeldServer(), HeldServer()]
    bootstrap = changing(tmp_path, [servers.add(server.app()) for server in held], ONE_EACH)
    with pool_envoy(bootstrap) as envoy, opened(*held):
        line = come(envoy, held, 2, 4)
        assert [server.running for server in held] == [1, 1]
        bootstrap.draining = (servers.ports[0],)
        bootstrap.change(envoy)
        held[1].gate.set()
        assert [asked.answer().status for asked in line.asked[2:]] == [200] * 2
        assert (len(held[0].requests), len(held[1].requests), held[0].running) == (1, 3, 1)
        bootstrap.clusters["models"] = servers.ports[1:]  # and it goes, while its request still runs
        bootstrap.draining = ()
        bootstrap.change(envoy)
        assert ask(envoy, chat("x")).status == 200
        held[0].gate.set()
        assert line.statuses() == [200] * 4
        assert count(envoy, "overfull") == 0


CHANGES: dict[str, dict[str, Any]] = {
    "more places": {"admission": {**ONE_EACH, "concurrency_per_endpoint": 10}},
    "no admission any more": {},
    "a rate in place of places": {"admission": {"rate_per_second": 1000, "queue": {"requests": 1, "seconds": 60}}},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_settings_reaches_those_that_wait(tmp_path: Path, servers: Upstreams, change: str) -> None:
    """Nothing else happens in the pool: nobody comes and nobody ends."""
    server = HeldServer()
    bootstrap = changing(tmp_path, [servers.add(server.app())], ONE_EACH)
    with pool_envoy(bootstrap) as envoy, opened(server):
        line = come(envoy, [server], 1, 6)
        bootstrap.change(envoy, models=CHANGES[change])
        wait_until(lambda: server.running == 6, "all run", 30)
        server.gate.set()
        assert line.statuses() == [200] * 6


def test_a_shorter_queue_keeps_those_that_wait_in_it(tmp_path: Path, servers: Upstreams) -> None:
    server = HeldServer()
    bootstrap = changing(tmp_path, [servers.add(server.app())], ONE_EACH)
    with pool_envoy(bootstrap) as envoy, opened(server):
        line = come(envoy, [server], 1, 5)
        bootstrap.change(envoy, models={"admission": {**ONE_EACH, "queue": {"requests": 1, "seconds": 60}}})
        assert ask(envoy, chat("x")).headers["x-headrace-reason"] == "queue-full"
        server.gate.set()
        assert line.statuses() == [200] * 5


def test_a_shorter_wait_holds_from_the_change_on(tmp_path: Path, servers: Upstreams) -> None:
    server = HeldServer()
    bootstrap = changing(tmp_path, [servers.add(server.app())], {**ONE_EACH, "queue": {"requests": 50}})
    with pool_envoy(bootstrap) as envoy, opened(server):
        line = come(envoy, [server], 1, 4)
        bootstrap.change(envoy, models={"admission": {**ONE_EACH, "queue": {"requests": 50, "seconds": 0.3}}})
        answers = [asked.answer() for asked in line.asked[1:]]
        assert [answer.headers["x-headrace-reason"] for answer in answers] == ["queue-timeout"] * 3
        server.gate.set()
        assert line.asked[0].answer().status == 200


def test_a_pool_that_is_taken_away_answers_those_that_wait(tmp_path: Path, servers: Upstreams) -> None:
    server = HeldServer()
    bootstrap = changing(tmp_path, [servers.add(server.app())], {**ONE_EACH, "queue": {"requests": 50}})
    with pool_envoy(bootstrap) as envoy, opened(server):
        line = come(envoy, [server], 1, 4)
        bootstrap.clusters.clear()
        bootstrap.change(envoy)
        assert [asked.answer().status for asked in line.asked[1:]] == [503] * 3
        assert ask(envoy, chat("x")).status == 503
        server.gate.set()
        assert line.asked[0].answer().status == 200


def test_an_endpoint_that_comes_lets_those_go_that_wait(tmp_path: Path, servers: Upstreams) -> None:
    held = [HeldServer(), HeldServer()]
    ports = [servers.add(server.app()) for server in held]
    bootstrap = changing(tmp_path, ports[:1], ONE_EACH)
    with pool_envoy(bootstrap) as envoy, opened(*held):
        line = come(envoy, [held[0]], 1, 3)
        bootstrap.clusters["models"] = ports
        bootstrap.change(envoy)
        wait_until(lambda: held[1].running == 1, "the new one has one", 30)
        held[1].gate.set()
        assert [asked.answer().status for asked in line.asked[1:]] == [200] * 2
        assert len(held[0].requests) == 1
        held[0].gate.set()
        assert line.statuses() == [200] * 3
        wait_until(lambda: outcomes(envoy) == {"ok": 3}, "all counted")


def test_each_subset_waits_for_places_of_its_own(tmp_path: Path, servers: Upstreams) -> None:
    """A canary: most requests go to one of two clusters of a pool; what is free at the other is no use to them."""
    held = [HeldServer(), HeldServer()]
    bootstrap = gated(tmp_path, [servers.add(held[0].app())], ONE_EACH)
    bootstrap.clusters["v2"] = [servers.add(held[1].app())]
    bootstrap.pools["v2"] = {"admission": ONE_EACH, "pool": "test/models"}
    bootstrap.routes.insert(0, {"prefix": "/v2", "route": {"cluster": "v2"}})
    with pool_envoy(bootstrap) as envoy, opened(*held):
        line = come(envoy, held[:1], 1, 4)
        line.join("m", 3, lambda body: ask(envoy, body, path="/v2/chat/completions"))
        wait_until(lambda: held[1].running == 1, "what is for the other does not wait")
        line.join("m", 4, lambda body: ask(envoy, body, path="/v2/chat/completions"))
        held[1].gate.set()
        assert line.asked[5].answer().status == line.asked[4].answer().status == 200
        wait_until(lambda: count(envoy, "waiting") == 3, "those for the first wait on")
        held[0].gate.set()
        assert line.statuses() == [200] * 6
        assert (held[0].most, held[1].most, count(envoy, "overfull")) == (1, 1, 0)


def test_many_workers_share_one_set_of_places(tmp_path: Path, servers: Upstreams) -> None:
    """Requests that come, end and leave in four threads of Envoy at once: no place is given twice, none is lost."""
    held = [HeldServer(open_at_once=True, seconds=seconds) for seconds in (0.001, 0.004, 0.009)]
    bootstrap = gated(tmp_path, [servers.add(server.app()) for server in held], {}, log=None)
    queue = {"requests": 1000, "seconds": 60}
    tenant = {"header": "x-tenant"}
    bootstrap.pools["models"] = {"admission": {"concurrency_per_endpoint": 2, "queue": queue, "tenant": tenant}}
    with pool_envoy(bootstrap, workers=4) as envoy:

        def work(thread: int) -> set[int]:
            return {ask(envoy, chat("x"), x_tenant=f"{thread % 5}").status for _ in range(25)}

        assert set.union(*in_threads(24, work)) == {200}
        assert max(server.most for server in held) == 2
        assert sum(len(server.requests) for server in held) == 600

        def leave(thread: int) -> None:
            for _ in range(15):
                with contextlib.closing(connect(envoy)) as connection:
                    connection.request("POST", "/v1/chat/completions", chat("x"))
                    time.sleep(0.001 * (thread % 5))

        in_threads(16, leave)
        wait_until(lambda: sum(outcomes(envoy).values()) == 840, f"each is counted: {outcomes(envoy)}", 30)
        wait_until(lambda: count(envoy, "in_flight") == count(envoy, "waiting") == 0, "no place is lost", 30)
        assert (count(envoy, "overfull"), count(envoy, "panics")) == (0, 0)
        assert ask(envoy, chat("x")).status == 200
