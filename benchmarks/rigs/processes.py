"""Processes of a benchmark: pinned to a core, measured, and ended in every case."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path


def pin(pid: int, core: int) -> None:
    """Keep all threads of a process on one core."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(task.name), {core})


def cpu_seconds(pids: Sequence[int]) -> float:
    """Processor time that the threads of these processes have used (to the nanosecond, unlike /proc/PID/stat)."""
    files = [task / "schedstat" for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9


@contextlib.contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command as a process whose output goes to `log`, in a session of its own as the agent starts Envoys: the
    kernel shares a busy core among sessions (sched_autogroup), so anything else would not be a fair comparison."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(5.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(ready: Path, log: Path, seconds: float = 10.0) -> None:
    """Wait until the Unix socket of an Envoy's admin interface says LIVE; ends the benchmark with the log otherwise."""
    from headrace.app.api.client import UnixConnection

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            connection = UnixConnection(ready, 1.0)
            connection.request("GET", "/ready")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.02)
    raise SystemExit(f"{ready} is not live:\n{log.read_text(errors='replace')[-3000:]}")
