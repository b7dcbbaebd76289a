"""The agent as a process: takes its state directory, wires the agent's room together, and runs until told to stop.

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
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import aiohttp
import structlog

from headrace.agent.capture import LoopbackCapture
from headrace.agent.context import HostContext
from headrace.agent.guardian import Charge, Guardian
from headrace.agent.host import Host, HostLimits
from headrace.agent.link import ControlLink, HostFacts
from headrace.agent.prober import probe_session
from headrace.agent.proxy import ProxySettings
from headrace.agent.reaper import become_subreaper, watch
from headrace.agent.sds import SecretStore
from headrace.envoy.binary import PINNED_VERSION, pinned_envoy
from headrace.envoy.module import ModuleCheck, check_module
from headrace.floor.backoff import Backoff
from headrace.floor.clock import SystemClock
from headrace.floor.places import Places, StateError
from headrace.floor.processes import ProcessMark, write_mark

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
_RECONNECT_FIRST = 0.05
_RECONNECT_LIMIT = 1.0
_ENVOY_ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "LANG", "TZ")


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """How one agent runs. `control_plane` is the command of the control plane that it starts and keeps running; empty:
    somebody else runs it. `log_bytes`: size beyond which a log is rotated."""

    state: Path
    host: str = "local"
    control_plane: Sequence[str] = ()
    log_bytes: int = 32 << 20


def run_agent(options: AgentOptions) -> None:
    """Run the agent of this state directory; returns after everything that it ran is gone.

    StateError where another agent has the directory, EnvoyError where there is no usable Envoy.
    """
    places = Places.open(options.state)
    lock = _lock(places)
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")  # processes are started by vfork, which needs no help
    envoy = pinned_envoy()
    module = check_module(places.agent / "module-check.json")
    own = ProcessMark.of(os.getpid())
    assert own is not None, "/proc does not know this process"
    write_mark(places.pid_file("agent"), own)
    try:
        asyncio.run(_run(options, places, envoy, module))
    finally:
        places.pid_file("agent").unlink(missing_ok=True)
        lock.close()


def headrace_command(*arguments: str) -> tuple[str, ...]:
    """The command line that runs this very installation of headrace."""
    return (sys.executable, "-m", "headrace", *arguments)


async def _run(options: AgentOptions, places: Places, envoy: Path, module: ModuleCheck) -> None:
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
    async with probe_session() as session:
        host = _host(options, places, HostPieces(envoy, module, session))
        await host.run(stop, hurry)


@dataclass(frozen=True, slots=True)
class HostPieces:
    """What was found and opened before a host can be made."""

    envoy: Path
    module: ModuleCheck
    session: aiohttp.ClientSession


def _host(options: AgentOptions, places: Places, pieces: HostPieces) -> Host:
    clock, source = SystemClock(), random.Random()  # noqa: S311 - spreads load in time, hides nothing
    mesh = hashlib.blake2b(os.fsencode(places.state), digest_size=8).hexdigest()

    def mark(role: str, name: str) -> str:
        return f"{mesh}:{role}:{name}:{secrets.token_hex(4)}:"

    facts = HostFacts(options.host, PINNED_VERSION, pieces.module.usable, pieces.module.problem)
    reconnect = Backoff(_RECONNECT_FIRST, _RECONNECT_LIMIT, source=source)
    link = ControlLink(f"unix:{places.agent_socket}", facts, reconnect, clock)
    environment = {name: value for name in _ENVOY_ENVIRONMENT if (value := os.environ.get(name)) is not None}
    context = HostContext(
        places=places,
        clock=clock,
        source=source,
        capture=LoopbackCapture(places.state, lambda: secrets.token_urlsafe(32)),
        control=link,
        secrets=SecretStore(clock),
        session=pieces.session,
        proxy=ProxySettings(pieces.envoy, {**environment, **pieces.module.environment()}),
        mark=mark,
        changed=lambda: host.changed(),
        inherited=dict(os.environ),
    )
    guardian = None
    if options.control_plane:
        log = places.logs / "control-plane.log"
        charge = Charge(options.control_plane, log, lambda: mark("control-plane", ""), dict(os.environ))
        guardian = Guardian(charge, lambda: host.changed(), clock, source)
    host = Host(context, link, guardian, f"{mesh}:", HostLimits(options.log_bytes))
    return host


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
