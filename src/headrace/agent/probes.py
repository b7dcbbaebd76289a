"""Kubernetes' probes of an application: thresholds without I/O, and the runner that asks.

Called by `agent.application`, one `ProbeRunner` a process. Requests go straight to the process at 127.0.0.1, never
through a proxy. Rules: Kubernetes' "Configure Liveness, Readiness and Startup Probes"; a failed startup or liveness
probe restarts the process, readiness decides about traffic, and the other two wait for startup.

Two things are faster than on a cluster. Until the first success, and at most for the first period, a probe that has not
succeeded is tried every 0.1 s (early failures do not count). And where a workload has ports but neither readiness nor
startup probe, it counts as started when something listens on its first port.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from headrace.floor.clock import Clock
from headrace.model.workload import Probe

EARLY_PERIOD = 0.1
LISTENING = Probe(tcp=True, period=1.0, failure_threshold=1 << 30)
"""The startup probe of workloads that have none and could use one: no limit, because nobody named one."""


class Purpose(StrEnum):
    """What a probe is for."""

    STARTUP = "startup"
    READINESS = "readiness"
    LIVENESS = "liveness"


@dataclass(slots=True)
class Threshold:
    """Consecutive results of one probe against its thresholds. `passing` changes only when a threshold is reached."""

    probe: Probe
    passing: bool
    _successes: int = 0
    _failures: int = 0

    def note(self, success: bool, *, early: bool = False) -> bool:
        """Take a result; True where `passing` changed or a failure threshold was reached again. Early failures do not
        count."""
        if success:
            self._successes, self._failures = self._successes + 1, 0
            changed = not self.passing and self._successes >= self.probe.success_threshold
            self.passing |= changed
            return changed
        self._successes = 0
        if early:
            return False
        self._failures += 1
        if self._failures < self.probe.failure_threshold:
            return False
        changed = self.passing or self._failures == self.probe.failure_threshold
        self.passing = False
        return changed

    @property
    def failed(self) -> bool:
        """Whether as many failures as the threshold allows came in a row."""
        return self._failures >= self.probe.failure_threshold


@dataclass(frozen=True, slots=True)
class ProbeSet:
    """The probes of one workload."""

    startup: Probe | None
    readiness: Probe | None
    liveness: Probe | None


@dataclass(frozen=True, slots=True)
class Answers:
    """Where the runner says what it found: `ready(ready, detail)` and `unhealthy(detail)` (restart it)."""

    ready: Callable[[bool, str], None]
    unhealthy: Callable[[str], None]


Ask = Callable[[Probe], Awaitable[str]]
"""Asks once: an empty string for success, else what is wrong, for people."""


class ProbeRunner:
    """Runs the probes of one process until cancelled. `started` is its start in monotonic seconds; `was_ready` what an
    earlier agent knew of it (its readiness then holds until a threshold says otherwise)."""

    def __init__(self, probes: ProbeSet, ask: Ask, answers: Answers, clock: Clock, was_ready: bool = False) -> None:
        self._probes = probes
        self._ask = ask
        self._answers = answers
        self._clock = clock
        self._was_ready = was_ready

    async def run(self, started: float) -> None:
        """Startup first, then readiness and liveness side by side."""
        startup = None if self._was_ready else self._probes.startup
        if startup is not None and not await self._start_up(startup, started):
            return
        async with asyncio.TaskGroup() as tasks:
            if self._probes.liveness is not None:
                tasks.create_task(self._watch(Purpose.LIVENESS, self._probes.liveness, started))
            if self._probes.readiness is not None:
                tasks.create_task(self._watch(Purpose.READINESS, self._probes.readiness, started))
            else:
                self._answers.ready(True, "")

    async def _start_up(self, probe: Probe, started: float) -> bool:
        threshold = Threshold(probe, passing=False)
        async for problem, early in self._results(probe, started, lambda: not threshold.passing):
            threshold.note(not problem, early=early)
            if threshold.passing:
                return True
            self._answers.ready(False, f"startup probe: {problem}")
            if threshold.failed:
                self._answers.unhealthy(f"startup probe failed {probe.failure_threshold} times: {problem}")
                return False
        return False

    async def _watch(self, purpose: Purpose, probe: Probe, started: float) -> None:
        passing = self._was_ready if purpose is Purpose.READINESS else True
        threshold = Threshold(probe, passing=passing)
        hurry = purpose is Purpose.READINESS
        async for problem, early in self._results(probe, started, lambda: hurry and not threshold.passing):
            changed = threshold.note(not problem, early=early)
            if purpose is Purpose.READINESS:
                if changed or not threshold.passing:
                    detail = "" if threshold.passing else f"readiness probe: {problem}"
                    self._answers.ready(threshold.passing, detail)
            elif changed and threshold.failed:
                self._answers.unhealthy(f"liveness probe failed {probe.failure_threshold} times: {problem}")
                return

    async def _results(
        self, probe: Probe, started: float, hurried: Callable[[], bool]
    ) -> AsyncIterator[tuple[str, bool]]:
        """(what is wrong or "", whether it was an early try), at the probe's pace."""
        await self._until(started + probe.initial_delay)
        first = regular = self._clock.monotonic()
        while hurried() and self._clock.monotonic() < first + probe.period:
            yield await self._asked(probe), True
            regular = first + probe.period
            await self._until(min(regular, self._clock.monotonic() + EARLY_PERIOD) if hurried() else regular)
        while True:
            await self._until(regular)
            yield await self._asked(probe), False
            regular = max(regular + probe.period, self._clock.monotonic())

    async def _asked(self, probe: Probe) -> str:
        try:
            async with asyncio.timeout(probe.timeout):
                return await self._ask(probe)
        except TimeoutError:
            return f"no answer within {probe.timeout:g} s"

    async def _until(self, when: float) -> None:
        await asyncio.sleep(max(0.0, when - self._clock.monotonic()))
