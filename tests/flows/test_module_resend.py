"""Requests are sent again while nothing of an answer has reached the client: once, counted, and only if allowed."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.flows.envoy_process import EnvoyProcess, wait_until
from tests.flows.module_rig import (
    PoolBootstrap,
    Upstreams,
    ask,
    chat,
    counters,
    log_lines,
    needs_pools,
    pool_envoy,
    upstreams,
)
from tests.flows.stream_servers import DONE, ROLE, TOKEN, ScriptedServer

pytestmark = needs_pools
WHOLE = [TOKEN, TOKEN, DONE]
AGAIN = {"retry_on": "connect-failure,refused-stream,reset,retriable-status-codes", "num_retries": 1}


@pytest.fixture
def servers() -> Iterator[Upstreams]:
    with upstreams() as started:
        yield started


def resending(tmp_path: Path, ports: list[int], retry: dict[str, Any] | None = None, **policy: Any) -> PoolBootstrap:
    action: dict[str, Any] = {"cluster": "models", "timeout": "30s"}
    if retry is not None:
        action["retry_policy"] = {"retriable_status_codes": [503], **retry}
    return PoolBootstrap(
        tmp_path / "admin.sock",
        {"models": ports},
        policy={"policy": "round-robin", "resend": 1, **policy},
        routes=[{"prefix": "/", "route": action}],
        log=tmp_path / "log",
    )


def books_are_empty(envoy: EnvoyProcess) -> None:
    wait_until(lambda: set(counters(envoy, "in_flight").values()) == {0}, "the books are empty")


@pytest.mark.parametrize(
    "bad",
    [["headers", "break"], ["headers", ROLE, 0.05, "break"], ["break"], [503], ["headers", b": ping\n\n", "break"]],
    ids=["after-headers", "after-the-role", "before-headers", "503", "after-a-comment"],
)
def test_what_breaks_before_its_first_token_is_sent_again(tmp_path: Path, servers: Upstreams, bad: list[Any]) -> None:
    server = ScriptedServer(bad, WHOLE)
    ports = [servers.add(server.app()) for _ in range(2)]
    with pool_envoy(resending(tmp_path, ports, AGAIN)) as envoy:
        answer = ask(envoy, chat("x", stream=True))
        assert (answer.status, answer.body) == (200, b"".join(WHOLE))
        books_are_empty(envoy)
        wait_until(lambda: counters(envoy, "resent") == {"pool.test/models": 1}, "it is counted")
        assert counters(envoy, "panics") == {"": 0}
    assert len(server.bodies) == 2 and server.bodies[0] == server.bodies[1]
    (line,) = log_lines(tmp_path / "log")
    assert (line["attempts"], line["resent"], line["outcome"], line["tokens_out"]) == (2, 1, "ok", 2)
    assert line["endpoint"] == answer.endpoint


def test_a_server_that_hangs_before_its_first_token_costs_one_limit(tmp_path: Path, servers: Upstreams) -> None:
    for hanging in (["hang"], ["headers", ROLE, "hang"]):
        server = ScriptedServer(hanging, WHOLE)
        (tmp_path / "log").unlink(missing_ok=True)
        ports = [servers.add(server.app()) for _ in range(2)]
        with pool_envoy(resending(tmp_path, ports, AGAIN, timeouts={"first_token_seconds": 0.5})) as envoy:
            answer = ask(envoy, chat("x", stream=True))
            assert (answer.status, answer.body) == (200, b"".join(WHOLE))
            assert 0.45 < answer.seconds < 5
            books_are_empty(envoy)
        (line,) = log_lines(tmp_path / "log")
        assert (line["resent"], line["outcome"]) == (1, "ok")
        assert len(server.bodies) == 2


def test_where_all_hang_the_client_gets_504_and_not_half_an_answer(tmp_path: Path, servers: Upstreams) -> None:
    server = ScriptedServer(["headers", ROLE, "hang"])
    ports = [servers.add(server.app()) for _ in range(3)]
    with pool_envoy(resending(tmp_path, ports, AGAIN, timeouts={"first_token_seconds": 0.3})) as envoy:
        answer = ask(envoy, chat("x", stream=True))
        assert (answer.status, answer.headers["x-headrace-reason"]) == (504, "timeout")
        books_are_empty(envoy)
    assert len(server.bodies) == 2
    (line,) = log_lines(tmp_path / "log")
    assert (line["resent"], line["outcome"]) == (1, "timeout")


def test_no_request_goes_on_after_two_answers_began_whatever_the_route_says(tmp_path: Path, servers: Upstreams) -> None:
    server = ScriptedServer(["headers", "break"])
    ports = [servers.add(server.app()) for _ in range(4)]
    with pool_envoy(resending(tmp_path, ports, {**AGAIN, "num_retries": 5})) as envoy:
        assert ask(envoy, chat("x", stream=True)).status == 503
        books_are_empty(envoy)
    assert len(server.bodies) == 2


def test_the_answer_to_a_mirror_s_copy_does_not_count(tmp_path: Path, servers: Upstreams) -> None:
    copies, server = ScriptedServer(WHOLE), ScriptedServer(["headers", 0.3, "break"], WHOLE)
    bootstrap = resending(tmp_path, [servers.add(server.app()) for _ in range(2)], AGAIN)
    bootstrap.clusters["copies"] = [servers.add(copies.app())]
    bootstrap.routes[0]["route"]["request_mirror_policies"] = [{"cluster": "copies"}]
    with pool_envoy(bootstrap) as envoy:
        assert ask(envoy, chat("x", stream=True)).body == b"".join(WHOLE)
        books_are_empty(envoy)
    assert (len(server.bodies), len(copies.bodies)) == (2, 1)


@pytest.mark.parametrize("forbidden", ["by the route", "by the settings", "after a token", "beyond the buffer"])
def test_it_is_not_sent_again(tmp_path: Path, servers: Upstreams, forbidden: str) -> None:
    begins: list[Any] = [TOKEN, 0.05] if forbidden == "after a token" else []
    server = ScriptedServer(["headers", *begins, "break"], WHOLE)
    ports = [servers.add(server.app()) for _ in range(2)]
    bootstrap = resending(tmp_path, ports, None if forbidden == "by the route" else AGAIN)
    assert bootstrap.policy is not None
    if forbidden == "by the settings":
        bootstrap.policy["resend"] = 0
    if forbidden == "beyond the buffer":
        bootstrap.policy["max_body_bytes"] = 1000
    with pool_envoy(bootstrap) as envoy:
        status = 0
        with contextlib.suppress(http.client.HTTPException, ConnectionError):
            status = ask(envoy, chat("x" * 3000, stream=True)).status
        assert status in ((502, 503) if forbidden == "by the route" else (0,))
        books_are_empty(envoy)
    assert len(server.bodies) == 1
    (line,) = log_lines(tmp_path / "log")
    assert line["resent"] == 0


def test_what_is_no_stream_is_withheld_until_its_first_byte(tmp_path: Path, servers: Upstreams) -> None:
    server = ScriptedServer(["headers", "break"], ["headers", 0.05, b"{}"])
    ports = [servers.add(server.app("application/json")) for _ in range(2)]
    with pool_envoy(resending(tmp_path, ports, AGAIN)) as envoy:
        assert ask(envoy, chat("x")).body == b"{}"
        assert ask(envoy, chat("x")).body == b"{}"
        books_are_empty(envoy)
    assert [line["resent"] for line in log_lines(tmp_path / "log")] == [1, 0]


def test_streams_without_a_token_pass_at_their_end_or_when_they_grow(tmp_path: Path, servers: Upstreams) -> None:
    silent = b": nothing but comments\n\n"
    server = ScriptedServer([silent, ROLE, DONE], [silent * 2000, 0.2, ROLE, DONE], ["headers"])
    with pool_envoy(resending(tmp_path, [servers.add(server.app())], AGAIN)) as envoy:
        assert ask(envoy, chat("x", stream=True)).body == silent + ROLE + DONE
        assert ask(envoy, chat("x", stream=True)).body == silent * 2000 + ROLE + DONE
        assert ask(envoy, chat("x", stream=True)).body == b""
        books_are_empty(envoy)
    assert len(server.bodies) == 3


@pytest.mark.parametrize("resend", [0, 1])
@pytest.mark.parametrize(
    ("steps", "limits", "status"),
    [
        (["hang"], {"first_token_seconds": 0.5}, 504),
        (["headers", "hang"], {"first_token_seconds": 0.5}, None),
        (["headers", ROLE, "hang"], {"first_token_seconds": 0.5}, None),
        ([TOKEN, "hang"], {"first_token_seconds": 5, "between_tokens_seconds": 0.5}, 0),
        ([TOKEN, "hang"], {"between_tokens_seconds": 0.5}, 0),
        ([TOKEN, *[0.1, TOKEN] * 60], {"between_tokens_seconds": 1, "total_seconds": 0.6}, 0),
        (["hang"], {"total_seconds": 0.6}, 504),
    ],
    ids=["nothing", "headers", "role", "between-tokens", "between-tokens-alone", "total", "total-of-nothing"],
)
def test_limits_hold_wherever_a_server_hangs(
    tmp_path: Path, servers: Upstreams, resend: int, steps: list[Any], limits: dict[str, float], status: int | None
) -> None:
    port = servers.add(ScriptedServer(steps).app())
    bootstrap = resending(tmp_path, [port], timeouts=limits)
    assert bootstrap.policy is not None
    bootstrap.policy["resend"] = resend
    expected = (504 if resend else 0) if status is None else status  # 0: headers went out, so the stream is cut
    with pool_envoy(bootstrap) as envoy:
        begin = time.monotonic()
        found = 0
        with contextlib.suppress(http.client.HTTPException, ConnectionError):
            found = ask(envoy, chat("x", stream=True)).status
        assert found == expected
        assert time.monotonic() - begin < 10
        books_are_empty(envoy)
    (line,) = log_lines(tmp_path / "log")
    assert line["outcome"] == "timeout"
