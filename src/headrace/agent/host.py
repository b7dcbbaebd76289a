"""The agent's loop: what this host must run, what it runs, and what it says about it.

Made and run by `app.agent_process`. Assignments come from the control plane and replace each other whole; every change
of a replica goes out as a report of the whole host and into children.json. Without a control plane everything that runs
goes on, crashed processes are restarted, and nothing is forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import structlog

from headrace.agent.capture import CaptureError, ProxyDoor
from headrace.agent.children import Children, ReplicaRecord
from headrace.agent.context import HostContext
from headrace.agent.guardian import Guardian
from headrace.agent.lifecycle import State
from headrace.agent.link import ControlLink
from headrace.agent.loads_file import LoadsFile
from headrace.agent.logfiles import shorten
from headrace.agent.process import adopt, mark_of, marked
from headrace.agent.replica import Replica
from headrace.agent.spec import ReplicaSpec, SpecError, parse_message, parse_replica
from headrace.floor.cell import LatestValue
from headrace.wire import agent_v1_pb2 as wire

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
_RETRY_SECONDS = 2.0
_LOG_SECONDS = 5.0
_STRAY_POLL = 0.02
_CONTROL_PLANE_GRACE = 5.0


@dataclass(frozen=True, slots=True)
class HostLimits:
    """`log_bytes`: size beyond which a log is rotated (one older file is kept)."""

    log_bytes: int = 32 << 20


class Host:
    """Everything that one agent runs. `mesh_mark` starts the mark of every process of this mesh."""

    def __init__(
        self,
        context: HostContext,
        link: ControlLink,
        guardian: Guardian | None,
        mesh_mark: str,
        limits: HostLimits = HostLimits(),
    ) -> None:
        self._context = context
        self._link = link
        self._guardian = guardian
        self._mesh_mark = mesh_mark
        self._limits = limits
        self._replicas: dict[str, Replica] = {}
        self._desired: dict[str, ReplicaSpec] | None = None
        self._refused: dict[str, wire.ReplicaReport] = {}
        self._reports: LatestValue[wire.HostReport] = LatestValue(wire.HostReport(host=link.host))
        self._saved: Children | None = None
        self._stopping = False
        self._wake = asyncio.Event()
        self._link.trusted, self._link.untold = self._trusted, context.secrets.untold
        self._publishing: asyncio.Handle | None = None
        self._tasks: asyncio.TaskGroup | None = None

    def changed(self) -> None:
        """A replica's report or record may differ: look at all of them soon, once."""
        if self._publishing is None:
            self._publishing = asyncio.get_running_loop().call_soon(self._publish)

    async def run(self, stop: asyncio.Event, hurry: asyncio.Event) -> None:
        """Run until `stop`, then end everything gracefully (`hurry`: without waiting for requests in flight)."""
        children, problem = Children.load(self._context.places.agent)
        if problem:
            _log.error("starting anew: what an earlier agent ran is ended", reason=problem)
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            self._adopt(children)
            await self._end_strays()
            self._context.capture.settle(self._replicas.keys())
            services = [tasks.create_task(self._keep_logs_short(), name="logs")]
            guarding = None
            if self._guardian is not None:
                guarding = tasks.create_task(self._guardian.run(), name="guardian")
            self._publish()
            services.append(tasks.create_task(self._link.run(self._reports, self._assigned), name="link"))
            services.append(tasks.create_task(self._context.secrets.follow(self.changed), name="trust"))
            services.append(tasks.create_task(self._keep_loads(), name="engine loads"))
            reconciling = tasks.create_task(self._reconcile_for_ever(), name="reconcile")
            await stop.wait()
            reconciling.cancel()
            await self._stop_replicas(hurry)
            for task in services:
                task.cancel()
            if guarding is not None and self._guardian is not None:
                guarding.cancel()
                await asyncio.gather(guarding, return_exceptions=True)
                await self._guardian.stop(_CONTROL_PLANE_GRACE)
        self._publish()

    # Adoption

    def _adopt(self, children: Children) -> None:
        if children.control_plane is not None and self._guardian is not None:
            self._guardian.adopt(children.control_plane)
        for record in children.replicas.values():
            try:
                spec = parse_message(record.message)
            except SpecError as error:
                _log.error("replica of an earlier agent not adopted", replica=record.id, reason=str(error))
                continue
            if not self._context.capture.keep(record.id, record.attachment):
                _log.warning(
                    "replica of an earlier agent not adopted: its traffic was captured in another way",
                    replica=record.id,
                )
                continue
            self._start(spec, record)
        if children.replicas:
            _log.info("adopted", replicas=len(self._replicas))

    async def _end_strays(self) -> None:
        """End processes of this mesh that nobody adopted: those that were started just before the agent was killed."""
        records = [item for record in self._records().values() for item in (record.app, record.proxy)]
        records.append(self._guardian.record() if self._guardian is not None else None)
        known = tuple(record.mark for record in records if record is not None)
        deadline = self._context.clock.monotonic() + _RETRY_SECONDS
        told: set[int] = set()
        while self._context.clock.monotonic() < deadline:
            pids = await asyncio.to_thread(marked, self._mesh_mark)
            strays = [pid for pid in pids if (mark := mark_of(pid)) and not mark.startswith(known)]
            if not strays:
                return
            for pid in strays:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if set(strays) - told:
                _log.warning("ended processes that an earlier agent left", pids=strays)
            told.update(strays)
            await asyncio.sleep(_STRAY_POLL)

    # Reconciling

    def _assigned(self, assignment: wire.Assignment) -> None:
        desired: dict[str, ReplicaSpec] = {}
        refused: dict[str, wire.ReplicaReport] = {}
        for replica in assignment.replicas:
            try:
                spec = parse_replica(replica)
                desired[spec.id] = spec
            except SpecError as error:
                _log.error("replica refused", replica=replica.id[:200], reason=str(error))
                refused[replica.id] = _refusal(replica.id, replica.spec_hash, str(error))
        self._desired, self._refused = desired, refused
        _log.info("assignment", revision=assignment.revision, replicas=len(desired), refused=len(refused))
        self._wake.set()

    def _trusted(self, state: wire.TrustState) -> None:
        self._context.secrets.trust(state)
        for replica in self._replicas.values():
            replica.trust_changed()

    async def _reconcile_for_ever(self) -> None:
        while True:
            self._wake.clear()
            waiting = self._reconcile()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_SECONDS if waiting else None):
                    await self._wake.wait()

    def _reconcile(self) -> bool:
        """Bring what runs towards what is wanted; whether something must be tried again later."""
        if self._desired is None:
            return False
        waiting = False
        for name, replica in self._replicas.items():
            wanted = self._desired.get(name)
            if wanted is None or wanted.role is not replica.spec.role:
                replica.stop()
            else:
                replica.want(wanted)
        for name, spec in self._desired.items():
            if name in self._replicas:
                continue
            try:
                self._start(spec, None)
                self._refused.pop(name, None)
            except CaptureError as error:
                waiting = True
                if name not in self._refused:
                    _log.error("replica not started", replica=name, reason=str(error))
                self._refused[name] = _refusal(name, spec.spec_hash, str(error))
        self.changed()
        return waiting

    def _start(self, spec: ReplicaSpec, record: ReplicaRecord | None) -> None:
        attachment = record.attachment if record is not None else self._context.capture.attach(spec)
        replica = Replica(spec, attachment, self._context)
        if record is not None:
            replica.adopt(record)
        self._replicas[spec.id] = replica
        assert self._tasks is not None, "the host does not run"
        self._tasks.create_task(self._run(replica), name=f"replica {spec.id}")

    async def _run(self, replica: Replica) -> None:
        """Run one replica; where its task fails, its processes are adopted by a new one."""
        try:
            await replica.run()
        except Exception as error:
            _log.exception("replica's task failed", replica=replica.id, error=str(error))
            await asyncio.sleep(_RETRY_SECONDS)
            if not self._stopping:
                self._start(replica.spec, replica.record())
                return
            await _put_down(replica.record())
        del self._replicas[replica.id]
        self._wake.set()
        self.changed()

    # The end

    async def _stop_replicas(self, hurry: asyncio.Event) -> None:
        """Gateways first, so that nothing new comes in; then everything else at once."""
        self._stopping = True
        hurrying = asyncio.ensure_future(self._hurry(hurry))
        try:
            for gateways in (True, False):
                for replica in self._replicas.values():
                    if replica.spec.is_gateway or not gateways:
                        replica.stop()
                while any(replica.spec.is_gateway or not gateways for replica in self._replicas.values()):
                    self._wake.clear()
                    await self._wake.wait()
        finally:
            hurrying.cancel()

    async def _hurry(self, hurry: asyncio.Event) -> None:
        await hurry.wait()
        for replica in self._replicas.values():
            replica.stop(hurry=True)

    # Saying what is

    def _publish(self) -> None:
        self._publishing = None
        children = Children(
            self._records(),
            self._guardian.record() if self._guardian is not None else None,
        )
        if children != self._saved:
            children.save(self._context.places.agent)
            self._saved = children
        before = self._reports.value
        replicas = {name: replica.report() for name, replica in self._replicas.items()}
        reports = [replicas.get(name) or self._refused[name] for name in sorted(replicas.keys() | self._refused.keys())]
        trust = self._context.secrets.acknowledged_version
        if reports != list(before.replicas) or trust != before.trust_version or before.sequence == 0:
            number = before.sequence + 1
            report = wire.HostReport(host=self._link.host, sequence=number, replicas=reports, trust_version=trust)
            self._reports.set(report)

    def _records(self) -> dict[str, ReplicaRecord]:
        return {name: replica.record() for name, replica in self._replicas.items()}

    async def _keep_loads(self) -> None:
        context = self._context

        def doors() -> list[ProxyDoor]:
            return [replica.door for replica in self._replicas.values()]

        await LoadsFile(context.places.engine_loads, context.clock, doors).keep(context.loads)

    async def _keep_logs_short(self) -> None:
        places = self._context.places
        while True:
            await asyncio.sleep(_LOG_SECONDS)
            await asyncio.to_thread(_shorten_logs, places.logs, self._limits.log_bytes)


def _shorten_logs(directory: Path, limit: int) -> None:
    shorten(sorted(directory.glob("*.log")), limit)


async def _put_down(record: ReplicaRecord) -> None:
    """End a replica's processes without ceremony."""
    for item in (record.app, record.proxy):
        child = adopt(item.process, item.mark) if item is not None else None
        if child is not None:
            await child.stop(_RETRY_SECONDS)


def _refusal(replica: str, spec_hash: str, why: str) -> wire.ReplicaReport:
    return wire.ReplicaReport(id=replica, spec_hash=spec_hash, state=State.FAILED.value, detail=why[:500])
