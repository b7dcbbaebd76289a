"""Bursts merge, single changes go out nearly at once, and a constant stream still goes out."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.envoy.xds.debounce import Debounce, settled
from headrace.floor.cell import LatestValue
from headrace.floor.clock import SystemClock


def test_a_single_change_is_due_after_the_quiet_time() -> None:
    debounce = Debounce(quiet=0.005, limit=0.05)
    assert debounce.due_at() is None
    assert not debounce.take(10.0)
    debounce.change(10.0)
    assert debounce.due_at() == pytest.approx(10.005)
    assert not debounce.take(10.004)
    assert debounce.take(10.006)
    assert debounce.due_at() is None


def test_an_urgent_change_is_due_at_once_with_all_that_waits() -> None:
    debounce = Debounce()
    debounce.change(10.0)
    debounce.change(10.001, urgent=True)
    assert debounce.take(10.001)
    debounce.change(11.0)
    assert not debounce.take(11.0)


def test_a_constant_stream_goes_out_at_the_limit() -> None:
    debounce = Debounce(quiet=0.005, limit=0.05)
    taken = []
    for step in range(200):
        now = step / 1000
        debounce.change(now)
        if debounce.take(now):
            taken.append(now)
    assert taken == pytest.approx([0.05, 0.101, 0.152])


@given(st.lists(st.tuples(st.floats(0, 0.02), st.booleans()), min_size=1, max_size=50))
def test_no_change_waits_longer_than_the_limit(gaps: list[tuple[float, bool]]) -> None:
    debounce = Debounce()
    now, first = 0.0, None
    for gap, urgent in gaps:
        now += gap
        due = debounce.due_at()
        if due is not None and due <= now:
            assert first is not None and due <= first + 0.05
            assert debounce.take(now)
            first = None
        debounce.change(now, urgent=urgent)
        first = now if first is None else first
    due = debounce.due_at()
    assert due is not None and first is not None and due <= first + 0.05


async def test_an_urgent_value_does_not_wait() -> None:
    cell = LatestValue(0)
    values = settled(cell, SystemClock(), Debounce(quiet=60, limit=120), urgent=lambda value: value >= 2)
    task = asyncio.ensure_future(anext(values))
    await asyncio.sleep(0)
    cell.set(1)
    await asyncio.sleep(0.01)
    assert not task.done()
    cell.set(2)
    async with asyncio.timeout(5):
        assert await task == 2


async def test_settled_yields_the_newest_value_of_each_burst() -> None:
    cell = LatestValue(0)
    seen: list[int] = []

    async def follow() -> None:
        async for value in settled(cell, SystemClock(), Debounce(quiet=0.02, limit=0.2)):
            seen.append(value)  # noqa: PERF401 - read while it goes on

    task = asyncio.create_task(follow())
    await asyncio.sleep(0)
    for burst in (range(1, 6), range(6, 9)):
        for value in burst:
            cell.set(value)
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            while not seen or seen[-1] != burst[-1]:
                await asyncio.sleep(0.001)
    task.cancel()
    assert seen == [5, 8]
