"""What passes through the pool filter, of every API and in every form of HTTP: untouched, and read right."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.flows.envoy_process import EnvoyProcess, wait_until
from tests.flows.module_rig import (
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
    simulated,
    upstreams,
)
from tests.flows.raw_server import chunked, raw_server

pytestmark = needs_pools


@pytest.fixture
def servers() -> Iterator[Upstreams]:
    with upstreams() as started:
        yield started


def pool(tmp_path: Path, ports: list[int], **more: Any) -> PoolBootstrap:
    return PoolBootstrap(tmp_path / "admin.sock", {"models": ports}, log=tmp_path / "log", **more)


def events(*objects: dict[str, Any], named: bool = False) -> bytes:
    lines = [f"event: {found['type']}\n" if named else "" for found in objects]
    return "".join(f"{line}data: {json.dumps(found)}\n\n" for line, found in zip(lines, objects, strict=True)).encode()


CHAT_USAGE = {"prompt_tokens": 9, "completion_tokens": 2}
NAMED_USAGE = {"input_tokens": 9, "output_tokens": 2}
DELTAS = [{"choices": [{"delta": {"content": word}}]} for word in ("caf\u00e9", " au lait")]
TEXTS = [{"choices": [{"text": word}]} for word in ("a", "b")]
RESPONSES: list[dict[str, Any]] = [
    {"type": "response.created", "response": {"usage": None}},
    *[{"type": "response.output_text.delta", "delta": word} for word in ("a", "b")],
    {"type": "response.completed", "response": {"usage": NAMED_USAGE}},
]
MESSAGES: list[dict[str, Any]] = [
    {"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0},
    {"type": "ping"},
    *[{"type": "content_block_delta", "delta": {"text": word}} for word in ("a", "b")],
    {"type": "message_delta", "usage": {"output_tokens": 2}},
    {"type": "message_stop"},
]
PROMPT: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]
STREAMS: dict[str, tuple[dict[str, Any], bytes]] = {
    "/v1/chat/completions": ({"messages": PROMPT}, events(*DELTAS, {"choices": [], "usage": CHAT_USAGE})),
    "/v1/completions": ({"prompt": "hello"}, events(*TEXTS, {"choices": [], "usage": CHAT_USAGE})),
    "/v1/responses": ({"input": "hello", "instructions": "be"}, events(*RESPONSES, named=True)),
    "/v1/messages": ({"messages": PROMPT, "system": "be", "max_tokens": 2}, events(*MESSAGES, named=True)),
}
WHOLES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "/v1/chat/completions": ({"messages": PROMPT}, {"choices": [], "usage": CHAT_USAGE}),
    "/v1/completions": ({"prompt": ["hello", "you"]}, {"choices": [], "usage": CHAT_USAGE}),
    "/v1/responses": ({"input": [{"role": "user", "content": "hello"}]}, {"output": [], "usage": NAMED_USAGE}),
    "/v1/embeddings": ({"input": ["hello"]}, {"data": [], "usage": {"prompt_tokens": 9, "total_tokens": 9}}),
    "/v1/messages": ({"messages": PROMPT, "max_tokens": 2}, {"content": [], "usage": NAMED_USAGE}),
}


@pytest.mark.parametrize("path", STREAMS)
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_streams_of_every_api_however_they_are_cut(tmp_path: Path, path: str, size: int) -> None:
    body, stream = STREAMS[path]
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    with raw_server(chunked(pieces), pause=0.0) as server, pool_envoy(pool(tmp_path, [server.port])) as envoy:
        answer = ask(envoy, json.dumps({"model": "m", "stream": True, **body}).encode(), path)
        assert (answer.status, answer.body) == (200, stream)
    (line,) = log_lines(tmp_path / "log")
    assert (line["model"], line["tokens_in"], line["tokens_out"], line["outcome"]) == ("m", 9, 2, "ok")
    assert line["ttft_ms"] is not None


@pytest.mark.parametrize("path", WHOLES)
def test_whole_answers_of_every_api(tmp_path: Path, path: str) -> None:
    body, whole = WHOLES[path]
    text = json.dumps(whole).encode()
    pieces = [text[:5], text[5:]]
    with (
        raw_server(chunked(pieces, "application/json")) as server,
        pool_envoy(pool(tmp_path, [server.port])) as envoy,
    ):
        assert ask(envoy, json.dumps({"model": "m", **body}).encode(), path).body == text
    (line,) = log_lines(tmp_path / "log")
    assert (line["model"], line["tokens_in"], line["outcome"]) == ("m", 9, "ok")
    assert line["tokens_out"] == (None if "embeddings" in path else 2)


ODD = [
    b'data: {"choices":[{"delta":{"content":"a"}}]}\r\n\r\n',
    b'data:{"choices":[{"delta":{"content":"no space"}}]}\n\n',
    b'data: {"choices":\ndata: [{"delta":{"content":"two lines"}}]}\n\n',
    b": a comment\n\nid: 7\nretry: 10\n\n",
    b"data: {not json\n\n",
    b'data: {"deep":' + b"[" * 500 + b"]" * 500 + b"}\n\n",
    b'data: {"choices":[{"delta":{"content":"' + b"x" * 300_000 + b'"}}]}\n\n',
    b"\xff\xfe\x00 no text at all\n\n",
    b"data: [DONE]\n\nafter the end, without a line's end",
]


@pytest.mark.parametrize("usage", ["observe", "inject"])
def test_odd_streams_pass_as_they_are(tmp_path: Path, usage: str) -> None:
    stream = b"".join(ODD)
    pieces = [stream[at : at + 997] for at in range(0, len(stream), 997)]
    bootstrap = pool(tmp_path, [], policy={"usage": usage})
    with raw_server(chunked(pieces), pause=0.0) as server:
        bootstrap.clusters = {"models": [server.port]}
        with pool_envoy(bootstrap) as envoy:
            assert ask(envoy, chat("x", stream=True)).body == stream
            assert counters(envoy, "panics") == {"": 0}
    assert log_lines(tmp_path / "log")[0]["outcome"] == "ok"


def memory_peak(envoy: EnvoyProcess) -> int:
    """The most memory that Envoy had, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{envoy.process.pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


@pytest.mark.parametrize("resend", [0, 1])
def test_a_body_of_20_mb_streams_through_to_a_slow_server(tmp_path: Path, resend: int) -> None:
    huge = 20_000_000
    answer = [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"]
    with raw_server(answer, read_slowly=0.002) as server:
        again = {"retry_on": "reset", "num_retries": 1}
        routes = [{"prefix": "/", "route": {"cluster": "models", "retry_policy": again}}]
        with pool_envoy(pool(tmp_path, [server.port], policy={"resend": resend}, routes=routes)) as envoy:
            assert ask(envoy, chat("warm")).status == 200
            before = memory_peak(envoy)
            with contextlib.closing(connect(envoy, 60.0)) as connection:
                pieces = iter([b'{"messages": "', *[b"y" * 100_000] * (huge // 100_000), b'"}'])
                connection.request("POST", "/v1/chat/completions", pieces, encode_chunked=True)
                assert connection.getresponse().read() == b"{}"
            assert memory_peak(envoy) - before < 9_000_000
        assert len(server.requests[1]) > huge


@needs_curl
def test_http2_clients_get_streams_and_whole_answers(tmp_path: Path, servers: Upstreams) -> None:
    port = servers.add(simulated())
    with pool_envoy(pool(tmp_path, [port], policy={"usage": "inject", "resend": 1})) as envoy:
        stream = ask_http2(envoy, chat("one two three", 4, stream=True))
        assert stream.stderr.startswith(b"HTTP/2 200") and stream.stdout.count(b'"content"') == 4
        assert b"usage" not in stream.stdout
        assert b'"completion_tokens": 2' in ask_http2(envoy, chat("one", 2)).stdout
        assert ask_http2(envoy, chat("x" * 3_000_000)).stderr.startswith(b"HTTP/2 200")
        wait_until(lambda: set(counters(envoy, "in_flight").values()) == {0}, "the books are empty")
        assert counters(envoy, "panics") == {"": 0}
    assert [line["tokens_out"] for line in log_lines(tmp_path / "log")][:2] == [4, 2]


def test_trailers_pass_both_ways(tmp_path: Path) -> None:
    stream = STREAMS["/v1/chat/completions"][1]
    with raw_server(chunked([stream], trailers=b"x-after: answer\r\n")) as server:
        bootstrap = pool(tmp_path, [server.port], policy={"resend": 1})
        given = json.loads(bootstrap.encode())
        resources = given["static_resources"]
        manager = resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        manager["http_protocol_options"] = {"enable_trailers": True}
        (options,) = resources["clusters"][0]["typed_extension_protocol_options"].values()
        options["explicit_http_config"] = {"http_protocol_options": {"enable_trailers": True}}
        bootstrap.__class__ = type("Given", (PoolBootstrap,), {"encode": lambda _: json.dumps(given).encode()})
        with pool_envoy(bootstrap) as envoy:
            body = chat("x", stream=True)
            head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
            head += b"transfer-encoding: chunked\r\nte: trailers\r\nconnection: te\r\n\r\n"
            with socket.create_connection(envoy.listener_address("front"), 20) as client:
                client.sendall(head + b"%x\r\n%s\r\n0\r\nx-before: request\r\n\r\n" % (len(body), body))
                received = b""
                while not received.endswith(b"\r\n\r\n") or b"\r\n0\r\n" not in received:
                    piece = client.recv(65536)
                    assert piece, received
                    received += piece
            assert b"x-after: answer" in received and b"caf\\u00e9" in received
            assert b"x-before: request" in server.requests[0]
    (line,) = log_lines(tmp_path / "log")
    assert (line["model"], line["outcome"], line["tokens_out"]) == ("m", "ok", 2)
