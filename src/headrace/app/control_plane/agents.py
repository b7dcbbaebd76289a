"""The agent API as the control plane serves it: registration, assignments, reports, signing, withdrawal, discovery.

A thin adapter over `HostBook`, `Issuer` and `Hub`; the service definition is proto/headrace/wire/agent_v1.proto.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import NoReturn, Protocol, cast

import grpc
import structlog

from headrace import __version__
from headrace.app.control_plane.answers import Refused
from headrace.app.control_plane.assignments import PlannedReplica, assignment
from headrace.app.control_plane.callers import Callers, NotAnAgent
from headrace.app.control_plane.engine_loads import EngineLoadBook
from headrace.app.control_plane.foreign import sound
from headrace.app.control_plane.hosts import HostBook
from headrace.app.settings import MeshSettings
from headrace.floor.cell import LatestValue
from headrace.identity.attest import Assigned, IssueRefused, Stage
from headrace.identity.hosts import reserved
from headrace.identity.issuer import IssuedCertificate, Issuer
from headrace.identity.trust import TrustState
from headrace.wire import agent_v1_pb2 as wire
from headrace.wire import agent_v1_pb2_grpc

_log = structlog.get_logger()
REPORT_GRACE = 10.0
"""Seconds for which this machine's endpoints stay after its report stream broke."""
REMOTE_GRACE = 1.5
"""The same for another host, whose stream breaks up to three seconds after the host vanished."""
_WITHDRAW_LIMIT = 60.0
_LOADS_PAUSE = 0.25
"""Seconds between two messages of engines' loads to the same agent."""
_REFUSALS = {
    Stage.ATTEST: grpc.StatusCode.PERMISSION_DENIED,
    Stage.REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    Stage.SIGN: grpc.StatusCode.FAILED_PRECONDITION,
    Stage.RECORD: grpc.StatusCode.UNAVAILABLE,
}


class Discovery(Protocol):
    """What this service needs of the discovery hub (envoy.xds.hub.Hub)."""

    def stream(self, proxy: str, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]: ...

    async def acknowledged(self, generation: int, timeout: float) -> frozenset[str]: ...


class AgentService(agent_v1_pb2_grpc.ControlPlaneServicer):
    """One instance a control plane. `planned` holds the replicas of every host; `changed` is called after a report
    changed anything; `settle` publishes pending changes at once and returns their generation."""

    def __init__(
        self,
        hosts: HostBook,
        planned: LatestValue[tuple[PlannedReplica, ...]],
        discovery: Discovery,
        settings: MeshSettings,
    ) -> None:
        self._hosts = hosts
        self._planned = planned
        self._discovery = discovery
        self._bind = settings.gateway_bind
        self._host = settings.host
        self.callers = Callers()
        self.host_certificate: Callable[[str, bytes], IssuedCertificate] | None = None
        """Signs for the agent of another host; None where none may join."""
        self._losses: dict[str, asyncio.TimerHandle] = {}
        self._reporting: dict[str, object] = {}
        self.issuer: Issuer | None = None
        self.trust: LatestValue[TrustState] | None = None
        self.trust_domain = "cluster.local"
        self.publishing = asyncio.Event()
        """Set once changes are published (after a restart: when every host has reported)."""
        self.changed: Callable[[], None] = lambda: None
        self.settle: Callable[[], int] = lambda: 0
        self.loads = EngineLoadBook(hosts, time.monotonic)
        self.signed: Counter[str] = Counter()
        """Requests for certificates by how they ended: `issued`, or the stage that refused."""

    def assigned(self, replica_id: str) -> Assigned | None:
        """The host that runs a replica and the identity it has, also while it drains: what attestation checks a
        request against. A replica that names no host belongs to that of the control plane."""
        plan = self._hosts.known(replica_id)
        if plan is None or reserved(plan.identity):
            return None
        return Assigned(plan.host or self._hosts.host_of(replica_id) or self._host, plan.identity)

    async def _caller(self, claimed: str, context: object) -> str:
        """The host that calls: over TCP the one of its certificate; over this machine's owner-only socket the one that
        the agent says, which is nobody's but the owner's. Others are sent away."""
        try:
            certified = self.callers.host(context, self.trust.value if self.trust else None, self.trust_domain)
        except NotAnAgent as refusal:
            await _abort(context, grpc.StatusCode.PERMISSION_DENIED, str(refusal))
        return claimed if certified is None else certified

    def _belongs(self, plan: PlannedReplica, host: str, context: object) -> bool:
        """Whether the plan gives the replica to the calling host."""
        if self.callers.local(context):
            return plan.host in ("", host, self._host)
        return plan.host == host

    async def _own(self, replica: str, host: str, context: object) -> None:
        """Send away who asks for a replica that is not its own."""
        plan = self._hosts.known(replica)
        if plan is None or not self._belongs(plan, host, context):
            problem = f"no replica {replica[:200]!r} is assigned to host {host[:200]!r}"
            await _abort(context, grpc.StatusCode.PERMISSION_DENIED, problem)

    async def Register(self, request: wire.RegisterRequest, context: object) -> wire.RegisterResponse:
        request.host = await self._caller(request.host, context)
        self._hosts.register(request)
        _log.info("agent registered", host=request.host, version=request.version, envoy=request.envoy_version)
        warnings = []
        if not request.module:
            warnings.append(f"no native module on {request.host}: {request.module_problem}")
        return wire.RegisterResponse(
            version=__version__,
            trust_domain=self.trust_domain,
            report_grace_ms=int(REPORT_GRACE * 1000),
            warnings=warnings,
        )

    async def Assignments(self, request: wire.AssignmentsRequest, context: object) -> AsyncIterator[wire.Assignment]:
        host, revision = await self._caller(request.host, context), None
        async for planned in self._planned.changes():
            wanted = assignment([item for item in planned if self._belongs(item, host, context)], self._bind)
            if wanted.revision != revision:
                revision = wanted.revision
                yield wanted

    async def Report(
        self, request_iterator: AsyncIterator[wire.HostReport], context: object
    ) -> AsyncIterator[wire.ReportReply]:
        host, token = "", object()
        try:
            async for report in request_iterator:
                host = report.host = await self._caller(report.host, context)
                self._drop_foreign(report, context)
                self._reporting[host] = token
                timer = self._losses.pop(host, None)
                if timer is not None:
                    timer.cancel()
                if self._hosts.report(report):
                    self.changed()
                yield wire.ReportReply(sequence=report.sequence)
        finally:
            if host and self._reporting.get(host) is token:
                self._losses[host] = asyncio.get_running_loop().call_later(self._grace(context), self._lose, host)

    def _grace(self, context: object) -> float:
        return REPORT_GRACE if self.callers.local(context) else REMOTE_GRACE

    def _drop_foreign(self, report: wire.HostReport, context: object) -> None:
        """Of another host count only its own replicas, and of them only reports that can be true (`foreign`)."""
        if self.callers.local(context):
            return
        kept = []
        for replica in report.replicas:
            plan = self._hosts.known(replica.id)
            if plan is not None and self._belongs(plan, report.host, context) and sound(replica):
                kept.append(replica)
        if len(kept) != len(report.replicas):
            del report.replicas[:]
            report.replicas.extend(kept)

    def _lose(self, host: str) -> None:
        self._losses.pop(host, None)
        _log.warning("host lost: its endpoints leave the mesh", host=host)
        self._hosts.lost(host)
        self.loads.forget(host)
        self.changed()

    async def SignCertificate(
        self, request: wire.SignCertificateRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> wire.SignCertificateResponse:
        if self.issuer is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the certificate authority is not open yet")
        assert self.issuer is not None
        try:
            host = await self._caller(request.host, context)
            if not request.replica_id and self.host_certificate and not self.callers.local(context):
                issued = self.host_certificate(host, request.csr_der)
            else:
                if not self.callers.local(context):
                    await self._own(request.replica_id, host, context)
                issued = self.issuer.issue(host, request.replica_id, request.csr_der)
        except IssueRefused as refusal:
            self.signed[refusal.stage.value] += 1
            await context.abort(_REFUSALS[refusal.stage], str(refusal))
        except Refused as refusal:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(refusal))
        self.signed["issued"] += 1
        return wire.SignCertificateResponse(
            certificate_chain_pem=issued.chain_pem,
            trust_bundle_pem=issued.bundle_pem,
            not_before_unix_ms=int(issued.not_before * 1000),
            not_after_unix_ms=int(issued.not_after * 1000),
            serial=issued.serial,
        )

    async def Trust(self, request: wire.TrustRequest, context: object) -> AsyncIterator[wire.TrustState]:
        await self._caller(request.host, context)
        if self.trust is None:
            return  # not open yet: the agent asks again
        async for state in self.trust.changes():
            await self._caller(request.host, context)  # it may be revoked by this very change
            yield wire.TrustState(
                version=state.version,
                trust_bundle_pem=state.bundle_pem,
                revocation_lists_pem=state.crl_pem,
                revoked_identities=state.identities,
                revoked_certificates=state.fingerprints,
                issuer=state.issuer,
            )

    async def Withdraw(self, request: wire.WithdrawRequest, context: object) -> wire.WithdrawResponse:
        host = await self._caller(request.host, context)
        if not self.callers.local(context):
            await self._own(request.replica_id, host, context)
        self._hosts.withdraw(request.replica_id)
        timeout = min(request.timeout_ms / 1000, _WITHDRAW_LIMIT)
        try:
            async with asyncio.timeout(timeout):
                await self.publishing.wait()
        except TimeoutError:
            return wire.WithdrawResponse(acknowledged=False)
        generation = self.settle()
        pending = await self._discovery.acknowledged(generation, timeout) - {request.replica_id}
        return wire.WithdrawResponse(acknowledged=not pending, pending=len(pending))

    async def Discover(  # type: ignore[override]
        self,
        request_iterator: AsyncIterator[wire.DiscoveryFrame],
        context: grpc.aio.ServicerContext[wire.DiscoveryFrame, wire.DiscoveryFrame],
    ) -> None:
        metadata = dict(context.invocation_metadata() or ())
        replica = metadata.get("replica-id", "")
        if isinstance(replica, bytes):
            replica = replica.decode("utf-8", "replace")
        await self._own(replica, await self._caller(self._host, context), context)

        async def frames() -> AsyncIterator[bytes]:
            async for frame in request_iterator:
                yield frame.message

        # Written, not yielded: a suspended generator would keep each stream's last frame, which may be the whole mesh.
        async for message in self._discovery.stream(replica, frames()):
            await self._caller(self._host, context)
            frame = wire.DiscoveryFrame(message=message)
            del message
            await context.write(frame)
            del frame

    async def EngineLoads(  # type: ignore[override]
        self,
        request_iterator: AsyncIterator[wire.HostEngineLoads],
        context: grpc.aio.ServicerContext[wire.HostEngineLoads, wire.MeshEngineLoads],
    ) -> None:
        relaying: asyncio.Task[None] | None = None
        host = ""
        try:
            async for message in request_iterator:
                host = message.host = await self._caller(message.host, context)
                self.loads.hear(message)
                if relaying is None:
                    relaying = asyncio.create_task(self._relay_loads(host, context), name=f"engine loads {host[:200]}")
        finally:
            if relaying is not None:
                relaying.cancel()
                await asyncio.gather(relaying, return_exceptions=True)

    async def _relay_loads(
        self, host: str, context: grpc.aio.ServicerContext[wire.HostEngineLoads, wire.MeshEngineLoads]
    ) -> None:
        told = None
        async for _ in self.loads.revision.changes():
            table = self.loads.for_host(host)
            if told is None or table.loads or told.loads:
                await context.write(table)
                told = table
            await asyncio.sleep(_LOADS_PAUSE)


async def _abort(context: object, code: grpc.StatusCode, why: str) -> NoReturn:
    await cast("grpc.aio.ServicerContext[object, object]", context).abort(code, why)
    raise AssertionError("abort returned")
