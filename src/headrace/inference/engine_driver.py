"""Drive the step-based engine in real time: jobs in, tokens out when the engine's steps end.

Called by the simulated model server where its timing is `engine`. The engine is the native one that the simulator
uses too (docs/reference/engine-model.md), so live and simulated runs share one model of time.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from headrace.inference.simulate import native_core

BLOCK_TOKENS = 16
"""Tokens of one block of the KV cache, as vLLM has them."""
_LATE = 0.25
"""Seconds by which the driver may lag behind its own clock before it gives up catching up."""


class TooLong(Exception):
    """The job needs more tokens than the KV cache holds."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The engine: sequences at once, tokens a step, tokens of KV cache; `time_scale`: 2 is twice as slow."""

    sequences: int = 256
    step_tokens: int = 2048
    kv_tokens: int = 400_000
    time_scale: float = 1.0


@dataclass(slots=True)
class _Job:
    tokens: asyncio.Queue[int] = field(default_factory=asyncio.Queue)
    admitted: float | None = None


class EngineDriver:
    """One engine. `run` must be running for tokens to come."""

    def __init__(self, settings: EngineSettings) -> None:
        self._engine: Any = native_core().EngineTiming(
            sequences=settings.sequences,
            step_tokens=settings.step_tokens,
            kv_tokens=settings.kv_tokens,
            block_tokens=BLOCK_TOKENS,
        )
        self._scale = settings.time_scale
        self._jobs: dict[int, _Job] = {}
        self._work = asyncio.Event()
        self._serial = 0
        self.queries = 0

    async def run(self) -> None:
        """Step as long as there is work, for ever."""
        due = time.monotonic()
        while True:
            seconds = self._engine.begin_step()
            if seconds is None:
                self._work.clear()
                await self._work.wait()
                due = time.monotonic()
                continue
            now = time.monotonic()
            for job in self._engine.admitted:
                if job in self._jobs and self._jobs[job].admitted is None:
                    self._jobs[job].admitted = now
            due = (due if now - due < _LATE else now) + seconds * self._scale
            await asyncio.sleep(max(0.0, due - now))
            for job, index, _ in self._engine.end_step():
                if job in self._jobs:
                    self._jobs[job].tokens.put_nowait(index)

    async def tokens(self, words: Sequence[str], answer: int) -> AsyncIterator[float]:
        """One item when each token is made: seconds that the job waited in the queue. TooLong at once."""
        self._serial += 1
        name, job = self._serial, _Job()
        began = time.monotonic()
        if not self._engine.submit(name, max(1, len(words)), answer, block_hashes(words)):
            raise TooLong
        self._jobs[name] = job
        self.queries += len(words)
        self._work.set()
        made = 0
        try:
            while made < answer:
                await job.tokens.get()
                made += 1
                yield (job.admitted or began) - began
        finally:
            del self._jobs[name]
            if made < answer:
                self._engine.cancel(name)

    def metrics(self) -> dict[str, float]:
        """What the engine says of itself, by vLLM's names."""
        engine = self._engine
        return {
            "vllm:num_requests_running": engine.running,
            "vllm:num_requests_waiting": engine.waiting,
            "vllm:kv_cache_usage_perc": round(engine.kv_used, 6),
        }

    def counters(self) -> dict[str, int]:
        """What only grows, by vLLM's names (tokens; preemptions)."""
        return {
            "vllm:num_preemptions_total": self._engine.preemptions,
            "vllm:prefix_cache_queries_total": self.queries,
            "vllm:prefix_cache_hits_total": self._engine.hit_tokens,
        }

    def cache_config(self) -> dict[str, int]:
        """Labels of vllm:cache_config_info."""
        return {"block_size": self._engine.block_tokens, "num_gpu_blocks": self._engine.kv_blocks}


def block_hashes(words: Sequence[str]) -> list[int]:
    """Chained hashes of a prompt's full blocks; each stands for its block and all before it."""
    hashes, chain = [], b""
    for at in range(0, len(words) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        text = "\0".join(words[at : at + BLOCK_TOKENS]).encode()
        chain = hashlib.blake2b(chain + text, digest_size=8).digest()
        hashes.append(int.from_bytes(chain, "big"))
    return hashes
