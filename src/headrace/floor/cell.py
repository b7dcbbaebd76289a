"""State that only the newest value of matters: writers replace it, readers wait for something newer.

Used instead of queues between the stages of the control plane: nothing piles up behind a slow reader.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

T = TypeVar("T")


class LatestValue(Generic[T]):
    """One value with a generation that counts its changes. Belongs to one event loop."""

    def __init__(self, value: T) -> None:
        self._value = value
        self._generation = 0
        self._changed = asyncio.Event()

    @property
    def value(self) -> T:
        return self._value

    @property
    def generation(self) -> int:
        """How often the value was set."""
        return self._generation

    def set(self, value: T) -> int:
        """Replace the value and wake all that wait; returns the new generation."""
        self._value = value
        self._generation += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        return self._generation

    async def newer_than(self, generation: int) -> tuple[T, int]:
        """The value as soon as its generation exceeds `generation`, with that generation."""
        while self._generation <= generation:
            await self._changed.wait()
        return self._value, self._generation

    async def changes(self) -> AsyncIterator[T]:
        """The current value, then the newest one after each change; values in between may be skipped."""
        generation = -1
        while True:
            value, generation = await self.newer_than(generation)
            yield value
