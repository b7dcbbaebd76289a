"""Requests for tests: an open loop of streamed chat completions in a thread of its own, and quick bursts.

An answer counts only where it came whole: status 200 and the stream's `[DONE]`. Nothing is ever retried.
"""

from __future__ import annotations

import asyncio
import math
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import aiohttp
from tests.e2e.running import RunningMesh

_MODEL = re.compile(rb'"model": ?"([^"]*)"')
_END = b"data: [DONE]\n\n"
_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go: through a client's sidecar (`proxy` is its HTTP_PROXY) or straight to a gateway."""

    url: str
    proxy: str | None = None
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """One request: `started` in monotonic seconds, `model` of the answering server, `error` empty where it is whole."""

    started: float
    seconds: float
    status: int
    model: str
    error: str

    @property
    def ok(self) -> bool:
        return not self.error


@dataclass(slots=True)
class Tally:
    """The answers to all requests that were sent."""

    answers: list[Answer] = field(default_factory=list)

    @property
    def sent(self) -> int:
        return len(self.answers)

    @property
    def failed(self) -> int:
        return sum(not answer.ok for answer in self.answers)

    def models(self) -> Counter[str]:
        return Counter(answer.model for answer in self.answers if answer.ok)

    def errors(self) -> Counter[str]:
        return Counter(answer.error for answer in self.answers if answer.error)

    def __str__(self) -> str:
        return f"sent {self.sent}, failed {self.failed} {dict(self.errors())}, {dict(self.models())}"


async def ask(session: aiohttp.ClientSession, target: Target, tokens: int, *, stream: bool = True) -> Answer:
    """Send one chat completion and read its answer to the end."""
    body = {"messages": [{"role": "user", "content": "go"}], "max_tokens": tokens, "stream": stream}
    started, status, model, error = time.monotonic(), 0, "", ""
    try:
        async with session.post(
            f"{target.url}/v1/chat/completions", json=body, proxy=target.proxy, headers=dict(target.headers)
        ) as response:
            status, text = response.status, b""
            async for part in response.content.iter_any():
                found = _MODEL.search(text + part) if not model else None
                model = found[1].decode() if found else model
                text = (text + part)[-512:]
            if status != 200:
                error = f"status {status}: {text[-120:].decode(errors='replace')}"
            elif stream and not text.endswith(_END):
                error = "the stream ended early"
    except (aiohttp.ClientError, OSError, TimeoutError) as problem:
        error = f"{type(problem).__name__}: {problem}"[:160]
    return Answer(started, time.monotonic() - started, status, model, error)


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=_SECONDS), trust_env=False
    )


class Load:
    """`rate` short streams start every second whether or not earlier ones have ended, and each `long_every`-th is a
    long one. Use as a context manager: leaving it waits for every answer."""

    def __init__(self, target: Target, *, rate: float = 60.0, tokens: int = 6, long_every: int = 30) -> None:
        self._target = target
        self._rate = rate
        self._sizes = (tokens, tokens * 30)
        self._long_every = long_every
        self.tally = Tally()
        self.open = 0
        """Requests that have begun and not ended."""
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._stop = threading.Event()

    def __enter__(self) -> Load:
        self._thread.start()
        deadline = time.monotonic() + 20.0
        while self.tally.sent < self._rate / 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert self.tally.sent, "no answer within 20 s"
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(_SECONDS + 10.0)
        assert not self._thread.is_alive(), f"{self.open} requests without an end"

    def run_on(self, requests: int, seconds: float = 30.0) -> None:
        """Wait until that many more requests have been answered."""
        wanted, deadline = self.tally.sent + requests, time.monotonic() + seconds
        while self.tally.sent < wanted:
            assert time.monotonic() < deadline, f"{requests} answers not within {seconds:g} s: {self.tally}"
            time.sleep(0.02)

    async def _run(self) -> None:
        async with _session() as session:
            running: set[asyncio.Task[None]] = set()
            number, due = 0, time.monotonic()
            while not self._stop.is_set():
                number += 1
                size = self._sizes[number % self._long_every == 0]
                task = asyncio.create_task(self._one(session, size))
                running.add(task)
                task.add_done_callback(running.discard)
                due += 1.0 / self._rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            await asyncio.gather(*running)

    async def _one(self, session: aiohttp.ClientSession, tokens: int) -> None:
        self.open += 1
        try:
            self.tally.answers.append(await ask(session, self._target, tokens))
        finally:
            self.open -= 1


def burst(target: Target, count: int, *, at_once: int = 24, tokens: int = 1) -> Tally:
    """`count` unary requests, `at_once` of them at a time."""
    tally = Tally()

    async def run() -> None:
        left = iter(range(count))
        async with _session() as session:

            async def worker() -> None:
                for _ in left:
                    tally.answers.append(await ask(session, target, tokens, stream=False))

            await asyncio.gather(*(worker() for _ in range(at_once)))

    asyncio.run(run())
    return tally


def binomial_bounds(count: int, share: float, error: float = 1e-6) -> tuple[int, int]:
    """The least and the greatest number of successes in `count` trials that a correct share leaves with a probability
    of at most `error` (exact tails, half of it on each side)."""

    def log_mass(hits: int) -> float:
        choose = math.lgamma(count + 1) - math.lgamma(hits + 1) - math.lgamma(count - hits + 1)
        return choose + hits * math.log(share) + (count - hits) * math.log1p(-share)

    low, below = 0, math.exp(log_mass(0))
    while below <= error / 2:
        low += 1
        below += math.exp(log_mass(low))
    high, above = count, math.exp(log_mass(count))
    while above <= error / 2:
        high -= 1
        above += math.exp(log_mass(high))
    return low, high


def through_client(mesh: RunningMesh, host: str = "chat", replica: str = "default/client-0") -> Target:
    """Requests as the client workload (or another replica) sends them: through its sidecar."""
    return Target(f"http://{host}", mesh.proxy_url(replica))


def through_gateway(mesh: RunningMesh, **headers: str) -> Target:
    """Requests from outside."""
    return Target(mesh.gateway(), None, tuple((name.replace("_", "-"), value) for name, value in headers.items()))
