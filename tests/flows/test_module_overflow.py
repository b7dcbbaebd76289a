"""Overflow in a real Envoy: what a pool does not take goes elsewhere, once, and a client cannot ask for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.flows.admission_rig import GatedBootstrap, HeldServer, Line, begin, count, gated, opened, outcomes
from tests.flows.envoy_process import wait_until
from tests.flows.module_rig import (
    Upstreams,
    ask,
    chat,
    in_threads,
    log_lines,
    module_filter,
    needs_pools,
    pool_envoy,
    upstreams,
)
from tests.flows.stream_servers import DONE, TOKEN, ScriptedServer

pytestmark = needs_pools

ONE_PLACE = {"concurrency_per_endpoint": 1}
TO_SPILL = {"overflow": {"action": "redirect", "to": "spill"}}
OWN_HEADERS = ("x-headrace-overflow", "x-headrace-request")


@pytest.fixture
def servers() -> Iterator[Upstreams]:
    with upstreams() as started:
        yield started


def names(server: HeldServer) -> set[str]:
    return {name.lower() for request in server.requests for name in request["headers"]}


def test_what_does_not_fit_goes_to_a_destination_that_is_no_pool(tmp_path: Path, servers: Upstreams) -> None:
    busy, spill = HeldServer(), HeldServer(open_at_once=True)
    bootstrap = gated(tmp_path, [servers.add(busy.app())], ONE_PLACE | TO_SPILL, spills={"models": "spill"})
    bootstrap.clusters["spill"] = [servers.add(spill.app())]
    with pool_envoy(bootstrap) as envoy, opened(busy):
        first = begin(lambda: ask(envoy, chat("runs", model="first")))
        wait_until(lambda: busy.running == 1, "one runs")
        bodies = [chat("x" * size, model="other") for size in (10, 100_000, 3_000_000)]  # the last is not read
        answers = [ask(envoy, body) for body in bodies]
        assert [(answer.status, int(answer.body)) for answer in answers] == [(200, len(body)) for body in bodies]
        assert [answer.headers["x-headrace-redirected"] for answer in answers] == ["concurrency"] * 3
        assert not names(spill).intersection(OWN_HEADERS)
        assert ask(envoy, b"", path="/other").headers["x-headrace-redirected"] == "concurrency"
        busy.gate.set()
        assert "x-headrace-redirected" not in first.answer().headers
        wait_until(lambda: outcomes(envoy) == {"ok": 1, "redirected": 4}, f"all counted: {outcomes(envoy)}")
        assert count(envoy, "redirects", "models") == 4
        assert count(envoy, "in_flight") == count(envoy, "waiting") == 0
    lines = {line["model"]: line for line in log_lines(tmp_path / "log") if line["model"] != ""}
    assert lines["first"]["redirected_from"] is None
    assert lines["other"]["redirected_from"] == lines["other"]["pool"] == "test/models"
    assert lines["other"]["outcome"] == "redirected"


def test_who_waited_in_vain_is_redirected_with_its_body(tmp_path: Path, servers: Upstreams) -> None:
    busy, spill = HeldServer(), HeldServer(open_at_once=True)
    admission = ONE_PLACE | TO_SPILL | {"queue": {"requests": 10, "seconds": 0.5}}
    bootstrap = gated(tmp_path, [servers.add(busy.app())], admission, spills={"models": "spill"})
    bootstrap.clusters["spill"] = [servers.add(spill.app())]
    with pool_envoy(bootstrap) as envoy, opened(busy):
        first = begin(lambda: ask(envoy, chat("runs")))
        wait_until(lambda: busy.running == 1, "one runs")
        bodies = [chat("x" * size) for size in (10, 50_000, 2_000_000)]
        answers = in_threads(3, lambda at: ask(envoy, bodies[at]))
        assert [(answer.status, int(answer.body)) for answer in answers] == [(200, len(body)) for body in bodies]
        assert {answer.headers["x-headrace-redirected"] for answer in answers} == {"queue-timeout"}
        assert min(answer.seconds for answer in answers) >= 0.49
        busy.gate.set()
        assert first.answer().status == 200
    waits = [line["queue_ms"] for line in log_lines(tmp_path / "log") if line["outcome"] == "redirected"]
    assert len(waits) == 3 and all(wait == pytest.approx(500, abs=1) for wait in waits)


def two_pools(tmp_path: Path, first: int, second: int, back: bool) -> GatedBootstrap:
    """Pool `models` spills into pool `spill`, which has one place and one that may wait, and spills back if asked."""
    bootstrap = gated(tmp_path, [first], ONE_PLACE | TO_SPILL, spills={"models": "spill"})
    other: dict[str, object] = {**ONE_PLACE, "queue": {"requests": 1, "seconds": 30}}
    if back:
        other["overflow"] = {"action": "redirect", "to": "models"}
        bootstrap.spills["spill"] = "models"
    bootstrap.pools["spill"] = {"admission": other, "block_tokens": 16}
    bootstrap.clusters["spill"] = [second]
    return bootstrap


@pytest.mark.parametrize("back", [False, True])
def test_a_second_pool_has_its_own_admission_and_there_is_no_third(
    tmp_path: Path, servers: Upstreams, back: bool
) -> None:
    first, second = HeldServer(), HeldServer()
    bootstrap = two_pools(tmp_path, servers.add(first.app()), servers.add(second.app()), back)
    with pool_envoy(bootstrap) as envoy, opened(first, second):
        line = Line(envoy)
        line.join("a", 0)
        wait_until(lambda: first.running == 1, "one runs")
        line.join("b", 0)
        wait_until(lambda: second.running == 1, "one runs in the second pool")
        line.join("c", 1)
        refused = ask(envoy, chat("x", model="d"))
        assert (refused.status, refused.headers["x-headrace-reason"]) == (429, "queue-full")
        assert refused.headers["x-headrace-redirected"] == "concurrency"
        first.gate.set()
        second.gate.set()
        assert line.statuses() == [200] * 3
        assert [asked.answer().headers.get("x-headrace-redirected") for asked in line.asked] == [
            None,
            "concurrency",
            "concurrency",
        ]
        wait_until(lambda: sum(outcomes(envoy).values()) == 4, f"all counted: {outcomes(envoy)}")
        assert (outcomes(envoy, "models"), outcomes(envoy, "spill")) == ({"ok": 1}, {"ok": 2, "refused": 1})
        assert (count(envoy, "redirects", "models"), count(envoy, "redirects", "spill")) == (3, 0)
        assert count(envoy, "in_flight") == count(envoy, "waiting") == 0
    lines = {line["model"]: (line["pool"], line["redirected_from"]) for line in log_lines(tmp_path / "log")}
    assert lines == {"a": ("test/models", None), **dict.fromkeys("bcd", ("test/spill", "test/models"))}


def test_a_client_cannot_ask_for_the_route_of_an_overflow(tmp_path: Path, servers: Upstreams) -> None:
    usual, spill = HeldServer(open_at_once=True), HeldServer(open_at_once=True)
    bootstrap = gated(tmp_path, [servers.add(usual.app())], ONE_PLACE | TO_SPILL, spills={"models": "spill"})
    bootstrap.clusters["spill"] = [servers.add(spill.app())]
    with pool_envoy(bootstrap) as envoy:
        for _ in range(5):
            answer = ask(envoy, chat("x"), x_headrace_overflow="spill", x_headrace_redirected="yes")
            assert (answer.status, answer.endpoint != "") == (200, True)
        assert (len(usual.requests), len(spill.requests)) == (5, 0)
        assert not names(usual).intersection({"x-headrace-overflow"})
        assert count(envoy, "redirects") == 0


def test_without_a_route_for_it_what_overflows_is_refused(tmp_path: Path, servers: Upstreams) -> None:
    busy = HeldServer()
    with pool_envoy(gated(tmp_path, [servers.add(busy.app())], ONE_PLACE | TO_SPILL)) as envoy, opened(busy):
        first = begin(lambda: ask(envoy, chat("runs")))
        wait_until(lambda: busy.running == 1, "one runs")
        refused = ask(envoy, chat("x"))
        assert (refused.status, refused.headers["x-headrace-reason"]) == (429, "concurrency")
        assert "x-headrace-redirected" not in refused.headers
        busy.gate.set()
        assert first.answer().status == 200
        wait_until(lambda: outcomes(envoy) == {"ok": 1, "refused": 1}, "both counted")
        assert count(envoy, "redirects") == 0


def test_a_pool_without_endpoints_spills_too(tmp_path: Path, servers: Upstreams) -> None:
    spill = HeldServer(open_at_once=True)
    bootstrap = gated(tmp_path, [], TO_SPILL, spills={"models": "spill"})
    bootstrap.clusters["spill"] = [servers.add(spill.app())]
    with pool_envoy(bootstrap) as envoy:
        answer = ask(envoy, chat("x"))
        assert (answer.status, answer.headers["x-headrace-redirected"]) == (200, "no-endpoint")


@pytest.mark.parametrize("pool", [False, True])
def test_no_sign_of_life_bars_the_way_elsewhere(tmp_path: Path, servers: Upstreams, pool: bool) -> None:
    """Envoy chooses no route any more once an answer has begun, so a stream gets its first sign of life there."""
    busy, spill = HeldServer(), ScriptedServer([0.5, TOKEN, DONE])
    admission = ONE_PLACE | TO_SPILL | {"queue": {"requests": 10, "seconds": 0.6}}
    bootstrap = gated(tmp_path, [servers.add(busy.app())], admission, spills={"models": "spill"})
    bootstrap.before = [module_filter("keepalive")]
    bootstrap.pools["models"]["keepalive_seconds"] = 0.1
    if pool:
        bootstrap.pools["spill"] = {"keepalive_seconds": 0.1}
    bootstrap.clusters["spill"] = [servers.add(spill.app())]
    with pool_envoy(bootstrap) as envoy, opened(busy):
        first = begin(lambda: ask(envoy, chat("runs")))
        wait_until(lambda: busy.running == 1, "one runs")
        answer = ask(envoy, chat("x", stream=True))
        assert (answer.status, answer.headers["x-headrace-redirected"]) == (200, "queue-timeout")
        assert answer.body.endswith(TOKEN + DONE) and answer.body.startswith(b": waiting\n\n") is pool
        busy.gate.set()
        assert first.answer().status == 200
        last = {"ok": 2} if pool else {"ok": 1, "redirected": 1}
        wait_until(lambda: outcomes(envoy) == last, f"both are counted: {outcomes(envoy)}")
