"""Collects the ends of processes that nobody waits for.

The agent makes itself a subreaper (prctl(2)): when an application's process dies before its own children, they become
the agent's children instead of PID 1's, which in many containers never waits and keeps zombies. `agent.process` reaps
what it started itself; this module reaps the rest. Installed by `app.agent_process`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

KNOWN: set[int] = set()
"""Pids that `agent.process` waits for itself."""


def become_subreaper() -> bool:
    """Whether the kernel now gives this process its orphaned descendants."""
    with contextlib.suppress(OSError, AttributeError):
        return bool(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    return False


def watch(loop: asyncio.AbstractEventLoop) -> None:
    """Reap adopted orphans whenever a child ends. Every process must be started in the loop's own thread, so that none
    is seen here before it is in KNOWN."""
    loop.add_signal_handler(signal.SIGCHLD, reap_orphans)


def reap_orphans() -> None:
    """Wait for every ended child that is not in KNOWN, without blocking."""
    for pid in _children():
        if pid not in KNOWN:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _children() -> set[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found.update(int(pid) for pid in (task / "children").read_text().split())
    return found
