"""Keeps the control plane of this machine running: started as the agent's child, adopted after the agent's own restart.

Run by `agent.host`. Its end stops nothing else: Envoys keep what they have, and the link reconnects.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from headrace.agent.children import ChildRecord
from headrace.agent.process import Child, Launch, StartFailed, adopt, spawn
from headrace.agent.supervision import RestartPolicy, Supervision
from headrace.floor.clock import Clock

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
POLICY = RestartPolicy(first=0.1, limit=10.0, stable_after=10.0)


@dataclass(frozen=True, slots=True)
class Charge:
    """What is guarded: its command, its log, the agent's environment, and a new mark for each start. `leaves`: files
    that it removes at its end, and that are removed for it where it was killed."""

    command: Sequence[str]
    log: Path
    mark: Callable[[], str]
    environment: Mapping[str, str] = field(repr=False)
    leaves: tuple[Path, ...] = ()


class Guardian:
    """One process that must run for as long as this agent does. `changed` is called whenever its record differs."""

    def __init__(self, charge: Charge, changed: Callable[[], None], clock: Clock, source: random.Random) -> None:
        self._charge = charge
        self.changed = changed
        self._clock = clock
        self._supervision = Supervision(POLICY, source)
        self._child: Child | None = None

    def adopt(self, record: ChildRecord) -> None:
        """Take over the process of an earlier agent, where it still runs (and none was started since)."""
        if self._child is not None:
            return
        self._child = adopt(record.process, record.mark)
        if self._child is not None:
            self._supervision.adopted(self._clock.monotonic(), 0)

    def begin(self, record: ChildRecord | None) -> None:
        """Take over or start the process now, in a running event loop; `run` goes on with it."""
        if record is not None:
            self.adopt(record)
        if self._child is None:
            self._start()

    def record(self) -> ChildRecord | None:
        """What a restarted agent must know of it."""
        child = self._child
        return ChildRecord(child.identity, child.mark) if child is not None and child.running else None

    async def run(self) -> None:
        """Keep it running until cancelled; cancellation leaves the process alone (`stop` or `close` follows)."""
        while True:
            if self._child is None:
                self._start()
            if self._child is not None:
                reason = await self._child.ended()
                await self._child.sweep()
                self._child = None
                self._supervision.ended(self._clock.monotonic(), reason)
                _log.warning("control plane ended", reason=reason)
            due = self._supervision.next_due() or 0.0
            await asyncio.sleep(max(0.0, due - self._clock.monotonic()))

    async def stop(self, grace: float) -> None:
        """End the process, after `run` was cancelled."""
        if self._child is not None:
            await self._child.stop(grace)
            for path in self._charge.leaves:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Stop watching; a running process is left alone."""
        if self._child is not None:
            self._child.close()

    def _start(self) -> None:
        charge = self._charge
        try:
            self._child = spawn(Launch(charge.command, charge.mark(), charge.environment, log=charge.log))
        except (StartFailed, OSError) as error:
            self._supervision.ended(self._clock.monotonic(), str(error))
            _log.error("control plane not started", reason=str(error))
            return
        self._supervision.started(self._clock.monotonic())
        self.changed()
