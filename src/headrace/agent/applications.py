"""The application processes of one replica: the one that serves, the one that is to follow it, and those that go.

Used by `agent.replica`. A new version starts beside the old one on ports of its own, behind the same proxy; when it is
ready, the control plane is told the new ports, the proxy gets them, and the old process is ended after its last
request. The replica's address, identity and connections from the mesh never change, and no request is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from headrace.agent.admin import Admin, AdminError
from headrace.agent.application import Application, Spawn
from headrace.agent.capture import APP_ADDRESS, Attachment
from headrace.agent.context import HostContext
from headrace.agent.drain import POLL, until_idle
from headrace.agent.lifecycle import Machine
from headrace.agent.probes import Answers
from headrace.agent.process import Child, StartFailed
from headrace.agent.spec import ReplicaSpec

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
LAST_GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL even where the grace period is used up (Kubernetes' rule)."""

_UNHEALTHY_WITHDRAW = 2.0
"""Seconds that an unhealthy process goes on at most so that callers can be told to leave it alone."""


class Applications:
    """Told by its replica what to do; tells the machine what came of it, and calls `awake` each time."""

    def __init__(
        self, spec: ReplicaSpec, attachment: Attachment, context: HostContext, machine: Machine, admin: Admin
    ) -> None:
        self.spec = spec
        """What the serving process runs."""
        self.attachment = attachment
        """What the proxy is told; ahead of the serving process while it switches to a successor."""
        self.current: Application | None = None
        self.started_ms = int(context.clock.now() * 1000)
        self._context = context
        self._machine = machine
        self._admin = admin
        self._successor: Application | None = None
        self._next_spec: ReplicaSpec | None = None
        self._going: set[Application] = set()
        self._replacing = False
        self._spawn: Spawn = _no_tasks
        self._awake: Callable[[], None] = lambda: None

    def bind(self, spawn: Spawn, awake: Callable[[], None]) -> None:
        """Where tasks run and whom to wake; before anything else."""
        self._spawn, self._awake = spawn, awake

    @property
    def newest_spec(self) -> ReplicaSpec:
        """What was asked for last."""
        return self._next_spec or self.spec

    def adopt(self, child: Child, started_ms: int) -> None:
        """Go on with a process that an earlier agent started (before `bind`; `resume` follows)."""
        self.current = Application(self.spec, self.attachment, self._context)
        self.current.child = child
        self.started_ms = started_ms

    def resume(self, was_ready: bool) -> None:
        """Watch what was adopted."""
        if self.current is not None:
            self._watch(self.current, was_ready)

    def start(self) -> None:
        """Start the serving process, of the newest version unless a successor is on its way."""
        if self._machine.successor is None and self._next_spec is not None:
            self.spec, self._next_spec = self._next_spec, None
        self.current = Application(self.spec, self.attachment, self._context)
        self.started_ms = int(self._context.clock.now() * 1000)
        self._launch(self.current)

    def start_successor(self) -> None:
        """Start the next version beside the serving process."""
        assert self._next_spec is not None, "a successor needs a spec"
        if self._successor is not None:
            attachment = self._successor.attachment
        else:
            attachment = self._context.capture.successor(self._next_spec, self.attachment)
        self._successor = Application(self._next_spec, attachment, self._context)
        self._launch(self._successor)

    async def restart(self) -> None:
        """End the serving process because it is unhealthy, once no new request comes; its end leads to a new start."""
        if self.current is not None:
            await self._context.control.withdraw(self.spec.id, _UNHEALTHY_WITHDRAW)
        if self.current is not None:
            await self.current.end(self.spec.grace_period)

    async def switch(self) -> None:
        """Let the proxy send requests to the successor, and drain the process that served."""
        successor, old = self._successor, self.current
        assert successor is not None, "nothing to switch to"
        self.attachment = successor.attachment
        self._context.changed()
        arrived = await self._proxy_uses(successor)
        if self._successor is not successor:
            return
        if not arrived:
            if old is not None:
                self.attachment = old.attachment
            return
        self.current, self._successor = successor, None
        self.spec, self._next_spec = successor.spec, None
        self.started_ms = int(self._context.clock.now() * 1000)
        self._machine.switched()
        if old is not None:
            self._going.add(old)
            self._spawn(self._retire(old), "retirement")

    def want(self, spec: ReplicaSpec) -> None:
        """Run this version from now on."""
        if spec.spec_hash == self.newest_spec.spec_hash:
            self._update(spec)
            return
        dropped, self._successor = self._successor, None
        if dropped is not None:
            self._drop(dropped)
        self._next_spec = spec
        if self._replacing or self._machine.replace():
            return
        # Nothing serves, so nothing is lost by ending it first.
        self._replacing = True
        old, self.current = self.current, None
        if old is not None:
            self._going.add(old)
        self._spawn(self._replace_in_place(old), "replacement")

    async def stop_probing(self) -> None:
        """No more judgements: the replica is ending."""
        for app in self._all():
            await app.stop_probing()

    async def end(self, grace: float) -> None:
        """End every process."""
        await asyncio.gather(*(app.end(grace) for app in self._all()))

    def close(self) -> None:
        """Stop watching; running processes are left alone."""
        for app in self._all():
            app.close()

    def _all(self) -> list[Application]:
        return [app for app in (self.current, self._successor, *self._going) if app is not None]

    def _launch(self, app: Application) -> None:
        successor = app is self._successor
        try:
            app.start()
        except (StartFailed, OSError) as error:
            _log.warning("application not started", replica=app.spec.id, reason=str(error))
            self._machine.app_ended(self._context.clock.monotonic(), str(error), successor=successor)
            return
        self._machine.app_started(self._context.clock.monotonic(), successor=successor)
        self._watch(app)

    def _watch(self, app: Application, was_ready: bool = False) -> None:
        self._probe(app, was_ready)
        self._spawn(self._follow(app), "application")

    def _probe(self, app: Application, was_ready: bool) -> None:
        def ready(passing: bool, detail: str) -> None:
            if app is self.current or app is self._successor:
                self._machine.app_probed(passing, detail, successor=app is self._successor)
                self._awake()

        def unhealthy(detail: str) -> None:
            _log.warning("application unhealthy", replica=app.spec.id, reason=detail)
            if app is self.current:
                self._machine.app_unhealthy(detail)
                self._awake()
            elif app is self._successor:
                self._spawn(app.end(app.spec.grace_period), "unhealthy successor")

        app.probe(Answers(ready, unhealthy), self._spawn, was_ready)

    async def _follow(self, app: Application) -> None:
        assert app.child is not None, "followed before it was started"
        reason = await app.child.ended()
        await app.stop_probing()
        await app.child.sweep()
        if app is not self.current and app is not self._successor:
            return
        if not self._machine.stopping:
            _log.warning("application ended", replica=app.spec.id, reason=reason)
        self._machine.app_ended(self._context.clock.monotonic(), reason, successor=app is self._successor)
        self._awake()

    def _update(self, spec: ReplicaSpec) -> None:
        """Take over what needs no new process: probes and grace period."""
        if self._next_spec is not None:
            self._next_spec = spec
            return
        before, self.spec = self.spec, spec
        app = self.current
        if app is None:
            return
        app.spec = spec
        probes = (spec.readiness, spec.liveness, spec.startup)
        if app.running and probes != (before.readiness, before.liveness, before.startup):
            self._spawn(self._probe_again(app), "probes")

    async def _probe_again(self, app: Application) -> None:
        await app.stop_probing()
        if app.running:
            self._probe(app, self._machine.app.ready)

    async def _replace_in_place(self, old: Application | None) -> None:
        if old is not None:
            await self._finish_requests(old)
            await old.end(old.spec.grace_period)
            self._going.discard(old)
        self.attachment = self._context.capture.successor(self.newest_spec, self.attachment)
        self._replacing = False
        self._machine.restart_in_place()
        self._awake()

    def _drop(self, app: Application) -> None:
        self._going.add(app)
        self._spawn(self._end_going(app, app.spec.grace_period), "dropped version")

    async def _end_going(self, app: Application, grace: float) -> None:
        await app.end(grace)
        self._going.discard(app)

    async def _proxy_uses(self, app: Application) -> bool:
        """Wait until Envoy has the application's ports; False where the application ends or is given up first."""
        wanted = {(APP_ADDRESS, port) for port in app.local_ports()}
        while app is self._successor and app.running:
            with contextlib.suppress(AdminError):
                if wanted <= await self._admin.upstream_addresses():
                    return True
            await asyncio.sleep(POLL)
        return False

    async def _finish_requests(self, old: Application) -> None:
        """Let a process that is out of the mesh, but was in it, end the requests that it still has."""
        clock = self._context.clock

        async def busy() -> bool:
            try:
                return old.running and await self._admin.requests_in_flight(gateway=False) > 0
            except AdminError:
                return False

        if old.running and self._machine.app.was_ready:
            await until_idle(busy, clock.monotonic() + old.spec.grace_period, clock)

    async def _retire(self, old: Application) -> None:
        clock = self._context.clock
        deadline = clock.monotonic() + old.spec.grace_period
        await old.stop_probing()

        async def busy() -> bool:
            return old.open_connections() > 0

        await until_idle(busy, deadline, clock)
        await self._end_going(old, max(LAST_GRACE, deadline - clock.monotonic()))


def _no_tasks(coroutine: object, name: str) -> asyncio.Task[None]:
    raise RuntimeError(f"{name}: the replica does not run")
