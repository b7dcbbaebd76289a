"""The agent's side of the one API between agent and control plane (proto/headrace/wire/agent_v1.proto).

Run by `agent.host`; `agent.relay` and `agent.replica` make calls through it. The control plane may be killed and come
back at any time: everything here waits and tries again, and replicas go on meanwhile. After a reconnect the report goes
out before any proxy's discovery stream is opened: the control plane knows every endpoint again before it is asked for.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import grpc
import structlog

from headrace import __version__
from headrace.agent.engine_loads import EngineLoads
from headrace.floor.backoff import Backoff
from headrace.floor.cell import LatestValue
from headrace.floor.clock import Clock
from headrace.identity.issuer import IssuedCertificate
from headrace.wire import agent_v1_pb2 as wire
from headrace.wire import agent_v1_pb2_grpc

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
_MESSAGE_LIMIT = 256 << 20
_CALL_SECONDS = 10.0
_STABLE_SECONDS = 5.0
_UNCONNECTED_SECONDS = 1.0
_LOADS_PAUSE = 0.25
_LOADS_REPEAT = 2.0
_LOADS_RETRY = 1.0
_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_receive_message_length", _MESSAGE_LIMIT),
    ("grpc.max_send_message_length", _MESSAGE_LIMIT),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.enable_http_proxy", 0),
    ("grpc.default_authority", "control-plane"),
)


OpenChannel = Callable[[Sequence[tuple[str, int | str]]], grpc.aio.Channel]
"""Opens a channel with these options."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What the agent tells of its host when it registers."""

    host: str
    envoy_version: str
    module: bool = False
    module_problem: str = ""


class ControlLink:
    """One agent's connection to its control plane. `target` is a gRPC target (`unix:/path`), or what opens a channel to
    the control plane of another host with the newest credentials."""

    def __init__(
        self, target: str | OpenChannel, facts: HostFacts, backoff: Backoff, clock: Clock, loads: EngineLoads
    ) -> None:
        self._target = target
        self._facts = facts
        self._backoff = backoff
        self._clock = clock
        self._loads = loads
        self._channel: grpc.aio.Channel | None = None
        self._known: LatestValue[frozenset[str]] = LatestValue(frozenset())
        self.connected = False
        self.trusted: Callable[[wire.TrustState], None] = lambda state: None
        """Called with what every proxy must know of its peers, at once and after every change."""
        self.untold: Callable[[], None] = lambda: None
        """Called where the control plane is an older one that says nothing of that."""

    @property
    def host(self) -> str:
        return self._facts.host

    async def run(self, reports: LatestValue[wire.HostReport], assigned: Callable[[wire.Assignment], None]) -> None:
        """Stay connected until cancelled: send every report, hand every assignment to `assigned`."""
        try:
            while True:
                began = self._clock.monotonic()
                problem = await self._session(reports, assigned)
                if self.connected:
                    _log.warning("control plane lost; replicas go on", reason=problem)
                self.connected = False
                self._known.set(frozenset())
                if not isinstance(self._target, str):
                    await self._close()  # the next try has the newest credentials
                if self._clock.monotonic() - began >= _STABLE_SECONDS:
                    self._backoff.reset()
                await asyncio.sleep(self._backoff.next())
        finally:
            await self._close()

    async def _close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close(None)

    async def sign(self, replica: str, csr_der: bytes) -> IssuedCertificate:
        """A certificate for the request; any exception means none."""
        request = wire.SignCertificateRequest(host=self.host, replica_id=replica, csr_der=csr_der)
        try:
            reply = await self._stub().SignCertificate(request, timeout=_CALL_SECONDS, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            raise ConnectionError(_why(error)) from None
        return IssuedCertificate(
            chain_pem=reply.certificate_chain_pem,
            bundle_pem=reply.trust_bundle_pem,
            not_before=reply.not_before_unix_ms / 1000,
            not_after=reply.not_after_unix_ms / 1000,
            serial=reply.serial,
        )

    async def sign_host(self, csr_der: bytes) -> IssuedCertificate:
        """The next certificate of this host's agent itself, from the control plane of another host."""
        return await self.sign("", csr_der)

    async def withdraw(self, replica: str, timeout: float) -> bool:
        """Take the replica out of the mesh; whether every proxy acknowledged within `timeout` seconds."""
        if not self.connected:
            timeout = min(timeout, _UNCONNECTED_SECONDS)
        request = wire.WithdrawRequest(host=self.host, replica_id=replica, timeout_ms=int(timeout * 1000))
        try:
            reply = await self._stub().Withdraw(request, timeout=timeout + 1.0, wait_for_ready=True)
        except (grpc.aio.AioRpcError, ConnectionError) as error:
            _log.warning("replica not withdrawn", replica=replica, reason=_why(error))
            return False
        return reply.acknowledged

    async def discover(self, replica: str, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Relay one Envoy's discovery stream; ends when either side ends. Waits until the control plane knows the
        replica. Flow control bounds what is under way: one message each way beyond gRPC's windows."""
        generation = -1
        known: frozenset[str] = frozenset()
        while replica not in known:
            known, generation = await self._known.newer_than(generation)
        frames = _frames(requests)
        call = self._stub().Discover(frames, metadata=(("replica-id", replica),), wait_for_ready=True)
        try:
            async for frame in call:
                yield frame.message
                del frame  # not kept while the next one is waited for: it may hold the whole mesh
        except grpc.aio.AioRpcError as error:
            _log.debug("discovery stream ended", replica=replica, reason=_why(error))
        finally:
            call.cancel()

    async def _session(self, reports: LatestValue[wire.HostReport], assigned: Callable[[wire.Assignment], None]) -> str:
        facts = self._facts
        request = wire.RegisterRequest(
            host=facts.host,
            version=__version__,
            envoy_version=facts.envoy_version,
            module=facts.module,
            module_problem=facts.module_problem,
        )
        problem = ""
        try:
            reply = await self._stub().Register(request, timeout=_CALL_SECONDS, wait_for_ready=True)
            for warning in reply.warnings:
                _log.warning("control plane says", warning=warning)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._report(reports))
                tasks.create_task(self._assignments(assigned))
                tasks.create_task(self._trust())
                tasks.create_task(self._exchange_loads())
        except* (grpc.aio.AioRpcError, ConnectionError) as errors:
            problem = "; ".join(sorted({_why(error) for error in errors.exceptions}))
        return problem

    async def _report(self, reports: LatestValue[wire.HostReport]) -> None:
        sent: dict[int, frozenset[str]] = {}

        async def outgoing() -> AsyncIterator[wire.HostReport]:
            async for report in reports.changes():
                sent[report.sequence] = frozenset(replica.id for replica in report.replicas)
                yield report

        call = self._stub().Report(outgoing())
        try:
            async for reply in call:
                if not self.connected:
                    _log.info("connected to the control plane")
                self.connected = True
                known = sent.pop(reply.sequence, None)
                if known is not None and known != self._known.value:
                    self._known.set(known)
        finally:
            call.cancel()
        raise ConnectionError("the report stream ended")

    async def _assignments(self, assigned: Callable[[wire.Assignment], None]) -> None:
        call = self._stub().Assignments(wire.AssignmentsRequest(host=self.host))
        try:
            async for assignment in call:
                assigned(assignment)
        finally:
            call.cancel()
        raise ConnectionError("the assignments ended")

    async def _trust(self) -> None:
        call = self._stub().Trust(wire.TrustRequest(host=self.host))
        try:
            async for state in call:
                self.trusted(state)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise
            _log.warning("this control plane knows no revocation", reason=_why(error))
            self.untold()
            return
        finally:
            call.cancel()
        raise ConnectionError("the trust stream ended")

    async def _exchange_loads(self) -> None:
        """Tell what this host's model servers say, hear what the others' do. Trouble with that is no trouble of the
        session: it is tried again; a control plane that does not know of it is asked again when it is another one."""
        while True:
            call = self._stub().EngineLoads(self._told_loads())
            try:
                async for table in call:
                    self._loads.hear(table, self._clock.monotonic())
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    return
                _log.debug("engines' loads not exchanged", reason=_why(error))
            finally:
                call.cancel()
            await asyncio.sleep(_LOADS_RETRY)

    async def _told_loads(self) -> AsyncIterator[wire.HostEngineLoads]:
        """News at once (a few times a second at most), and every two seconds that it is still so."""
        words, told = None, -math.inf
        async for _ in self._loads.own_revision.changes():
            now = self._clock.monotonic()
            if self._loads.words() != words or now - told >= _LOADS_REPEAT:
                words, told = self._loads.words(), now
                yield self._loads.message(self.host, now)
                await asyncio.sleep(_LOADS_PAUSE)

    def _stub(self) -> agent_v1_pb2_grpc.ControlPlaneAsyncStub:
        if self._channel is None:
            if isinstance(self._target, str):
                self._channel = grpc.aio.insecure_channel(self._target, options=list(_OPTIONS))
            else:
                self._channel = self._target(list(_OPTIONS))
        return agent_v1_pb2_grpc.ControlPlaneStub(self._channel)


async def _frames(requests: AsyncIterator[bytes]) -> AsyncIterator[wire.DiscoveryFrame]:
    async for message in requests:
        yield wire.DiscoveryFrame(message=message)


def _why(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name.lower()}: {(error.details() or '')[:200]}"
    return str(error)[:200]
