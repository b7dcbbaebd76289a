"""Usage that the module asks for in the client's name: asked, read, and never shown."""

from __future__ import annotations

import json
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


def test_a_compressed_answer_passes_unread(tmp_path: Path, servers: Upstreams) -> None:
    async def answer(_: web.Request) -> web.Response:
        headers = {"content-type": "text/event-stream", "content-encoding": "gzip"}
        return web.Response(body=USAGE, headers=headers)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    with pool_envoy(injecting(tmp_path, servers.add(app))) as envoy:
        assert ask(envoy, chat("x", stream=True)).body == USAGE
