"""Waiting for the last request: used by `agent.replica` and `agent.applications` before anything is ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from headrace.floor.clock import Clock

POLL = 0.05
"""Seconds between two looks."""
_IDLE_POLLS = 3
"""Looks in a row without a request in flight: one may be on its way between two of them."""


async def until_idle(busy: Callable[[], Awaitable[bool]], deadline: float, clock: Clock) -> bool:
    """Wait until nothing is in flight; False where the deadline (monotonic seconds) came first."""
    idle = 0
    while clock.monotonic() < deadline:
        idle = 0 if await busy() else idle + 1
        if idle == _IDLE_POLLS:
            return True
        await asyncio.sleep(POLL)
    return False
