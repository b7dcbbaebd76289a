"""Thresholds of probes, and the pace at which the runner asks."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from headrace.agent.probes import EARLY_PERIOD, Answers, ProbeRunner, ProbeSet, Threshold
from headrace.floor.clock import SystemClock
from headrace.model.workload import Probe


def feed(threshold: Threshold, results: str) -> str:
    """After each result (s, f, or e for an early failure): P passing, - not."""
    states = []
    for result in results:
        threshold.note(result == "s", early=result == "e")
        states.append("P" if threshold.passing else "-")
    return "".join(states)


@pytest.mark.parametrize(
    ("success", "failure", "passing", "results", "expected"),
    [
        (1, 3, False, "fsffsfff", "-PPPPPP-"),
        (2, 1, False, "ssfsss", "-P--PP"),
        (1, 1, True, "fsf", "-P-"),
        (1, 2, True, "eeeefef", "PPPPPP-"),
    ],
)
def test_thresholds_count_results_in_a_row(
    success: int, failure: int, passing: bool, results: str, expected: str
) -> None:
    probe = Probe(tcp=True, success_threshold=success, failure_threshold=failure)
    assert feed(Threshold(probe, passing), results) == expected


def test_an_early_failure_breaks_a_row_of_successes() -> None:
    assert feed(Threshold(Probe(tcp=True, success_threshold=2), False), "sess") == "---P"


class Script:
    """Answers of an application: `problems` one after the other (the last one for ever)."""

    def __init__(self, *problems: str) -> None:
        self.problems = list(problems)
        self.asked: list[float] = []
        self.ready: list[bool] = []
        self.details: list[str] = []
        self.sick: list[str] = []

    async def ask(self, probe: Probe) -> str:
        self.asked.append(time.monotonic())
        return self.problems.pop(0) if len(self.problems) > 1 else self.problems[0]

    def tell(self, ready: bool, detail: str) -> None:
        if not self.ready or self.ready[-1] != ready:
            self.ready.append(ready)
            self.details.append(detail)

    async def run(self, probes: ProbeSet, seconds: float, was_ready: bool = False) -> list[float]:
        """Run for so long; the times of the questions, from the start."""
        clock = SystemClock()
        began = clock.monotonic()
        runner = ProbeRunner(probes, self.ask, Answers(self.tell, self.sick.append), clock, was_ready)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await runner.run(began)
        return [at - began for at in self.asked]


async def test_readiness_is_noticed_fast_and_then_asked_at_its_period() -> None:
    script = Script("no", "no", "")
    times = await script.run(ProbeSet(None, Probe(tcp=True, period=0.6), None), 1.0)
    assert script.ready == [False, True]
    assert len(times) == 4, times
    assert times[2] < 0.5, "three questions before the first period was over"
    assert 0.55 < times[3] < 0.9, "then the period"


async def test_after_the_first_period_a_failing_probe_is_asked_at_its_period() -> None:
    times = await Script("no").run(ProbeSet(None, Probe(tcp=True, period=0.3), None), 1.0)
    late = [at for at in times if at > 0.29]
    assert len(times) - len(late) >= 2
    assert len(late) == 3, times


async def test_early_failures_do_not_count_for_startup() -> None:
    script = Script("no")
    began = time.monotonic()
    await script.run(ProbeSet(Probe(tcp=True, period=0.25, failure_threshold=2), None, None), 3.0)
    assert script.sick == ["startup probe failed 2 times: no"]
    assert time.monotonic() - began >= 0.5, "two periods, whatever the early tries said"


async def test_nothing_else_is_asked_before_startup_passed() -> None:
    script = Script("no", "no", "")
    probes = ProbeSet(Probe(tcp=True, period=5.0), Probe(tcp=True, period=5.0), Probe(tcp=True, period=0.1))
    await script.run(probes, 0.2 + 3 * EARLY_PERIOD)
    assert script.ready == [False, True]
    assert script.sick == []


async def test_no_probes_mean_ready() -> None:
    script = Script("no")
    await script.run(ProbeSet(None, None, None), 0.2)
    assert script.ready == [True] and script.asked == []


async def test_the_initial_delay_is_kept() -> None:
    times = await Script("").run(ProbeSet(None, Probe(tcp=True, initial_delay=0.3, period=5.0), None), 0.5)
    assert len(times) == 1 and times[0] >= 0.29


async def test_an_adopted_process_stays_ready_until_its_threshold() -> None:
    script = Script("no")
    probes = ProbeSet(Probe(tcp=True), Probe(tcp=True, period=0.1, failure_threshold=3), None)
    await script.run(probes, 0.15, was_ready=True)
    assert script.ready == []
    script = Script("no")
    await script.run(probes, 0.5, was_ready=True)
    assert script.ready == [False]


async def test_a_question_without_an_answer_is_a_failure() -> None:
    script = Script()

    async def hang(probe: Probe) -> str:
        await asyncio.sleep(60)
        return ""

    runner = ProbeRunner(
        ProbeSet(None, None, Probe(tcp=True, period=0.05, timeout=0.1, failure_threshold=2)),
        hang,
        Answers(script.tell, script.sick.append),
        SystemClock(),
    )
    async with asyncio.timeout(3):
        await runner.run(time.monotonic())
    assert script.sick == ["liveness probe failed 2 times: no answer within 0.1 s"]
