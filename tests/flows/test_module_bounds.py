"""What clients can make grow in the module is bounded: tenants, sessions, priorities, models, prompts, requests that
are held and left. In a real Envoy, by its memory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.flows.admission_rig import HeldServer, count, gated, opened, outcomes
from tests.flows.envoy_process import EnvoyProcess, wait_until
from tests.flows.module_rig import Upstreams, ask, chat, needs_pools, pool_envoy, upstreams

pytestmark = needs_pools

CONNECTIONS = 16
REQUESTS = 2400
BYTES = 4000
MEGABYTE = 1 << 20


@pytest.fixture
def servers() -> Iterator[Upstreams]:
    with upstreams() as started:
        yield started


def memory(envoy: EnvoyProcess) -> int:
    """Resident bytes of the process."""
    pages = Path(f"/proc/{envoy.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def request(number: int) -> bytes:
    """A request of which everything that a client can choose is long, and was never there before."""
    unique = f"{number:08d}".encode() * (BYTES // 8)
    body = chat(unique.decode(), model=unique.decode())
    names = (b"x-tenant", b"x-session", b"x-priority", b"x-headrace-overflow")
    headers = b"".join(name + b": " + unique + b"\r\n" for name in names)
    deadline = b"x-deadline-ms: %d\r\n" % (10**15 - number)
    start = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    return start + headers + deadline + b"content-length: %d\r\n\r\n" % len(body) + body


async def _ask_all(address: tuple[str, int], numbers: range) -> list[int]:
    left = iter(numbers)
    statuses: list[int] = []

    async def work() -> None:
        reader, writer = await asyncio.open_connection(*address)
        for number in left:
            writer.write(request(number))
            head = await reader.readuntil(b"\r\n\r\n")
            fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:] if b": " in line)
            await reader.readexactly(int(fields[b"content-length"]))
            statuses.append(int(head.split()[1]))
        writer.close()

    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
    return statuses


async def _leave_all(address: tuple[str, int], numbers: range, wait: int) -> None:
    """Ask, and go away while it waits."""
    writers = []
    for number in numbers:
        _, writer = await asyncio.open_connection(*address)
        writer.write(request(number))
        await writer.drain()
        writers.append(writer)
    await asyncio.sleep(wait)
    for writer in writers:
        writer.transport.abort()


ADMISSION = {
    "concurrency_per_endpoint": 8,
    "queue": {"requests": 1000},
    "tenant": {"header": "x-tenant"},
    "priority_header": "x-priority",
    "priorities": ["high", "low"],
    "starvation_seconds": 3600,
    "first_token_deadline_header": "x-deadline-ms",
}


def test_memory_does_not_grow_with_what_clients_make_up(tmp_path: Path, servers: Upstreams) -> None:
    bootstrap = gated(tmp_path, [servers.add(HeldServer(open_at_once=True).app())], ADMISSION, log=None)
    bootstrap.pools["models"] |= {"session_header": "x-session", "prefix_blocks": 64, "block_tokens": 64}
    with pool_envoy(bootstrap) as envoy:
        address = envoy.listener_address("front")
        assert set(asyncio.run(_ask_all(address, range(REQUESTS)))) == {200}
        before = memory(envoy)
        assert set(asyncio.run(_ask_all(address, range(REQUESTS, 3 * REQUESTS)))) == {200}
        wait_until(lambda: outcomes(envoy) == {"ok": 3 * REQUESTS}, "all are counted", 30)
        # Keeping any one of the five texts would take 18 MB.
        grown = memory(envoy) - before
        print(f"grown by {grown / MEGABYTE:.1f} MiB")
        assert grown < 9 * MEGABYTE
        assert count(envoy, "in_flight") == count(envoy, "waiting") == 0


def test_those_that_leave_while_they_wait_leave_nothing_behind(tmp_path: Path, servers: Upstreams) -> None:
    server = HeldServer()
    admission = {**ADMISSION, "concurrency_per_endpoint": 1}
    with pool_envoy(gated(tmp_path, [servers.add(server.app())], admission, log=None)) as envoy, opened(server):
        address = envoy.listener_address("front")
        number = 300
        asyncio.run(_leave_all(address, range(number), 1))
        wait_until(lambda: sum(outcomes(envoy).values()) == number, f"all have left: {outcomes(envoy)}", 30)
        assert outcomes(envoy)["left"] > number / 2  # others began to run, as those before them left
        wait_until(lambda: count(envoy, "in_flight") == count(envoy, "waiting") == 0, "nothing is left", 30)
        server.gate.set()
        assert ask(envoy, chat("x")).status == 200
