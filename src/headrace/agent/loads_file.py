"""The file in which this host's Envoys find what model servers say of their load (docs/reference/engine-loads.md).

Written by the agent for as long as something is known, read by the native module (native/envoy-module/src/loads.rs). A
file rather than discovery: a load changes every second, and must not become a configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import quote

import structlog

from headrace.agent.capture import ProxyDoor
from headrace.agent.engine_loads import FIGURES, EndpointLoad, EngineLoads
from headrace.floor.clock import Clock
from headrace.floor.files import write_private

_PAUSE = 0.25
"""Seconds between two writings; the module looks as often."""
_REPEAT = 1.0
"""Seconds after which the same is written again: it is still so."""
_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def loads_page(loads: Iterable[EndpointLoad], now: float, unix: float) -> bytes:
    """The file's contents. `now` is the clock of the loads' times, `unix` seconds since 1970."""
    lines = [f"headrace-engine-loads 1 {int(unix * 1000)}"]
    for load in loads:
        words = [load.address, f"age_ms={max(0, int((now - load.at) * 1000))}"]
        words += [f"{name}={load.figures[name]:.10g}" for name in FIGURES if name in load.figures]
        lines.append(" ".join(words))
        if load.adapters:  # in a line of its own: a module that knows no adapters passes it over
            lines.append(" ".join([*words[:2], f"adapters={','.join(quote(name, safe='') for name in load.adapters)}"]))
    return ("\n".join(lines) + "\n").encode()


class LoadsFile:
    """The file of one host."""

    def __init__(self, path: Path, clock: Clock, doors: Callable[[], Iterable[ProxyDoor]] = tuple) -> None:
        """`doors` are those of the host's proxies: who is another user than the agent gets a copy of its own."""
        self._path = path
        self._clock = clock
        self._doors = doors
        self._copied = -math.inf
        self._exists = path.exists()
        self._words: object = None
        self._at = -math.inf
        self._failed = False

    async def keep(self, loads: EngineLoads) -> None:
        """Write it after every change, until cancelled."""
        async for _ in loads.revision.changes():
            if self.update(loads):
                await asyncio.sleep(_PAUSE)

    def update(self, loads: EngineLoads) -> bool:
        """Write what is known, where it is news or was written a while ago; whether it was. There is no file as long as
        no engine says anything."""
        now = self._clock.monotonic()
        endpoints = loads.endpoints(now)
        words = [(load.address, load.figures, load.adapters) for load in endpoints]
        if not (endpoints or self._exists) or (words == self._words and now - self._at < _REPEAT):
            return False
        page = loads_page(endpoints, now, self._clock.now())
        try:
            write_private(self._path, page, durable=False)
            self._exists, self._failed, self._words, self._at = True, False, words, now
        except OSError as error:
            if not self._failed:
                _log.warning("engines' loads are not written; proxies go by their own books", reason=str(error))
            self._failed = True
        if now - self._copied >= _REPEAT:
            self._copied = now
            self._copy(page)
        return True

    def _copy(self, page: bytes) -> None:
        """For proxies that are users of their own. One that is just going has no directory any more."""
        for door in self._doors():
            if door.loads is not None:
                with contextlib.suppress(OSError):
                    write_private(door.loads, page, durable=False, owner=door.owner)
