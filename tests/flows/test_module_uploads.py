"""Who sends a body slowly has no place at a model server meanwhile, whether the module reads such bodies or not."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.flows.admission_rig import GatedBootstrap, HeldServer, begin, count, gated, opened, outcomes
from tests.flows.envoy_process import EnvoyProcess, wait_until
from tests.flows.module_rig import Upstreams, ask, chat, connect, needs_pools, pool_envoy, upstreams

pytestmark = needs_pools

ONE = {"concurrency_per_endpoint": 1, "queue": {"requests": 50, "seconds": 60}}
LONGEST = 1000
ACTIVE = "http.front.downstream_rq_active"
SENT = "cluster.models.upstream_rq_active"


@pytest.fixture
def servers() -> Iterator[Upstreams]:
    with upstreams() as started:
        yield started


def pool(tmp_path: Path, servers: Upstreams, server: HeldServer, **admission: Any) -> GatedBootstrap:
    """One server with one place, and bodies of at most `LONGEST` bytes kept."""
    bootstrap = gated(tmp_path, [servers.add(server.app())], {})
    bootstrap.pools["models"] = {"max_body_bytes": LONGEST, "admission": {**ONE, **admission}}
    return bootstrap


@contextlib.contextmanager
def uploading(envoy: EnvoyProcess, path: str, sent: bytes, **headers: str) -> Iterator[http.client.HTTPConnection]:
    """A client that has sent this much of its body."""
    with contextlib.closing(connect(envoy)) as connection:
        connection.putrequest("POST", path)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        connection.send(sent)
        yield connection


SLOW: dict[str, tuple[str, bytes, bytes, dict[str, str]]] = {
    "text": ("/v1/chat/completions", b"hel", b"lo", {"content_type": "text/plain", "content_length": "5"}),
    "chunks": (
        "/v1/chat/completions",
        b"3\r\nhel\r\n",
        b"2\r\nlo\r\n0\r\n\r\n",
        {"content_type": "text/plain", "transfer_encoding": "chunked"},
    ),
    "trailers": (
        "/v1/audio/transcriptions",
        b"3\r\nhel\r\n",
        b"2\r\nlo\r\n0\r\nx-sum: 1\r\n\r\n",
        {"content_type": "multipart/form-data", "transfer_encoding": "chunked"},
    ),
    "encoded": (
        "/v1/chat/completions",
        b"hel",
        b"lo",
        {"content_type": "application/json", "content_encoding": "x-unknown", "content_length": "5"},
    ),
    "of no known api": ("/tokenize", b"", b"hello", {"content_type": "application/json", "content_length": "5"}),
    "pretends to be an upgrade": (
        "/v1/chat/completions",
        b"hel",
        b"lo",
        {"content_type": "text/plain", "content_length": "5", "upgrade": "websocket"},
    ),
    "pretends to be grpc": (
        "/v1/chat/completions",
        b"hel",
        b"lo",
        {"content_type": "application/grpc", "content_length": "5"},
    ),
    "said to be long": (
        "/v1/chat/completions",
        b"x" * LONGEST,
        b"x" * 500,
        {"content_type": "application/json", "content_length": str(LONGEST + 500)},
    ),
}


@pytest.mark.parametrize("slow", SLOW)
def test_who_sends_slowly_keeps_nobody_from_being_served(tmp_path: Path, servers: Upstreams, slow: str) -> None:
    """There is one place, and three such clients."""
    path, first, rest, headers = SLOW[slow]
    server = HeldServer(open_at_once=True)
    with pool_envoy(pool(tmp_path, servers, server)) as envoy, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(uploading(envoy, path, first, **headers)) for _ in range(3)]
        wait_until(lambda: envoy.stats(ACTIVE)[ACTIVE] == 3, "Envoy has their headers", 30)
        for _ in range(3):
            assert ask(envoy, chat("x")).status == 200
        assert envoy.stats(SENT)[SENT] == 0
        for client in clients:
            client.send(rest)
            answer = client.getresponse()
            length = LONGEST + 500 if slow == "said to be long" else 5
            assert (answer.status, answer.read()) == (200, str(length).encode())
        assert server.most == 1
        wait_until(lambda: outcomes(envoy) == {"ok": 6}, f"each is counted: {outcomes(envoy)}", 30)


@pytest.mark.parametrize("kind", ["text/plain", "application/json"])
def test_a_long_body_comes_through_whole(tmp_path: Path, servers: Upstreams, kind: str) -> None:
    server = HeldServer()
    with pool_envoy(pool(tmp_path, servers, server)) as envoy, opened(server):
        long = [begin(lambda: ask(envoy, b"x" * 3_000_000, content_type=kind)) for _ in range(2)]
        wait_until(lambda: (server.running, count(envoy, "waiting")) == (1, 1), "one runs, one waits", 30)
        server.gate.set()
        assert [(asked.answer().status, asked.answer().body) for asked in long] == [(200, b"3000000")] * 2


@pytest.mark.parametrize("kind", ["text/plain", "application/grpc"])
def test_an_upload_that_takes_too_long_gives_its_place_back(tmp_path: Path, servers: Upstreams, kind: str) -> None:
    """Its time counts from when it has its place: the second waits longer than it may upload, and comes through."""
    server = HeldServer(open_at_once=True)
    headers = {"content_type": kind, "content_length": str(LONGEST + 500)}
    bootstrap = pool(tmp_path, servers, server, upload_seconds=1.5)
    with pool_envoy(bootstrap) as envoy:
        begun = time.monotonic()
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(uploading(envoy, "/v1/files", b"x" * (LONGEST + 1), **headers))
            wait_until(lambda: envoy.stats(SENT)[SENT] == 1, "it has the place", 30)
            second = stack.enter_context(uploading(envoy, "/v1/files", b"x" * (LONGEST + 1), **headers))
            wait_until(lambda: count(envoy, "waiting") == 1, "another waits", 30)
            refused = first.getresponse()
            status = 200 if kind == "application/grpc" else 408  # gRPC has a status of its own
            assert (refused.status, refused.getheader("x-headrace-reason")) == (status, "upload-timeout")
            assert time.monotonic() - begun >= 1.5
            second.send(b"x" * 499)
            answer = second.getresponse()
            assert (answer.status, answer.read()) == (200, str(LONGEST + 500).encode())
        assert ask(envoy, chat("x")).status == 200
        wait_until(lambda: outcomes(envoy) == {"ok": 2, "timeout": 1}, f"each is counted: {outcomes(envoy)}", 30)


def test_an_answer_may_take_longer_than_an_upload(tmp_path: Path, servers: Upstreams) -> None:
    server = HeldServer(open_at_once=True, seconds=1.5)
    with pool_envoy(pool(tmp_path, servers, server, upload_seconds=0.3)) as envoy:
        for body in (chat("x"), b"x" * (LONGEST * 50)):
            assert ask(envoy, body, content_type="text/plain").status == 200


async def _answer_no_upgrades(request: web.Request) -> web.Response:
    """At once, unless an upgrade is wanted."""
    if "upgrade" in request.headers:
        await asyncio.sleep(60)
    return web.Response()


def test_who_wants_an_upgrade_that_nobody_answers_gives_the_place_back(tmp_path: Path, servers: Upstreams) -> None:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", _answer_no_upgrades)
    bootstrap = gated(tmp_path, [servers.add(app)], {**ONE, "upload_seconds": 0.5})
    bootstrap.manager_settings = {"upgrade_configs": [{"upgrade_type": "websocket"}]}
    headers = {"connection": "upgrade", "upgrade": "websocket", "content_length": "5"}
    with pool_envoy(bootstrap) as envoy, uploading(envoy, "/v1/realtime", b"hel", **headers) as client:
        wait_until(lambda: envoy.stats(SENT)[SENT] == 1, "it has the place", 30)
        assert ask(envoy, chat("x")).status == 200
        assert client.getresponse().status == 408


async def _echo(request: web.Request) -> web.WebSocketResponse:
    """A WebSocket: it sends back what it gets."""
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(message.data)
    return socket


def test_an_upgrade_is_not_kept_and_has_no_end_of_its_upload(tmp_path: Path, servers: Upstreams) -> None:
    app = web.Application()
    app.router.add_get("/v1/realtime", _echo)
    bootstrap = gated(tmp_path, [servers.add(app)], {**ONE, "upload_seconds": 0.3})
    bootstrap.manager_settings = {"upgrade_configs": [{"upgrade_type": "websocket"}]}
    with pool_envoy(bootstrap) as envoy, socket.create_connection(envoy.listener_address("front"), 30) as client:
        request = "GET /v1/realtime HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n"
        client.sendall(
            (request + "sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n").encode()
        )
        answer = client.makefile("rb")
        assert b" 101 " in answer.readline()
        while answer.readline() != b"\r\n":
            pass
        time.sleep(1)  # longer than an upload may take
        client.sendall(b"\x81\x82\0\0\0\0hi")
        assert answer.read(4) == b"\x81\x02hi"
