"""Merges bursts of changes: the first one goes out nearly at once, a constant stream still goes out regularly.

`Debounce` decides and does no I/O; `settled` drives it over a `LatestValue`. Used by the control plane between a new
configuration and its translation.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from headrace.floor.cell import LatestValue
from headrace.floor.clock import Clock

T = TypeVar("T")

QUIET = 0.005
"""Seconds without a further change after which a burst is over."""
LIMIT = 0.050
"""Seconds that a change waits at most."""


class Debounce:
    """When a burst of changes is due. Times are monotonic seconds."""

    def __init__(self, quiet: float = QUIET, limit: float = LIMIT) -> None:
        self._quiet = quiet
        self._limit = limit
        self._first: float | None = None
        self._last = 0.0
        self._urgent = False

    def change(self, now: float, *, urgent: bool = False) -> None:
        """Something changed. An urgent change (only endpoints, say) is due at once, with all that waits."""
        if self._first is None:
            self._first = now
        self._last = now
        self._urgent = self._urgent or urgent

    def due_at(self) -> float | None:
        """When what waits is due; None where nothing waits."""
        if self._first is None:
            return None
        return self._first if self._urgent else min(self._last + self._quiet, self._first + self._limit)

    def take(self, now: float) -> bool:
        """Whether something is due; if so, nothing waits any more."""
        due = self.due_at()
        if due is None or now < due:
            return False
        self._first = None
        self._urgent = False
        return True


async def settled(
    cell: LatestValue[T], clock: Clock, debounce: Debounce, urgent: Callable[[T], bool] = lambda _: False
) -> AsyncIterator[T]:
    """The newest value of `cell` after each burst of changes, beginning with the first change after the call; at once
    after a value that is `urgent`."""
    generation = cell.generation
    while True:
        value, generation = await cell.newer_than(generation)
        debounce.change(clock.monotonic(), urgent=urgent(value))
        while not debounce.take(now := clock.monotonic()):
            due = debounce.due_at()
            assert due is not None  # something waits, else take() would not have refused
            try:
                async with asyncio.timeout(due - now):
                    value, generation = await cell.newer_than(generation)
                debounce.change(clock.monotonic(), urgent=urgent(value))
            except TimeoutError:
                pass
        yield value
