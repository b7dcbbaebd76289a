"""Bursts of chat completions for the tests of pools: all at once, and what each was answered."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from headrace.envoy.module import check_module

EXAMPLES = Path(__file__).parents[2] / "examples"
_MODULE = check_module()
needs_module = pytest.mark.skipif(not _MODULE.usable, reason=_MODULE.problem or "the native module is usable")


def example(name: str) -> dict[str, str]:
    """The documents of an example by file name."""
    return {path.name: path.read_text() for path in sorted((EXAMPLES / name).glob("*.yaml"))}


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: seconds after the burst began, status, the server's model, and headers of the mesh: why it was
    refused, when to try again, why it was sent elsewhere."""

    after: float
    status: int
    model: str
    reason: str
    retry_after: str
    redirected: str = ""


async def ask(session: aiohttp.ClientSession, url: str, began: float, body: Mapping[str, object]) -> Answer:
    """One chat completion without streaming."""
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        found = await response.json(content_type=None) if response.status == 200 else {}
        await response.read()
        headers = response.headers
        return Answer(
            time.monotonic() - began,
            response.status,
            found.get("model", ""),
            headers.get("x-headrace-reason", ""),
            headers.get("retry-after", ""),
            headers.get("x-headrace-redirected", ""),
        )


async def asked(
    url: str, prompts: Sequence[str], tokens: int, headers: Mapping[str, str] | None = None
) -> list[Answer]:
    """All prompts at once; the answers in the same order."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=60.0)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:
        began = time.monotonic()
        bodies = ({"messages": [{"role": "user", "content": prompt}], "max_tokens": tokens} for prompt in prompts)
        return await asyncio.gather(*(ask(session, url, began, body) for body in bodies))


def burst(url: str, prompts: Sequence[str], tokens: int = 1, **headers: str) -> list[Answer]:
    """All prompts at once, with headers (`x_canary` for `x-canary`)."""
    return asyncio.run(asked(url, prompts, tokens, {name.replace("_", "-"): value for name, value in headers.items()}))


async def at_once(url: str, count: int, tokens: int = 1) -> list[Answer]:
    """Requests on connections that are open before, written one behind the other within a few milliseconds."""
    place = urllib.parse.urlsplit(url)
    body = json.dumps({"messages": [{"role": "user", "content": "go"}], "max_tokens": tokens}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {place.netloc}\r\ncontent-type: application/json\r\n"
    request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    streams = [await asyncio.open_connection(place.hostname, place.port) for _ in range(count)]
    began = time.monotonic()
    for _, writer in streams:
        writer.write(request)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Answer:
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30.0)).decode()
        after = time.monotonic() - began
        first, *lines = head.rstrip().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        found = b""
        if "content-length" in headers:
            found = await asyncio.wait_for(reader.readexactly(int(headers["content-length"])), 30.0)
        writer.close()
        status = int(first.split()[1])
        model = str(json.loads(found)["model"]) if status == 200 and found else ""
        reason, retry = headers.get("x-headrace-reason", ""), headers.get("retry-after", "")
        return Answer(after, status, model, reason, retry, headers.get("x-headrace-redirected", ""))

    return await asyncio.gather(*(answer(*stream) for stream in streams))
