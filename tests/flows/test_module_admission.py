"""Admission in a real Envoy: what goes, waits or is refused, to the request; and the limits of an answer's time."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.flows.admission_rig import outcomes
from tests.flows.envoy_process import EnvoyProcess, wait_until
from tests.flows.module_rig import (
    Answer,
    PoolBootstrap,
    Upstreams,
    ask,
    chat,
    connect,
    counters,
    in_threads,
    log_lines,
    needs_pools,
    pool_envoy,
    simulated,
    upstreams,
)

pytestmark = needs_pools


@pytest.fixture
def servers() -> Iterator[Upstreams]:
    with upstreams() as started:
        yield started


def gated(tmp_path: Path, ports: list[int], admission: dict[str, Any], **more: Any) -> PoolBootstrap:
    policy = {"admission": admission, **more}
    return PoolBootstrap(tmp_path / "admin.sock", {"models": ports}, policy=policy, log=tmp_path / "log")


def gauge(envoy: EnvoyProcess, name: str) -> int:
    return sum(counters(envoy, name).values())


def running(envoy: EnvoyProcess) -> int:
    name = "cluster.models.upstream_rq_active"
    return envoy.stats(name)[name]


def held_server(gate: threading.Event) -> web.Application:
    """Answers when the gate opens; counts who is there."""
    import asyncio

    async def answer(_: web.Request) -> web.Response:
        while not gate.is_set():
            await asyncio.sleep(0.01)
        return web.json_response({})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    return app


def test_rate_queue_and_waiting_time_are_kept_to_the_request(tmp_path: Path, servers: Upstreams) -> None:
    admission = {"rate_per_second": 2, "burst": 1, "queue": {"requests": 10, "seconds": 1.2}}
    ports = [servers.add(simulated(slots=100)) for _ in range(2)]
    with pool_envoy(gated(tmp_path, ports, admission)) as envoy:
        answers: list[Answer] = in_threads(25, lambda at: ask(envoy, chat(f"{at}")))
        served = sorted(answer.seconds for answer in answers if answer.status == 200)
        refused = [answer for answer in answers if answer.status == 429]
        reasons = [answer.headers["x-headrace-reason"] for answer in refused]
        # One goes at once, ten wait; of those two go within 1.2 s (at 0.5 s and 1.0 s), eight time out.
        assert (len(served), reasons.count("queue-full"), reasons.count("queue-timeout")) == (3, 14, 8)
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        timed_out = [at.seconds for at in refused if at.headers["x-headrace-reason"] == "queue-timeout"]
        assert min(timed_out) >= 1.19
        wait_until(lambda: gauge(envoy, "in_flight") == gauge(envoy, "waiting") == 0, "nothing is left")


def test_twenty_a_second(tmp_path: Path, servers: Upstreams) -> None:
    admission = {"rate_per_second": 20, "burst": 1, "queue": {"requests": 100, "seconds": 10}}
    with pool_envoy(gated(tmp_path, [servers.add(simulated(slots=100))], admission)) as envoy:
        begin = time.monotonic()
        answers: list[Answer] = in_threads(31, lambda at: ask(envoy, chat(f"{at}")))
        assert {answer.status for answer in answers} == {200}
        assert time.monotonic() - begin >= 1.5
        waits = sorted(int(answer.headers["x-headrace-queue-ms"]) for answer in answers)
        assert waits[-1] <= 1510


def burst(envoy: EnvoyProcess, number: int) -> list[http.client.HTTPConnection]:
    """So many requests, all sent within 25 ms (they are whole but for their last byte before)."""
    connections = [connect(envoy) for _ in range(number)]
    body = chat("x")
    for connection in connections:
        connection.putrequest("POST", "/v1/chat/completions")
        connection.putheader("content-type", "application/json")
        connection.putheader("content-length", str(len(body)))
        connection.endheaders(body[:-1])
    time.sleep(0.2)  # Envoy has read all that
    begin = time.monotonic()
    for connection in connections:
        connection.send(body[-1:])
    return connections if time.monotonic() - begin < 0.025 else []


def test_the_burst_of_the_reference_to_the_request(tmp_path: Path, servers: Upstreams) -> None:
    """20 a second, 30 deep, 1 s, 60 at once: docs/reference/admission.md."""
    admission = {"rate_per_second": 20, "burst": 1, "queue": {"requests": 30, "seconds": 1}}
    with pool_envoy(gated(tmp_path, [servers.add(simulated(slots=100))], admission)) as envoy:
        for _ in range(10):
            connections = burst(envoy, 60)
            if connections:
                break
            wait_until(lambda: gauge(envoy, "in_flight") == gauge(envoy, "waiting") == 0, "all is over")
        assert connections, "this machine did not send 60 requests within 25 ms in ten tries"
        answers = [connection.getresponse() for connection in connections]
        found = [answer.getheader("x-headrace-reason", str(answer.status)) for answer in answers]
        assert [found.count(what) for what in ("200", "queue-full", "queue-timeout")] == [21, 29, 10]
        waits = sorted(float(answer.getheader("x-headrace-queue-ms", "")) for answer in answers if answer.status == 200)
        assert waits == pytest.approx([50.0 * place for place in range(21)], abs=26)
        retries = [int(answer.getheader("retry-after", "0")) for answer in answers if answer.status == 429]
        assert all(1 <= seconds <= 3 for seconds in retries)


def test_late_binding_each_waits_for_a_free_place(tmp_path: Path, servers: Upstreams) -> None:
    admission = {"concurrency_per_endpoint": 2, "queue": {"requests": 100, "seconds": 30}}
    ports = [servers.add(simulated(slots=2, decode_rate=50.0)) for _ in range(2)]
    with pool_envoy(gated(tmp_path, ports, admission)) as envoy:
        answers: list[Answer] = in_threads(16, lambda at: ask(envoy, chat(f"{at}", 10)))
        assert {answer.status for answer in answers} == {200}
        waits = sorted(int(answer.headers["x-headrace-queue-ms"]) for answer in answers)
        assert waits[:4] == [0, 0, 0, 0] and waits[4] > 100 and waits[-1] > 500
        for port in ports:
            assert [answer.endpoint for answer in answers].count(f"127.0.0.1:{port}") == 8
    logged = log_lines(tmp_path / "log")
    assert sorted(round(line["queue_ms"]) for line in logged) == pytest.approx(waits, abs=2)


def test_a_client_that_goes_away_leaves_the_queue(tmp_path: Path, servers: Upstreams) -> None:
    gate = threading.Event()
    admission = {"concurrency_per_endpoint": 1, "queue": {"requests": 1, "seconds": 30}}
    bootstrap = gated(tmp_path, [servers.add(held_server(gate))], admission)
    with (
        pool_envoy(bootstrap) as envoy,
        contextlib.closing(connect(envoy)) as first,
        contextlib.closing(connect(envoy)) as last,
    ):
        first.request("POST", "/v1/chat/completions", chat("runs"))
        wait_until(lambda: running(envoy) == 1, "one runs")
        with contextlib.closing(connect(envoy)) as impatient:
            impatient.request("POST", "/v1/chat/completions", chat("waits"))
            wait_until(lambda: gauge(envoy, "waiting") == 1, "one waits")
            assert ask(envoy, chat("too many")).headers["x-headrace-reason"] == "queue-full"
        wait_until(lambda: gauge(envoy, "waiting") == 0, "its place is free")
        last.request("POST", "/v1/chat/completions", chat("waits too"))
        wait_until(lambda: gauge(envoy, "waiting") == 1, "another waits")
        gate.set()
        assert [first.getresponse().status, last.getresponse().status] == [200, 200]
        counted = {"ok": 2, "left": 1, "refused": 1}
        wait_until(lambda: outcomes(envoy) == counted, "each is counted by what became of it")


def test_who_has_priority_goes_first(tmp_path: Path, servers: Upstreams) -> None:
    gate = threading.Event()
    admission = {
        "concurrency_per_endpoint": 1,
        "queue": {"requests": 10, "seconds": 30},
        "priority_header": "x-priority",
        "priorities": ["high", "low"],
    }
    with pool_envoy(gated(tmp_path, [servers.add(held_server(gate))], admission)) as envoy:

        def work(name: str) -> None:
            assert ask(envoy, chat("x", model=name), x_priority=name).status == 200

        threads = []
        for at, name in enumerate(["first", "none", "low", "high"]):
            threads.append(threading.Thread(target=work, args=(name,)))
            threads[-1].start()
            wait_until(lambda at=at: gauge(envoy, "waiting") == at, f"{at} wait")
            wait_until(lambda: running(envoy) == 1, "one runs")
        gate.set()
        for thread in threads:
            thread.join(20)
    assert [line["model"] for line in log_lines(tmp_path / "log")] == ["first", "high", "low", "none"]


def test_a_queue_is_bounded_by_tokens(tmp_path: Path, servers: Upstreams) -> None:
    gate = threading.Event()
    admission = {"concurrency_per_endpoint": 1, "queue": {"requests": 50, "tokens": 1000, "seconds": 30}}
    with pool_envoy(gated(tmp_path, [servers.add(held_server(gate))], admission)) as envoy:
        begun = []
        for at, tokens in enumerate((0, 600, 350)):
            body = chat("x" * 4 * tokens)
            begun.append(threading.Thread(target=lambda body=body: ask(envoy, body)))
            begun[-1].start()
            wait_until(lambda: running(envoy) == 1, "one runs")
            wait_until(lambda at=at: gauge(envoy, "waiting") == at, f"{at} wait")
        full = ask(envoy, chat("x" * 4 * 100))
        assert (full.status, full.headers["x-headrace-reason"]) == (429, "queue-tokens")
        begun.append(threading.Thread(target=lambda: ask(envoy, chat("x" * 4 * 5))))
        begun[-1].start()
        wait_until(lambda: gauge(envoy, "waiting") == 3, "what is small enough waits")
        gate.set()
        for thread in begun:
            thread.join(20)
        wait_until(lambda: outcomes(envoy) == {"ok": 4, "refused": 1}, "all are answered")


def test_a_deadline_that_cannot_be_met_is_refused_at_once(tmp_path: Path, servers: Upstreams) -> None:
    admission = {"queue": {"requests": 10}, "first_token_deadline_header": "x-deadline-ms"}
    cost = {"token_seconds": 0.001}
    with pool_envoy(gated(tmp_path, [servers.add(simulated())], admission, cost=cost)) as envoy:
        long = chat("word " * 4000)
        answer = ask(envoy, long, x_deadline_ms="1000")
        assert (answer.status, answer.headers["x-headrace-reason"]) == (429, "deadline")
        assert ask(envoy, long, x_deadline_ms="20000").status == 200
        assert ask(envoy, long).status == 200


def test_a_deadline_counts_the_wait_that_is_foreseen_and_the_wait_there_is(tmp_path: Path, servers: Upstreams) -> None:
    gate = threading.Event()
    admission = {
        "concurrency_per_endpoint": 1,
        "queue": {"requests": 10, "seconds": 30},
        "first_token_deadline_header": "x-deadline-ms",
    }
    with pool_envoy(gated(tmp_path, [servers.add(held_server(gate))], admission)) as envoy:
        first = threading.Thread(target=lambda: ask(envoy, chat("x")))
        first.start()
        wait_until(lambda: running(envoy) == 1, "one runs")
        at_once = ask(envoy, chat("x"), x_deadline_ms="500")  # until something is known, a request takes 1 s
        later = ask(envoy, chat("x"), x_deadline_ms="1500")
        reasons = [(answer.status, answer.headers["x-headrace-reason"]) for answer in (at_once, later)]
        assert reasons == [(429, "deadline")] * 2
        assert at_once.seconds < 1.0 < 1.4 < later.seconds < 10
        gate.set()
        first.join(20)


def test_a_pool_without_endpoints_answers_503(tmp_path: Path) -> None:
    with pool_envoy(gated(tmp_path, [], {"queue": {"requests": 10, "seconds": 1}})) as envoy:
        answer = ask(envoy, chat("x"))
        assert (answer.status, answer.headers["x-headrace-reason"]) == (503, "no-endpoint")


def test_huge_bodies_are_held_and_go_on(tmp_path: Path, servers: Upstreams) -> None:
    admission = {"rate_per_second": 5, "queue": {"requests": 10, "seconds": 10}}

    async def length(request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))

    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/v1/chat/completions", length)
    with pool_envoy(gated(tmp_path, [servers.add(app)], admission)) as envoy:
        huge = chat("x" * 3_000_000)
        answers: list[Answer] = in_threads(3, lambda _: ask(envoy, huge))
        assert [(answer.status, int(answer.body)) for answer in answers] == [(200, len(huge))] * 3
        assert max(answer.seconds for answer in answers) > 0.35


def test_limits_of_an_answer_s_time(tmp_path: Path, servers: Upstreams) -> None:
    import asyncio

    async def answer(request: web.Request) -> web.StreamResponse:
        pauses = [float(text) for text in request.headers["x-pauses"].split(",")]
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        if pauses[0] >= 0:
            await response.prepare(request)
        for pause in pauses:
            await asyncio.sleep(abs(pause))
            await response.write(b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n')
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    limits = {"first_token_seconds": 0.5, "between_tokens_seconds": 0.3, "total_seconds": 1.5}
    bootstrap = PoolBootstrap(tmp_path / "admin.sock", {"models": [servers.add(app)]}, log=tmp_path / "log")
    bootstrap.policy = {"timeouts": limits}
    with pool_envoy(bootstrap) as envoy:
        body = chat("x", stream=True)
        assert ask(envoy, body, x_pauses="0.4,0.2,0.2,0.2").body.count(b"data:") == 4
        early = ask(envoy, body, x_pauses="-5")
        assert (early.status, early.headers["x-headrace-reason"]) == (504, "timeout")
        assert 0.4 < early.seconds < 2
        for pauses in ("5", "0.1,5", ",".join(["0.2"] * 20)):
            begin = time.monotonic()
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                ask(envoy, body, x_pauses=pauses)
            assert time.monotonic() - begin < 3.5  # Envoy closes up to a second later
        wait_until(lambda: gauge(envoy, "in_flight") == 0, "nothing is left")
    assert [line["outcome"] for line in log_lines(tmp_path / "log")] == ["ok", *["timeout"] * 4]
