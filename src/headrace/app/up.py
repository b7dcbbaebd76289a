"""`headrace up`: one process that starts the agent, watches over it, and takes everything down again.

Called by the `up` and `demo` commands. The agent starts the control plane, the workloads and the proxies.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace.agent.reaper import KNOWN, become_subreaper, reap_orphans
from headrace.app.api.client import ApiClient, ApiUnreachable
from headrace.app.cli import CommandFailed
from headrace.app.settings import MeshSettings
from headrace.floor.backoff import Backoff
from headrace.floor.places import Places
from headrace.floor.processes import ProcessMark, read_mark, write_mark

STOP_LIMIT = 90.0
"""Seconds that a graceful stop of everything may take before what is left is killed."""
_STEADY = 30.0
_POLL = 0.05
_LOOK = 1.0
"""Seconds between two looks at the problems of a running mesh's documents."""


class StartFailed(CommandFailed):
    """The mesh ended before it was ready."""


@dataclass(slots=True)
class MeshProcess:
    """A mesh that this process runs in the foreground: start, watch, stop."""

    places: Places
    asked: threading.Event = field(default_factory=threading.Event)
    _agent: subprocess.Popen[bytes] | None = None
    _capture: str = "loopback"
    _addresses: str | None = None

    def start(self, settings: MeshSettings) -> None:
        """Start the agent; CommandFailed where a mesh already runs here."""
        refuse_second(self.places)
        settings.save(self.places)
        self._capture, self._addresses = settings.capture, settings.addresses
        become_subreaper()  # children of a killed agent come to us, not to a PID 1 that may never wait for them
        own = ProcessMark.of(os.getpid())
        assert own is not None
        write_mark(self.places.pid_file("up"), own)
        self._spawn_agent()

    def _spawn_agent(self) -> None:
        log = self.places.logs / "agent.log"
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._agent = subprocess.Popen(
                _agent_command(self.places, self._capture, self._addresses),
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=handle,
                start_new_session=True,
                env=os.environ | {"PATH": _path_with_headrace()},
            )
        finally:
            os.close(handle)
        KNOWN.clear()
        KNOWN.add(self._agent.pid)

    def watch(self, on_restart: Callable[[int], None]) -> None:
        """Restart the agent whenever it dies, until `asked` to end (then returns)."""
        backoff = Backoff(0.1, 10.0)
        while not self.asked.is_set():
            started = time.monotonic()
            code = self._wait()
            if self.asked.is_set():
                return
            if time.monotonic() - started > _STEADY:
                backoff.reset()
            on_restart(code)
            time.sleep(backoff.next())
            self._spawn_agent()

    def running(self) -> bool:
        """Whether the agent runs and nobody asked for the end."""
        return not self.asked.is_set() and self._agent is not None and self._agent.poll() is None

    def _wait(self) -> int:
        """The agent's exit code, or 0 when asked to end; meanwhile ended orphans are reaped."""
        assert self._agent is not None
        while not self.asked.is_set():
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._agent.wait(_POLL)
            reap_orphans()
        return 0

    @contextlib.contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """Meanwhile SIGINT, SIGTERM and SIGHUP ask for the end; a second one changes nothing."""

        def ask(*_: object) -> None:
            self.asked.set()

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, ask) for number in numbers}
        try:
            yield
        finally:
            for number, old in before.items():
                signal.signal(number, old)

    def stop(self) -> bool:
        """Stop everything gracefully; False where something had to be killed."""
        graceful = True
        if self._agent is not None and self._agent.poll() is None:
            self._agent.terminate()
            try:
                self._agent.wait(STOP_LIMIT)
                reap_orphans()
            except subprocess.TimeoutExpired:
                graceful = False
                self._agent.kill()
                self._agent.wait()
        self.places.pid_file("up").unlink(missing_ok=True)
        return graceful


def _agent_command(places: Places, capture: str, addresses: str | None) -> list[str]:
    command = [sys.executable, "-m", "headrace", "agent", "--state", str(places.state), "--capture", capture]
    return [*command, "--addresses", addresses] if addresses else command


def _path_with_headrace() -> str:
    """PATH with this Python's directory at its end, so that workloads may call `headrace` also where its virtual
    environment is not active; programs of the user's own come first."""
    own = str(Path(sys.executable).parent)
    parts = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join(parts if own in parts else [*parts, own])


def _last_words(places: Places) -> str:
    """What the agent said last, for a message; empty where it said nothing."""
    with contextlib.suppress(OSError):
        lines = (places.logs / "agent.log").read_text(errors="replace").strip().splitlines()
        return f" ({lines[-1].removeprefix('headrace: ')[:300]})" if lines else ""
    return ""


def refuse_second(places: Places) -> None:
    """CommandFailed where a mesh already runs on this state directory."""
    running = read_mark(places.pid_file("up"))
    if running is not None and running.pid != os.getpid():
        raise CommandFailed(
            f"a mesh already runs at {places.state} (process {running.pid}): stop it with "
            f"`headrace down --state {places.state}`, or use another --state directory"
        )


def detach(arguments: list[str], places: Places) -> ProcessMark:
    """Run `headrace up` with these arguments in the background, its output in logs/up.log."""
    refuse_second(places)
    handle = os.open(places.logs / "up.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "headrace", "up", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=handle,
            start_new_session=True,
        )
    finally:
        os.close(handle)
    mark = ProcessMark.of(process.pid)
    if mark is None:
        raise CommandFailed(f"the mesh did not start: see {places.logs / 'up.log'}")
    return mark


def wait_ready(
    places: Places, timeout: float, alive: Callable[[], bool], progress: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """The mesh's status as soon as every proxy has acknowledged its configuration and every probe passes.

    Calls `progress` with each status that differs from the one before. CommandFailed, with what is not ready, when
    `timeout` seconds are over or `alive` says that the mesh is gone.
    """
    client = ApiClient(places.state, timeout=5.0)
    deadline = time.monotonic() + timeout
    last: dict[str, Any] = {}
    while True:
        with contextlib.suppress(ApiUnreachable):
            status: dict[str, Any] = client.call("GET", "/v1/status")
            if status != last:
                progress(status)
            last = status
            if status["ready"]:
                return status
        if not alive():
            raise StartFailed(f"the mesh stopped while starting{_last_words(places)}: see {places.logs}")
        if time.monotonic() > deadline:
            waiting = [f"{item['id']} ({item['detail'] or item['state']})" for item in last.get("waiting", [])]
            raise CommandFailed(
                f"not ready after {timeout:g} s: {', '.join(waiting) or 'the control plane does not answer'}; "
                f"see the logs in {places.logs}"
            )
        time.sleep(_POLL)


def follow_problems(places: Places, asked: threading.Event, known: set[str], tell: Callable[[str], None]) -> None:
    """Tell each problem of the documents once when it appears, until `asked`; `known` are those told before. Called in
    a thread of its own: the control plane may be slow to answer, or starting again."""
    client = ApiClient(places.state, timeout=5.0)
    while not asked.wait(_LOOK):
        with contextlib.suppress(CommandFailed):
            found = client.call("GET", "/v1/status")["problems"]
            for problem in found:
                if problem not in known:
                    tell(problem)
            known = set(found)
