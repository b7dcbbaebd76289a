"""Usage that the module asks for in the client's name: asked, read, and never shown."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from tests.flows.envoy_process import wait_until
from tests.flows.module_rig import (
    PoolBootstrap,
    Upstreams,
    ask,
    chat,
    counters,
    log_lines,
    needs_pools,
    pool_envoy,
    simulated,
    upstreams,
)

pytestmark = needs_pools
CHUNK = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 1}}\n\n'


@pytest.fixture
def servers() -> Iterator[Upstreams]:
    with upstreams() as started:
        yield started


def injecting(tmp_path: Path, port: int) -> PoolBootstrap:
    return PoolBootstrap(tmp_path / "admin.sock", {"models": [port]}, policy={"usage": "inject"}, log=tmp_path / "log")


def test_a_stream_s_usage_is_counted_and_stripped(tmp_path: Path, servers: Upstreams) -> None:
    with pool_envoy(injecting(tmp_path, servers.add(simulated()))) as envoy:
        body = ask(envoy, chat("one two three", 4, stream=True)).body
        assert b"usage" not in body
        assert body.count(b'"content"') == 4
        assert body.endswith(b"data: [DONE]\n\n")
        wait_until(lambda: counters(envoy, "tokens_in") == {"pool.test/models": 4}, "tokens of the prompt")
        assert counters(envoy, "tokens_out") == {"pool.test/models": 4}
    (line,) = log_lines(tmp_path / "log")
    assert (line["tokens_in"], line["tokens_out"]) == (4, 4)


def test_who_asks_for_usage_gets_it(tmp_path: Path, servers: Upstreams) -> None:
    with pool_envoy(injecting(tmp_path, servers.add(simulated()))) as envoy:
        asked = chat("one", 2, stream=True, stream_options={"include_usage": True})
        assert b'"completion_tokens": 2' in ask(envoy, asked).body
        assert b'"completion_tokens": 2' in ask(envoy, chat("one", 2)).body


def test_the_changed_request_is_whole_and_its_length_right(tmp_path: Path, servers: Upstreams) -> None:
    seen: list[tuple[str | None, bytes]] = []

    async def keep(request: web.Request) -> web.Response:
        seen.append((request.headers.get("content-length"), await request.read()))
        return web.Response(body=CHUNK + USAGE, content_type="text/event-stream")

    app = web.Application(client_max_size=1 << 24)
    app.router.add_post("/v1/chat/completions", keep)
    with pool_envoy(injecting(tmp_path, servers.add(app))) as envoy:
        for size in (10, 100_000, 900_000):
            sent = chat("x" * size, stream=True)
            assert ask(envoy, sent).body == CHUNK
            length, body = seen.pop()
            assert length in (None, str(len(body)))
            assert json.loads(body) == {**json.loads(sent), "stream_options": {"include_usage": True}}


def compressed(coding: str, pieces: list[bytes]) -> list[bytes]:
    """The pieces, each flushed, so that it can be read as soon as it is there."""
    worker = zlib.compressobj(6, zlib.DEFLATED, 31 if coding == "gzip" else 15)
    flushed = [worker.compress(piece) + worker.flush(zlib.Z_SYNC_FLUSH) for piece in pieces]
    return [*flushed, worker.flush()]


def compressing(coding: str, content_type: str, pieces: list[bytes], seen: list[str]) -> web.Application:
    async def answer(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("accept-encoding", ""))
        response = web.StreamResponse(headers={"content-type": content_type, "content-encoding": coding})
        await response.prepare(request)
        for piece in compressed(coding, pieces):
            await response.write(piece)
            await asyncio.sleep(0.05)
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    return app


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("resend", [0, 1])
def test_compressed_streams_are_counted_and_pass_as_they_are(
    tmp_path: Path, servers: Upstreams, coding: str, resend: int
) -> None:
    seen: list[str] = []
    pieces = [CHUNK, CHUNK, USAGE, b"data: [DONE]\n\n"]
    bootstrap = injecting(tmp_path, servers.add(compressing(coding, "text/event-stream", pieces, seen)))
    bootstrap.policy = {"resend": resend}
    with pool_envoy(bootstrap) as envoy:
        answer = ask(envoy, chat("x", stream=True), accept_encoding="gzip, deflate;q=0.5, br, zstd")
        assert answer.headers["content-encoding"] == coding
        assert zlib.decompress(answer.body, 47) == b"".join(pieces)
    (line,) = log_lines(tmp_path / "log")
    assert (line["tokens_in"], line["tokens_out"], line["outcome"]) == (5, 1, "ok")
    assert 0 < line["ttft_ms"] < 5000
    assert seen == ["gzip, deflate;q=0.5"]


def test_compressed_whole_answers_are_counted(tmp_path: Path, servers: Upstreams) -> None:
    body = json.dumps({"text": "word " * 20_000, "usage": {"prompt_tokens": 7, "completion_tokens": 3}}).encode()
    with pool_envoy(
        injecting(tmp_path, servers.add(compressing("gzip", "application/json", [body[:9], body[9:]], [])))
    ) as envoy:
        assert zlib.decompress(ask(envoy, chat("x"), accept_encoding="gzip").body, 47) == body
    (line,) = log_lines(tmp_path / "log")
    assert (line["tokens_in"], line["tokens_out"]) == (7, 3)


def test_what_cannot_be_read_is_not_asked_for_and_passes_unread(tmp_path: Path, servers: Upstreams) -> None:
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.get("accept-encoding", ""))
        headers = {"content-type": "text/event-stream", "content-encoding": "br"}
        return web.Response(body=USAGE, headers=headers)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    with pool_envoy(injecting(tmp_path, servers.add(app))) as envoy:
        assert ask(envoy, chat("x"), accept_encoding="br").body == USAGE
        assert ask(envoy, chat("x", stream=True), accept_encoding="gzip").body == USAGE
    assert seen == ["identity", ""]
