"""Signs of life for streams that wait: comments that keep the connection, errors told inside the stream after them."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.flows.envoy_process import EnvoyProcess, wait_until
from tests.flows.module_rig import (
    Answer,
    PoolBootstrap,
    Upstreams,
    ask,
    ask_http2,
    chat,
    connect,
    counters,
    log_lines,
    needs_curl,
    needs_pools,
    pool_envoy,
    upstreams,
)
from tests.flows.raw_server import raw_server
from tests.flows.stream_servers import DONE, ROLE, TOKEN, ScriptedServer

pytestmark = needs_pools
SIGN = b": waiting\n\n"
WHOLE = [TOKEN, TOKEN, DONE]
AGAIN = {"retry_on": "reset,retriable-status-codes", "num_retries": 1, "retriable_status_codes": [503]}
ONE_AT_A_TIME = {"concurrency_per_endpoint": 1, "queue": {"requests": 10, "seconds": 30}}


@pytest.fixture
def servers() -> Iterator[Upstreams]:
    with upstreams() as started:
        yield started


def keeping(tmp_path: Path, ports: list[int], **policy: Any) -> PoolBootstrap:
    action = {"cluster": "models", "timeout": "30s", "retry_policy": AGAIN}
    return PoolBootstrap(
        tmp_path / "admin.sock",
        {"models": ports},
        policy={"keepalive_seconds": 0.2, "resend": 1, **policy},
        routes=[{"prefix": "/", "route": action}],
        log=tmp_path / "log",
    )


def books_are_empty(envoy: EnvoyProcess) -> None:
    wait_until(lambda: set(counters(envoy, "in_flight").values()) == {0}, "the books are empty")
    assert counters(envoy, "panics") == {"": 0}


def signs_and_rest(answer: Answer) -> tuple[int, bytes]:
    rest = answer.body.lstrip(b": waitng\n") if answer.body.startswith(SIGN) else answer.body
    return answer.body.count(SIGN), rest


def body_until_broken(envoy: EnvoyProcess, body: bytes) -> bytes:
    with contextlib.closing(connect(envoy)) as connection:
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200
        with pytest.raises(http.client.IncompleteRead) as broken:
            response.read()
        return broken.value.partial


@contextlib.contextmanager
def one_running(envoy: EnvoyProcess) -> Iterator[None]:
    """A request that takes the only place until the end."""
    thread = threading.Thread(target=ask, args=(envoy, chat("the first", stream=False)))
    thread.start()
    name = "cluster.models.upstream_rq_active"
    wait_until(lambda: envoy.stats(name)[name] == 1, "one runs")
    try:
        yield
    finally:
        thread.join(20)


def test_a_stream_that_is_held_hears_comments_and_then_its_answer(tmp_path: Path, servers: Upstreams) -> None:
    server = ScriptedServer([1.2, b"{}"], WHOLE)
    with pool_envoy(keeping(tmp_path, [servers.add(server.app())], admission=ONE_AT_A_TIME)) as envoy:
        with one_running(envoy):
            answer = ask(envoy, chat("held", stream=True), accept_encoding="gzip")
        signs, rest = signs_and_rest(answer)
        assert (answer.status, rest) == (200, b"".join(WHOLE))
        assert answer.headers["content-type"] == "text/event-stream"
        assert 2 <= signs <= 8
        books_are_empty(envoy)
    assert "accept-encoding" not in server.headers[1]
    held = log_lines(tmp_path / "log")[-1]
    assert (held["outcome"], held["tokens_out"]) == ("ok", 2)
    assert held["queue_ms"] > 500 and held["ttft_ms"] >= held["queue_ms"]


@needs_curl
def test_http2_clients_hear_comments_too(tmp_path: Path, servers: Upstreams) -> None:
    server = ScriptedServer([0.7, *WHOLE])
    with pool_envoy(keeping(tmp_path, [servers.add(server.app())])) as envoy:
        answer = ask_http2(envoy, chat("x", stream=True))
        assert answer.stderr.startswith(b"HTTP/2 200") and answer.stderr.count(b"HTTP/2 200") == 1
        assert answer.stdout.startswith(SIGN) and answer.stdout.endswith(b"".join(WHOLE))
        books_are_empty(envoy)


@pytest.mark.parametrize("held", [True, False])
def test_who_leaves_after_a_comment_leaves_no_trace(tmp_path: Path, servers: Upstreams, held: bool) -> None:
    server = ScriptedServer([1.5, b"{}"])
    with pool_envoy(keeping(tmp_path, [servers.add(server.app())], admission=ONE_AT_A_TIME if held else {})) as envoy:
        with one_running(envoy) if held else contextlib.nullcontext(), contextlib.closing(connect(envoy)) as client:
            client.request("POST", "/v1/chat/completions", chat("leaves", stream=True))
            assert client.getresponse().read(len(SIGN)) == SIGN
            client.close()
            wait_until(lambda: len(log_lines(tmp_path / "log")) >= 1, "it is over")
        wait_until(lambda: set(counters(envoy, "waiting").values()) == {0}, "nobody waits")
        books_are_empty(envoy)
    assert log_lines(tmp_path / "log")[0]["outcome"] in ("reset", "left")


def test_who_is_refused_after_comments_hears_it_in_the_stream(tmp_path: Path, servers: Upstreams) -> None:
    server = ScriptedServer([2.0, b"{}"])
    admission = {"concurrency_per_endpoint": 1, "queue": {"requests": 10, "seconds": 0.7}}
    with pool_envoy(keeping(tmp_path, [servers.add(server.app())], admission=admission)) as envoy:
        with one_running(envoy):
            signs, rest = signs_and_rest(ask(envoy, chat("held", stream=True)))
            assert signs >= 1
            assert json.loads(rest.removeprefix(b"data: "))["error"]["code"] == "queue-timeout"
            assert ask(envoy, chat("no stream")).status == 429
        books_are_empty(envoy)
    assert [line["outcome"] for line in log_lines(tmp_path / "log")] == ["refused", "refused", "ok"]


def test_what_breaks_after_comments_is_sent_again(tmp_path: Path, servers: Upstreams) -> None:
    server = ScriptedServer([0.6, "headers", ROLE, 0.3, "break"], WHOLE)
    ports = [servers.add(server.app()) for _ in range(2)]
    with pool_envoy(keeping(tmp_path, ports)) as envoy:
        signs, rest = signs_and_rest(ask(envoy, chat("x", stream=True)))
        assert signs >= 2 and rest == b"".join(WHOLE)
        books_are_empty(envoy)
    (line,) = log_lines(tmp_path / "log")
    assert (line["resent"], line["outcome"], line["tokens_out"]) == (1, "ok", 2)


def test_a_break_for_good_is_explained_before_the_stream_breaks(tmp_path: Path, servers: Upstreams) -> None:
    server = ScriptedServer([0.5, "break"])
    with pool_envoy(keeping(tmp_path, [servers.add(server.app())])) as envoy:
        body = body_until_broken(envoy, chat("x", stream=True))
        assert body.startswith(SIGN) and b'"code":"no-answer"' in body
        books_are_empty(envoy)


@pytest.mark.parametrize("answer", [[0.5, 404], [0.5, b'{"an": "answer"}']], ids=["error", "no-stream"])
def test_what_is_no_stream_is_told_as_an_event(tmp_path: Path, servers: Upstreams, answer: list[Any]) -> None:
    server = ScriptedServer(answer)
    port = servers.add(server.app("application/json"))
    with pool_envoy(keeping(tmp_path, [port])) as envoy:
        found = ask(envoy, chat("x", stream=True))
        _, rest = signs_and_rest(found)
        expected = b'{"error": {"message": "not now"}}' if 404 in answer else b'{"an": "answer"}'
        assert (found.status, rest) == (200, b"event: error\ndata: " + expected + b"\n\n")
        books_are_empty(envoy)


def test_a_limit_that_ends_after_comments_is_told_in_the_stream(tmp_path: Path, servers: Upstreams) -> None:
    server = ScriptedServer([5.0, *WHOLE])
    port = servers.add(server.app())
    with pool_envoy(keeping(tmp_path, [port], resend=0, timeouts={"first_token_seconds": 0.7})) as envoy:
        _, rest = signs_and_rest(ask(envoy, chat("x", stream=True)))
        assert json.loads(rest.removeprefix(b"data: "))["error"]["code"] == "timeout"
        books_are_empty(envoy)
    assert log_lines(tmp_path / "log")[-1]["outcome"] == "timeout"


@pytest.mark.parametrize("keepalive", [0.2, 0])
def test_comments_keep_envoy_s_idle_timeout_away(tmp_path: Path, servers: Upstreams, keepalive: float) -> None:
    server = ScriptedServer([TOKEN, *[0.4, TOKEN] * 6], WHOLE)
    bootstrap = keeping(tmp_path, [servers.add(server.app())], admission=ONE_AT_A_TIME, keepalive_seconds=keepalive)
    bootstrap.manager_settings = {"stream_idle_timeout": "1s"}
    with pool_envoy(bootstrap) as envoy:
        patient = threading.Thread(target=ask, args=(envoy, chat("the first", stream=True)))
        patient.start()
        wait_until(lambda: server.bodies, "one runs")
        answer = ask(envoy, chat("held", stream=True))
        patient.join(20)
        if keepalive:
            assert (answer.status, answer.body.endswith(b"".join(WHOLE))) == (200, True)
        else:
            assert (answer.status, len(server.bodies)) == (504, 1)
        books_are_empty(envoy)


def test_without_the_setting_nothing_is_said(tmp_path: Path, servers: Upstreams) -> None:
    server = ScriptedServer([0.6, *WHOLE])
    with pool_envoy(keeping(tmp_path, [servers.add(server.app())], keepalive_seconds=0)) as envoy:
        assert ask(envoy, chat("x", stream=True)).body == b"".join(WHOLE)


@pytest.mark.parametrize(
    ("head", "rest"),
    [
        (b"HTTP/1.1 500 Sorry\r\n", b'data: {"error":{"message":"the model server answered without a stream"'),
        (b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n", b": end"),
    ],
    ids=["error", "stream"],
)
def test_an_answer_of_headers_alone_ends_the_stream(tmp_path: Path, head: bytes, rest: bytes) -> None:
    pieces = [head, b"content-length: 0\r\n\r\n"]
    with raw_server(pieces, pause=0.5) as server, pool_envoy(keeping(tmp_path, [server.port])) as envoy:
        answer = ask(envoy, chat("x", stream=True))
        assert answer.status == 200 and answer.body.startswith(SIGN)
        assert rest in answer.body and answer.body.endswith(b"\n\n")
        books_are_empty(envoy)
