"""Operating-system processes that outlive the agent: started in sessions of their own, watched by pidfd, ended whole.

Used for applications, Envoys, exec probes and the control plane. A process is named by pid and start time, so a reused
pid is never mistaken for it, and every one carries a mark in its environment by which it and all its descendants can be
found again, even those that left their process group or whose pid was not written down before the agent was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from headrace.agent.reaper import KNOWN
from headrace.floor.processes import ProcessMark

MARK = "HEADRACE_SUPERVISED"
"""Environment variable that names the mesh, the role and one start of a process."""
_MARK_BYTES = f"{MARK}=".encode()
_GONE_POLL = 0.02


class StartFailed(Exception):
    """The process could not be started; the message says why, for people."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What to start: `log` takes standard output and error (appended, mode 0600; None: nowhere). It belongs to the user
    `log_owner`, where one is given: a program that changes to that user may then open /dev/stdout again, as Envoy does.
    """

    command: Sequence[str]
    mark: str
    environment: Mapping[str, str] = field(repr=False)
    directory: str = ""
    log: Path | None = None
    log_owner: int | None = None


def marked(prefix: str) -> list[int]:
    """Pids of this user's running processes whose mark starts with `prefix`, sorted."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return sorted(pid for pid in pids if pid != os.getpid() and mark_of(pid).startswith(prefix) and ProcessMark.of(pid))


def mark_of(pid: int) -> str:
    """The mark of a running process, empty where it has none or may not be looked at."""
    with contextlib.suppress(OSError):
        for variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if variable.startswith(_MARK_BYTES):
                return variable[len(_MARK_BYTES) :].decode(errors="replace")
    return ""


class Child:
    """One supervised process. Made by `spawn` or `adopt` in a running event loop; `close` when done with it."""

    def __init__(self, identity: ProcessMark, pidfd: int, mark: str, own: subprocess.Popen[bytes] | None) -> None:
        self.identity = identity
        self.mark = mark
        self._own = own
        self._pidfd = pidfd
        self._ended = asyncio.Event()
        self._ending = asyncio.Lock()
        self._reason = ""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pidfd, self._note_end)

    @property
    def pid(self) -> int:
        return self.identity.pid

    @property
    def running(self) -> bool:
        return not self._ended.is_set()

    async def ended(self) -> str:
        """Wait for its end; says how it ended, for people."""
        await self._ended.wait()
        return self._reason

    async def stop(self, grace: float) -> None:
        """SIGTERM to all descendants, SIGKILL after `grace` seconds to what is left; returns
        when all are gone. A wrapper that ends before the process it started takes nothing from that one's grace."""
        async with self._ending:
            if self.running:
                self._signal_group(signal.SIGTERM)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(grace):
                        await self._asked_to_end()
            await self._sweep()

    async def sweep(self) -> None:
        """Kill the process where it still runs, and everything it left behind; after a `stop` that is under way."""
        async with self._ending:
            await self._sweep()

    async def _asked_to_end(self) -> None:
        for pid in await asyncio.to_thread(marked, self.mark):
            with contextlib.suppress(OSError):
                if os.getpgid(pid) != self.pid:
                    os.kill(pid, signal.SIGTERM)
        await self._ended.wait()
        left = True
        while left:
            left = bool(await asyncio.to_thread(marked, self.mark))
            await asyncio.sleep(_GONE_POLL if left else 0)

    async def _sweep(self) -> None:
        if self.running:
            self._signal_group(signal.SIGKILL)
            await self._ended.wait()
        self._reap()
        while pids := await asyncio.to_thread(marked, self.mark):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(_GONE_POLL)

    def close(self) -> None:
        """Stop watching; a running process is left alone."""
        if not self.running:
            self._reap()
        elif self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _signal_group(self, number: signal.Signals) -> None:
        # The group is the leader's own (start_new_session), and its id cannot be reused while the leader runs.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _note_end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        if self._own is None:
            self._reason = "ended (how is not known: an earlier agent had started it)"
        else:
            # Not reaped yet: for as long as the leader is a zombie, its group's id cannot become somebody else's.
            end = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOWAIT)
            self._reason = _how(end) if end is not None else "ended"
        os.close(self._pidfd)
        self._pidfd = -1
        self._ended.set()

    def _reap(self) -> None:
        """Kill what is left of the process group, then let the ended leader go."""
        own, self._own = self._own, None
        if own is not None:
            self._signal_group(signal.SIGKILL)
            own.wait()
            KNOWN.discard(self.pid)


def spawn(launch: Launch) -> Child:
    """Start a process in a session of its own; StartFailed where the system refuses.

    No code runs between fork and exec (gRPC has threads), standard input is empty, and only 0, 1 and 2 are inherited.
    """
    if not launch.command:
        raise StartFailed("there is no command to start")
    output = subprocess.DEVNULL if launch.log is None else open_log(launch.log, launch.log_owner)
    try:
        process = subprocess.Popen(
            list(launch.command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=launch.directory or None,
            env={**launch.environment, MARK: launch.mark},
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise StartFailed(_why_not(launch, error)) from error
    finally:
        if output >= 0:
            os.close(output)
    KNOWN.add(process.pid)
    pidfd = os.pidfd_open(process.pid)
    # A process that ended already is a zombie until it is waited for: it keeps its pid, and pidfd tells at once.
    return Child(ProcessMark.of(process.pid) or ProcessMark(process.pid, 0), pidfd, launch.mark, process)


def adopt(identity: ProcessMark, mark: str) -> Child | None:
    """Watch a process that an earlier agent started; None where it does not run any more."""
    try:
        pidfd = os.pidfd_open(identity.pid)
    except OSError:
        return None
    if not identity.alive():
        os.close(pidfd)
        return None
    return Child(identity, pidfd, mark, None)


def open_log(path: Path, owner: int | None = None) -> int:
    """A descriptor that appends to the log, mode 0600. Appending lets `agent.logfiles` shorten it under the writer."""
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    if owner is not None:
        os.fchown(log, owner, -1)
    return log


def _how(end: os.waitid_result) -> str:
    if end.si_code == os.CLD_EXITED:
        return f"exited with code {end.si_status}"
    try:
        return f"killed by {signal.Signals(end.si_status).name}"
    except ValueError:
        return f"killed by signal {end.si_status}"


def _why_not(launch: Launch, error: Exception) -> str:
    program = launch.command[0] if launch.command else ""
    if launch.directory and not Path(launch.directory).is_dir():
        return f"its directory {launch.directory} does not exist: correct the Workload's directory"
    if isinstance(error, FileNotFoundError):
        return f"there is no program {program!r} (looked in its directory and on PATH): correct the command"
    if isinstance(error, PermissionError):
        return f"{program!r} may not be executed: check its permissions"
    return f"{program!r} cannot be started: {error}"
