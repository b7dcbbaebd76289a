"""Runs one replica: executes what its `Machine` says and tells it what came of it.

`agent.host` makes one for every replica that it must run, or finds running. Ending the task (cancellation) leaves the
processes alone, for the next agent; `stop` ends them gracefully.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

import structlog

from headrace.agent.admin import AdminError
from headrace.agent.applications import LAST_GRACE, Applications
from headrace.agent.capture import Attachment
from headrace.agent.children import ChildRecord, ReplicaRecord
from headrace.agent.context import HostContext
from headrace.agent.drain import until_idle
from headrace.agent.engine_watch import Target, endpoint_addresses, engine_of, metrics_port, watch_engine
from headrace.agent.lifecycle import Action, Machine, State
from headrace.agent.prober import ProbeWay
from headrace.agent.process import Child, StartFailed, adopt
from headrace.agent.proxy import Proxy
from headrace.agent.relay import replica_socket
from headrace.agent.spec import ReplicaSpec
from headrace.identity.issuer import IssuedCertificate
from headrace.identity.rotation import Renewer, Rotation, RotationRules, WorkloadCertificate
from headrace.wire import agent_v1_pb2 as wire

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
_LIVE_POLL = 0.05
_LIVE_POLL_SLOW = 2.0
_PROXY_GRACE = 2.0
_WITHDRAW_LIMIT = 10.0
_OUTDATED_SECONDS = 1.0
_ROTATION = RotationRules(retry_limit=5.0)


class Replica:
    """One replica. Used from one event loop; `run` is called once."""

    def __init__(self, spec: ReplicaSpec, attachment: Attachment, context: HostContext) -> None:
        self.id = spec.id
        self._context = context
        self._machine = Machine(not spec.is_gateway, context.restarts, context.proxy_restarts, context.source)
        self.door = context.capture.door(spec.id, attachment)
        self._proxy = Proxy(self.door, context.places.proxy_log(spec.id), context.proxy)
        self._apps = Applications(spec, attachment, context, self._machine, self._proxy.admin)
        self._wanted = spec
        self._certificate: WorkloadCertificate | None = None
        self._renewer: Renewer | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._stop_at: float | None = None
        self._hurried = asyncio.Event()
        self._told: State | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def spec(self) -> ReplicaSpec:
        """What it runs now; what it was asked for last may still be on its way."""
        return self._apps.spec

    def adopt(self, record: ReplicaRecord) -> None:
        """Take over what an earlier agent left running; what is gone is started anew. Before `run`."""
        proxy = adopt(record.proxy.process, record.proxy.mark) if record.proxy else None
        app = adopt(record.app.process, record.app.mark) if record.app else None
        if proxy is not None:
            self._proxy.child = proxy
        if app is not None:
            self._apps.adopt(app, record.started_unix_ms)
        whole = proxy is not None and (app is not None or self.spec.is_gateway)
        self._machine.adopted(
            self._context.clock.monotonic(),
            proxy=proxy is not None,
            app=app is not None,
            ready=record.ready and whole,
            restarts=record.restarts,
        )

    def want(self, spec: ReplicaSpec) -> None:
        """The newest assignment of this replica: its process is replaced where the spec's hash differs."""
        self._wanted = spec
        self._wake.set()

    def stop(self, *, hurry: bool = False) -> None:
        """End it gracefully, or without the rest of its grace period; `run` returns when everything is gone."""
        now = self._context.clock.monotonic()
        if self._stop_at is None:
            self._stop_at = now
        if hurry:
            self._stop_at = now - self.spec.grace_period
            self._hurried.set()
        self._machine.stop()
        self._wake.set()

    def trust_changed(self) -> None:
        """Renew the certificate at once where it was revoked, or where another authority signs now."""
        certificate = self._certificate
        if self._renewer is not None and certificate is not None and self._context.secrets.is_outdated(certificate):
            self._renewer.renew_now()

    def record(self) -> ReplicaRecord:
        """What a restarted agent must know of it."""
        app = self._apps.current
        return ReplicaRecord(
            id=self.id,
            message=self.spec.message,
            attachment=self._apps.attachment if app is None else app.attachment,
            app=_child_record(app.child if app else None),
            proxy=_child_record(self._proxy.child),
            ready=self._machine.state is State.READY,
            restarts=self._machine.app.supervision.restarts,
            started_unix_ms=self._apps.started_ms,
        )

    def report(self) -> wire.ReplicaReport:
        """What the control plane is told."""
        machine, given, certificate = self._machine, self._apps.attachment, self._certificate
        return wire.ReplicaReport(
            id=self.id,
            address=given.address,
            state=machine.state.value,
            detail=machine.detail[:500],
            restarts=machine.app.supervision.restarts + machine.proxy.restarts,
            app_pid=_pid(self._apps.current.child if self._apps.current else None),
            proxy_pid=_pid(self._proxy.child),
            spec_hash=self.spec.spec_hash,
            outbound_port=given.outbound_port,
            proxy_credentials=given.credentials(),
            app_ports=[wire.PortMapping(port=port, local=local) for port, local in given.app_ports if port],
            gateway_ports=[wire.PortMapping(port=port, local=local) for port, local in given.gateway_ports],
            capture="netns" if given.namespace else "",
            address6=given.address6,
            started_unix_ms=self._apps.started_ms,
            certificate_not_after_unix_ms=int(certificate.not_after * 1000) if certificate else 0,
            certificate_serial=certificate.serial if certificate else "",
            proxy_ready=machine.live,
        )

    async def run(self) -> None:
        """Run until stopped. An unexpected exception leaves the processes running and is raised."""
        context = self._context
        try:
            path = self.door.xds
            async with replica_socket(path, self.id, context.control, context.secrets), asyncio.TaskGroup() as tasks:
                self.door.hand_over(path)
                self._tasks = tasks
                self._apps.bind(self._spawn, self._wake.set)
                self._renew(self.spec)
                self._resume()
                self._watch_engine()
                await self._loop()
                for task in self._running:
                    task.cancel()
        finally:
            self._tasks = None
            self._apps.close()
            if self._proxy.child is not None:
                self._proxy.child.close()
            await self._proxy.close()
            if self._machine.state is State.STOPPED:
                context.secrets.forget(self.id)
                context.capture.release(self.id)
            context.changed()

    async def _loop(self) -> None:
        while self._machine.state is not State.STOPPED:
            self._wake.clear()
            self._take_wanted()
            for action in self._machine.actions(self._context.clock.monotonic()):
                self._spawn(self._perform(action), action.name.lower())
            self._tell()
            now = self._context.clock.monotonic()
            at = self._machine.wake_at(now)
            wait = None if at is None else at - now
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wake.wait()

    def _tell(self) -> None:
        state, detail = self._machine.state, self._machine.detail
        if state is not self._told:
            self._told = state
            _log.info("replica", replica=self.id, state=state.value, **({"detail": detail} if detail else {}))
        self._context.changed()

    def _take_wanted(self) -> None:
        spec, before = self._wanted, self._apps.newest_spec
        if spec.message == before.message or self._machine.stopping:
            return
        if spec.identity != before.identity:
            self._machine.identity_changed()
            self._renew(spec)
        if spec.is_gateway:
            self._apps.attachment = self._context.capture.successor(spec, self._apps.attachment)
            self._apps.spec = spec
        else:
            self._apps.want(spec)
        self._watch_engine()

    def _watch_engine(self) -> None:
        """Follow what the model server says of its load, where the document names one."""
        if engine_of(self._apps.newest_spec.engine) is not None and self._watching is None:
            self._watching = self._spawn(watch_engine(self.id, self._engine, self._context), "engine")

    def _engine(self) -> Target | None:
        """The serving process as a model server; None where it is none, or takes no requests."""
        app = self._apps.current
        engine = engine_of(self.spec.engine)
        if engine is None or app is None or not app.running or self._machine.state is not State.READY:
            return None
        given = app.attachment
        addresses = endpoint_addresses(given.address, self.spec.port_numbers())
        way = ProbeWay(self._context.session, self._context.capture, given)
        return Target(engine, way, given.local_port(metrics_port(self.spec.ports)), addresses)

    async def _perform(self, action: Action) -> None:
        match action:
            case Action.OBTAIN_CERTIFICATE:
                pass  # the renewer asks from the beginning; its answer is the fact that the machine waits for
            case Action.START_PROXY:
                self._start_proxy()
            case Action.START_APP:
                self._apps.start()
            case Action.START_SUCCESSOR:
                self._apps.start_successor()
            case Action.RESTART_APP:
                await self._apps.restart()
            case Action.SWITCH:
                await self._apps.switch()
            case _:
                await self._wind_down(action)
                self._machine.stage_done(action)
        self._wake.set()

    async def _wind_down(self, action: Action) -> None:
        match action:
            case Action.WITHDRAW:
                await self._unless_hurried(
                    self._context.control.withdraw(self.id, min(_WITHDRAW_LIMIT, self._grace_left()))
                )
            case Action.AWAIT_IDLE:
                await self._unless_hurried(self._await_idle())
            case Action.STOP_APP:
                await self._unless_hurried(self._apps.end(self._grace_left()))
                await self._apps.end(0.0)  # nothing is left to end unless somebody is in a hurry
            case Action.STOP_PROXY:
                await self._proxy.end(_PROXY_GRACE)

    async def _unless_hurried(self, work: Coroutine[Any, Any, object]) -> None:
        """Do the work, or give it up as soon as somebody is in a hurry."""
        working = asyncio.ensure_future(work)
        hurrying = asyncio.ensure_future(self._hurried.wait())
        try:
            await asyncio.wait((working, hurrying), return_when=asyncio.FIRST_COMPLETED)
        finally:
            hurrying.cancel()
            if not working.done():
                working.cancel()
            await asyncio.gather(working, return_exceptions=True)
        if not working.cancelled():
            working.result()

    def _start_proxy(self) -> None:
        context = self._context
        try:
            mark = context.mark("proxy", self.id)
            given = self._apps.attachment
            child = self._proxy.start(
                self.spec, given.address, mark, lambda launch: context.capture.proxy(given, launch)
            )
        except (StartFailed, OSError) as error:
            self._machine.proxy_ended(context.clock.monotonic(), str(error))
            return
        self._machine.proxy_started(context.clock.monotonic())
        self._watch_proxy(child)

    def _resume(self) -> None:
        ready = self._machine.state is State.READY
        if self._proxy.child is not None:
            self._watch_proxy(self._proxy.child)
        self._apps.resume(ready)

    def _watch_proxy(self, child: Child) -> None:
        self._spawn(self._follow_proxy(child), "proxy")
        self._spawn(self._poll_live(child), "live")

    async def _follow_proxy(self, child: Child) -> None:
        reason = await child.ended()
        if not self._machine.stopping:
            _log.warning("proxy ended", replica=self.id, reason=reason)
        self._machine.proxy_ended(self._context.clock.monotonic(), reason)
        self._wake.set()

    async def _poll_live(self, child: Child) -> None:
        while child.running:
            before = self._machine.live
            try:
                detail = await self._proxy.admin.live()
            except AdminError:
                # A busy moment is no reason to leave the mesh.
                detail = "" if before else "the proxy is starting"
            if child.running:
                self._machine.proxy_live(not detail, detail)
            if self._machine.live != before:
                self._wake.set()
            await asyncio.sleep(_LIVE_POLL_SLOW if self._machine.live else _LIVE_POLL)

    def _renew(self, spec: ReplicaSpec) -> None:
        """Obtain a certificate for this identity and keep it valid, instead of any other one."""

        async def sign(csr_der: bytes) -> IssuedCertificate:
            try:
                return await self._context.control.sign(self.id, csr_der)
            except Exception as error:
                self._machine.certificate_waits(str(error))
                self._wake.set()
                raise

        def obtained(certificate: WorkloadCertificate) -> None:
            self._certificate = certificate
            self._context.secrets.put(self.id, certificate)
            # A certificate that was signed while the trust changed: looked at again, but not in a tight loop.
            asyncio.get_running_loop().call_later(_OUTDATED_SECONDS, self.trust_changed)
            self._machine.certificate_obtained()
            self._wake.set()

        if self._renewing is not None:
            self._renewing.cancel()
        renewer = Renewer(spec.identity, sign, obtained, Rotation(_ROTATION, self._context.source))
        self._renewer = renewer
        self._renewing = self._spawn(renewer.run(), "certificate")

    async def _await_idle(self) -> None:
        await self._apps.stop_probing()
        gateway, clock = self.spec.is_gateway, self._context.clock
        if gateway:
            with contextlib.suppress(AdminError):
                await self._proxy.admin.drain()

        async def busy() -> bool:
            try:
                return await self._proxy.admin.requests_in_flight(gateway) > 0
            except AdminError:
                return self._proxy.child is not None and self._proxy.child.running

        if not await until_idle(busy, clock.monotonic() + self._grace_left(), clock):
            _log.warning("replica ended with requests in flight: its grace period is over", replica=self.id)

    def _grace_left(self) -> float:
        now = self._context.clock.monotonic()
        asked = now if self._stop_at is None else self._stop_at
        return max(LAST_GRACE, asked + self.spec.grace_period - now)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        assert self._tasks is not None, "the replica does not run"
        task = self._tasks.create_task(work, name=f"{self.id} {name}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task


def _pid(child: Child | None) -> int:
    return child.pid if child is not None and child.running else 0


def _child_record(child: Child | None) -> ChildRecord | None:
    return ChildRecord(child.identity, child.mark) if child is not None and child.running else None
