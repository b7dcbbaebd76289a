"""Adapters (LoRA) of the simulated model server: a request for one waits until it is loaded, and few are at once.

As vLLM has them: each adapter is a model's name, the one used longest ago makes room, and `/metrics` says which run.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

LOAD_SECONDS = 0.5
"""How long loading takes; what the scheduler assumes."""


class Adapters:
    """The adapters of one server, of which `most` can be loaded at once. Belongs to one event loop."""

    def __init__(self, names: tuple[str, ...], most: int) -> None:
        self.names = names
        self.loads = 0
        """How often one was loaded."""
        self._most = max(1, most)
        self._loaded: dict[str, int] = {}
        """Requests under way, by adapter, the one used longest ago first."""
        self._waiting: dict[str, int] = {}
        self._ready: dict[str, asyncio.Event] = {}
        self._changed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def use(self, model: str) -> AsyncIterator[None]:
        """Wait until the model can be served; it is in use meanwhile. Names that are no adapter's need nothing."""
        if model not in self.names:
            yield
            return
        self._waiting[model] = self._waiting.get(model, 0) + 1
        try:
            await self._take(model)
        finally:
            self._waiting[model] -= 1
        try:
            await self._ready[model].wait()
            yield
        finally:
            self._loaded[model] -= 1
            async with self._changed:
                self._changed.notify_all()

    async def _take(self, model: str) -> None:
        async with self._changed:
            while model not in self._loaded and len(self._loaded) >= self._most:
                idle = next((name for name, users in self._loaded.items() if not users), None)
                if idle is not None:
                    del self._loaded[idle], self._ready[idle]
                else:
                    await self._changed.wait()
        if model not in self._loaded:
            self.loads += 1
            ready = self._ready[model] = asyncio.Event()
            asyncio.get_running_loop().call_later(LOAD_SECONDS, ready.set)
        self._loaded[model] = self._loaded.pop(model, 0) + 1

    def metric(self, label: str) -> list[str]:
        """The lines of `/metrics`, as vLLM has them; none where the server has no adapters."""
        if not self.names:
            return []
        running = ",".join(name for name, users in self._loaded.items() if users)
        waiting = ",".join(name for name, count in self._waiting.items() if count)
        told = f'max_lora="{self._most}",running_lora_adapters="{running}",waiting_lora_adapters="{waiting}"'
        return ["# TYPE vllm:lora_requests_info gauge", f"vllm:lora_requests_info{{{told},{label}}} {time.time()}"]
