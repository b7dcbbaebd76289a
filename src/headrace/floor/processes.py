"""Processes by pid and start time: a pid alone may by now be somebody else's.

Used for pid files of the roles and by the agent to adopt its children after a crash.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from headrace.floor.files import write_private


@dataclass(frozen=True, slots=True)
class ProcessMark:
    """One process of this boot: its pid, and its start time in clock ticks since boot (/proc/PID/stat, field 22)."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> ProcessMark | None:
        """The mark of a running process; None where there is none (a zombie counts as none)."""
        try:
            text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            return None
        fields = text.rpartition(")")[2].split()
        return None if fields[0] in ("Z", "X") else cls(pid, int(fields[19]))

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return ProcessMark.of(self.pid) == self

    def send(self, number: signal.Signals) -> bool:
        """Send a signal to it, never to a successor with its pid; False where it is gone."""
        if not self.alive():
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
            return True
        return False

    def wait_gone(self, seconds: float, pause: float = 0.02) -> bool:
        """Wait until it is gone; False where it still runs after `seconds`."""
        deadline = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() > deadline:
                return False
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, os.WNOHANG)
            time.sleep(pause)
        return True


def write_mark(path: Path, mark: ProcessMark) -> None:
    """Keep a mark in a pid file."""
    write_private(path, f"{mark.pid} {mark.started}\n".encode())


def read_mark(path: Path) -> ProcessMark | None:
    """The process that a pid file names, if it still runs."""
    try:
        pid, started = path.read_text().split()
        mark = ProcessMark(int(pid), int(started))
    except (OSError, ValueError):
        return None
    return mark if mark.alive() else None
