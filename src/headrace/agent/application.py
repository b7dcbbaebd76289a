"""One process of an application: started or adopted, probed, ended. A new version or a restart is a new one of these.

Used by `agent.applications`, which decides when; this module knows how.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from headrace.agent.capture import Attachment
from headrace.agent.connections import connections_to
from headrace.agent.context import HostContext
from headrace.agent.environment import application_command, application_environment
from headrace.agent.prober import Prober, ProbeWay
from headrace.agent.probes import LISTENING, Answers, ProbeRunner, ProbeSet
from headrace.agent.process import Child, Launch, spawn
from headrace.agent.spec import ReplicaSpec

Spawn = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]
"""Starts a task that its replica owns; the text names it."""


class Application:
    """One application process with its probes."""

    def __init__(self, spec: ReplicaSpec, attachment: Attachment, context: HostContext) -> None:
        self.spec = spec
        self.attachment = attachment
        self.child: Child | None = None
        self._context = context
        self._environment = application_environment(
            spec, attachment, context.capture.environment(attachment), context.inherited
        )
        self._probing: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        return self.child is not None and self.child.running

    def local_ports(self) -> frozenset[int]:
        """Where the process listens on 127.0.0.1 for the workload's ports."""
        return frozenset(local for port, local in self.attachment.app_ports if port)

    def open_connections(self) -> int:
        """Connections that the process still serves."""
        tables = self._context.capture.connection_tables(self.attachment, self.child.pid if self.child else 0)
        ports = self.local_ports()
        return connections_to(ports) if tables is None else connections_to(ports, tables)

    def start(self) -> None:
        """Start the process; StartFailed where that is impossible."""
        launch = self._launch(self._context.mark("app", self.spec.id))
        self.child = spawn(self._context.capture.application(self.attachment, launch))

    def probe(self, answers: Answers, spawn_task: Spawn, was_ready: bool = False) -> None:
        """Begin to probe the running process."""
        assert self.child is not None, "probed before it was started"
        way = ProbeWay(self._context.session, self._context.capture, self.attachment)
        prober = Prober(way, self._launch(self.child.mark), self._environment)
        runner = ProbeRunner(self._probes(), prober.ask, answers, self._context.clock, was_ready)
        self._probing = spawn_task(runner.run(self._context.clock.monotonic()), "probes")

    async def stop_probing(self) -> None:
        """End the probes, for example before the process is drained."""
        probing, self._probing = self._probing, None
        if probing is not None and probing is not asyncio.current_task():
            probing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await probing

    async def end(self, grace: float) -> None:
        """Stop the process with all its descendants; `grace` seconds between SIGTERM and SIGKILL."""
        await self.stop_probing()
        if self.child is not None:
            await self.child.stop(grace)

    def close(self) -> None:
        """Stop watching; the process is left alone."""
        if self.child is not None:
            self.child.close()

    def _launch(self, mark: str) -> Launch:
        command = application_command(self.spec.command, self._environment)
        log = self._context.places.workload_log(self.spec.id)
        return Launch(command, mark, self._environment, self.spec.directory, log)

    def _probes(self) -> ProbeSet:
        spec = self.spec
        unprobed = spec.startup is None and spec.readiness is None and bool(spec.ports)
        return ProbeSet(LISTENING if unprobed else spec.startup, spec.readiness, spec.liveness)
