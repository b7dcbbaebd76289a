"""The latest value: readers see the newest state, never a queue."""

import asyncio

from headrace.floor.cell import LatestValue


async def test_waiting_reader_gets_the_value_set_later() -> None:
    cell = LatestValue("old")
    reader = asyncio.create_task(cell.newer_than(cell.generation))
    await asyncio.sleep(0)
    assert not reader.done()
    cell.set("new")
    assert await reader == ("new", 1)


async def test_slow_reader_skips_values_in_between() -> None:
    cell = LatestValue(0)
    seen = []
    async for value in cell.changes():
        seen.append(value)
        if value == 3:
            break
        for number in (1, 2, 3):
            cell.set(number)
    assert seen == [0, 3]


async def test_all_readers_wake_at_one_change() -> None:
    cell = LatestValue(0)
    readers = [asyncio.create_task(cell.newer_than(0)) for _ in range(5)]
    await asyncio.sleep(0)
    cell.set(7)
    assert [value for value, _ in await asyncio.gather(*readers)] == [7] * 5
