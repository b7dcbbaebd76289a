"""The control plane's guardian, with a real process in its place."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from headrace.agent.guardian import Charge, Guardian
from headrace.agent.process import marked
from headrace.floor.clock import SystemClock


def guardian(
    log: Path, code: str, changed: Callable[[], None] = lambda: None, leaves: tuple[Path, ...] = ()
) -> Guardian:
    starts = iter(range(1000))
    environment = {"PATH": os.environ["PATH"]}
    charge = Charge((sys.executable, "-c", code), log, lambda: f"guard-{log}:{next(starts)}:", environment, leaves)
    return Guardian(charge, changed, SystemClock(), random.Random(1))


async def until(check: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_it_is_started_restarted_adopted_and_stopped(tmp_path: Path) -> None:
    log, changes = tmp_path / "log", []
    first = guardian(log, "import time; time.sleep(60)", lambda: changes.append(1))
    task = asyncio.create_task(first.run())
    await until(lambda: first.record())
    record = first.record()
    assert record is not None and changes
    os.kill(record.process.pid, 9)
    await until(lambda: (now := first.record()) is not None and now != record)
    record = first.record()
    assert record is not None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    first.close()
    assert record.process.alive(), "it outlives its guardian"

    second = guardian(log, "raise SystemExit('must not be started')")
    second.adopt(record)
    task = asyncio.create_task(second.run())
    await asyncio.sleep(0.1)
    assert second.record() == record
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await second.stop(2)
    assert marked(f"guard-{log}:") == []


async def test_one_that_has_to_be_killed_leaves_no_files(tmp_path: Path) -> None:
    leaf = tmp_path / "api.sock"
    code = f"import signal, time; signal.signal(15, signal.SIG_IGN); open({str(leaf)!r}, 'w').close(); time.sleep(60)"
    stubborn = guardian(tmp_path / "log", code, leaves=(leaf, tmp_path / "never-made"))
    stubborn.begin(None)
    await until(leaf.exists)
    await stubborn.stop(0.1)
    assert not leaf.exists()


async def test_one_that_cannot_run_is_tried_again_with_growing_waits(tmp_path: Path) -> None:
    log = tmp_path / "log"
    one = guardian(log, "print('again', flush=True); raise SystemExit(1)")
    task = asyncio.create_task(one.run())
    await until(lambda: log.exists() and log.read_text().count("again") >= 3)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await one.stop(1)
    assert marked(f"guard-{log}:") == []
