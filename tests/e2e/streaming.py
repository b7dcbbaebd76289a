"""Long answers for tests: streams that are held open and watched, one by one."""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter
from dataclasses import dataclass

import aiohttp
from tests.e2e.load import Target

_MODEL = re.compile(rb'"model": ?"([^"]*)"')
_END = b"data: [DONE]\n\n"
_JOIN_SECONDS = 120.0


@dataclass(slots=True)
class Item:
    """One stream: `pieces` that came, who answers, `ended` in whatever way, `whole` where it came to its own end."""

    pieces: int = 0
    model: str = ""
    ended: bool = False
    whole: bool = False
    error: str = ""


class Streaming:
    """`count` answers of `tokens` tokens each, at once. Leaving the context gives up what still flows, unless `wait`
    was called."""

    def __init__(self, target: Target, tokens: int, count: int) -> None:
        self._target, self._tokens = target, tokens
        self.items = [Item() for _ in range(count)]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._task: asyncio.Task[None] | None = None

    def __enter__(self) -> Streaming:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._task is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(_JOIN_SECONDS)
        assert not self._thread.is_alive(), "streams without an end"

    def wait(self) -> None:
        """Until every stream has ended."""
        self._thread.join(_JOIN_SECONDS)
        assert not self._thread.is_alive(), f"streams without an end: {self.items}"

    def flowing(self) -> int:
        """Streams that have begun and not ended."""
        return sum(item.pieces > 2 and not item.ended for item in self.items)

    def models(self) -> Counter[str]:
        """Who answers how many."""
        return Counter(item.model for item in self.items)

    def of(self, model: str) -> list[Item]:
        """The streams of one version."""
        return [item for item in self.items if item.model == model]

    def _run(self) -> None:
        self._task = self._loop.create_task(self._all())
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        finally:
            self._loop.close()

    async def _all(self) -> None:
        timeout = aiohttp.ClientTimeout(total=600)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*(self._one(session, item) for item in self.items))

    async def _one(self, session: aiohttp.ClientSession, item: Item) -> None:
        body = {"messages": [{"role": "user", "content": "go"}], "max_tokens": self._tokens, "stream": True}
        url, text = f"{self._target.url}/v1/chat/completions", b""
        try:
            async with session.post(url, json=body, proxy=self._target.proxy) as response:
                if response.status != 200:
                    item.error = f"status {response.status}"
                async for part in response.content.iter_any():
                    found = _MODEL.search(text + part) if not item.model else None
                    item.model = found[1].decode() if found else item.model
                    text = (text + part)[-512:]
                    item.pieces += 1
                item.whole = text.endswith(_END)
        except (aiohttp.ClientError, OSError, TimeoutError) as problem:
            item.error = f"{type(problem).__name__}: {problem}"[:160]
        finally:
            item.ended = True
