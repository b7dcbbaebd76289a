"""The agent as a process: takes its state directory, starts the control plane, and runs the host until told to stop.

Called by `headrace agent` (which `headrace up` starts). SIGTERM or SIGINT end everything that it runs, gracefully; a
second one skips the waiting. SIGKILL leaves everything running for the next agent.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import random
import secrets
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from headrace.agent.children import Children
from headrace.agent.guardian import Charge, Guardian
from headrace.agent.reaper import become_subreaper, watch
from headrace.envoy.binary import pinned_envoy
from headrace.floor.clock import SystemClock
from headrace.floor.places import Places, StateError
from headrace.floor.processes import ProcessMark, write_mark

if TYPE_CHECKING:
    from headrace.app.membership import Membership


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """How one agent runs. `control_plane` is the command of the control plane that it starts and keeps running; empty:
    somebody else runs it. `log_bytes`: size beyond which a log is rotated. `capture`: how traffic reaches proxies
    (`loopback` or `netns`). `addresses`: the range of replicas' addresses. `join`: ADDRESS:PORT of another
    host's control plane, with a join `token` where this host is not a member yet."""

    state: Path
    host: str = "local"
    control_plane: Sequence[str] = ()
    log_bytes: int = 32 << 20
    capture: str = "loopback"
    addresses: str | None = None
    join: str | None = None
    token: str = field(default="", repr=False)


def run_agent(options: AgentOptions) -> None:
    """Run the agent of this state directory; returns after everything that it ran is gone.

    StateError where another agent has the directory, EnvoyError where there is no usable Envoy.
    """
    places = Places.open(options.state)
    lock = _lock(places)
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")  # processes are started by vfork, which needs no help
    envoy = pinned_envoy()
    membership = None
    if options.join is not None:
        from headrace.app.membership import member

        membership = member(places, options.join, options.token, SystemClock())
        options = replace(options, host=membership.host)
    own = ProcessMark.of(os.getpid())
    assert own is not None, "/proc does not know this process"
    write_mark(places.pid_file("agent"), own)
    try:
        asyncio.run(_run(options, places, envoy, membership))
    finally:
        places.pid_file("agent").unlink(missing_ok=True)
        lock.close()


def mesh_mark(places: Places) -> str:
    """How the mark of every process of this mesh begins (`agent.process.MARK`)."""
    return f"{hashlib.blake2b(os.fsencode(places.state), digest_size=8).hexdigest()}:"


def headrace_command(*arguments: str) -> tuple[str, ...]:
    """The command line that runs this very installation of headrace."""
    return (sys.executable, "-m", "headrace", *arguments)


async def _run(options: AgentOptions, places: Places, envoy: Path, membership: Membership | None) -> None:
    loop = asyncio.get_running_loop()
    stop, hurry = asyncio.Event(), asyncio.Event()

    def asked_to_stop() -> None:
        if stop.is_set():
            hurry.set()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop)
    if become_subreaper():
        watch(loop)
    own = mesh_mark(places)

    def mark(role: str, name: str) -> str:
        return f"{own}{role}:{name}:{secrets.token_hex(4)}:"

    guardian = None
    if options.control_plane:
        log = places.logs / "control-plane.log"
        leaves = (places.agent_socket, places.api_socket, places.pid_file("control-plane"))
        charge = Charge(options.control_plane, log, lambda: mark("control-plane", ""), dict(os.environ), leaves)
        source = random.Random()  # noqa: S311 - spreads load in time, hides nothing
        guardian = Guardian(charge, lambda: None, SystemClock(), source)
        guardian.begin(Children.load(places.agent)[0].control_plane)
    # Not before: this takes as long as the control plane takes to load itself, at the same time.
    from headrace.app.agent_host import HostStart, run_host

    start = HostStart(
        places,
        options.host,
        envoy,
        guardian,
        own,
        mark,
        options.log_bytes,
        options.capture,
        options.addresses,
        membership,
    )
    await run_host(start, stop, hurry)


def _lock(places: Places) -> IO[bytes]:
    """The lock of the state directory, held for as long as the file stays open (and not inherited)."""
    file = os.fdopen(os.open(places.agent / "lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600), "wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        pid = ""
        with suppress(OSError, IndexError):
            pid = " (pid " + places.pid_file("agent").read_text().split()[0] + ")"
        raise StateError(
            f"an agent{pid} runs at {places.state} already: stop it with `headrace down --state {places.state}`"
        ) from None
    return file
