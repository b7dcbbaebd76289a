"""All discovery streams of one process: each serves its own proxy's newest set, and `publish` hands out new ones.

Used by the control plane (clusters, endpoints, listeners, routes) and by the agent (secrets). One event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from headrace.envoy.resources import ResourceSet
from headrace.envoy.xds.assembly import Assembler
from headrace.envoy.xds.session import PATIENCE, ProtocolError, Session
from headrace.envoy.xds.status import Counters, ProxyStatus
from headrace.floor.clock import Clock

_LARGE = 64 << 10
_TURNS = 32
_TURN_SECONDS = 0.25


class ResourceSource(Protocol):
    """Where a stream that opens finds what its proxy should have."""

    def resources_for(self, proxy: str) -> ResourceSet | None:
        """The proxy's newest set; None where it is not known (yet): then it is sent nothing until one is published, and
        keeps what it has."""
        ...


@dataclass(slots=True, eq=False)
class _Connection:
    proxy: str
    session: Session
    since: float
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False


@dataclass(slots=True, eq=False)
class _Waiter:
    generation: int
    pending: set[_Connection]
    done: asyncio.Event = field(default_factory=asyncio.Event)


class _Turns:
    """Bounds how many large messages are being written at once, and so their memory: a writer waits for a turn, and
    keeps it until its client has taken the message, or for a short while if the client is slow."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(_TURNS)

    @contextlib.asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        await self._free.acquire()
        given_back = False

        def give_back() -> None:
            nonlocal given_back
            if not given_back:
                given_back = True
                self._free.release()

        timer = asyncio.get_running_loop().call_later(_TURN_SECONDS, give_back)
        try:
            yield
        finally:
            timer.cancel()
            give_back()


class Hub:
    """Owns the sessions of all connected proxies. A stream is bound to the proxy that its caller names (by socket or
    by certificate), whatever the client says of itself."""

    def __init__(self, source: ResourceSource, clock: Clock, *, patience: float = PATIENCE) -> None:
        self._source = source
        self._clock = clock
        self._patience = patience
        self._assembler = Assembler()
        self._connections: dict[str, list[_Connection]] = {}
        self._waiters: set[_Waiter] = set()
        self._generation = 0
        self._turns = _Turns()
        self.counters = Counters()

    @property
    def generation(self) -> int:
        """How often something was published."""
        return self._generation

    def publish(self, sets: Mapping[str, ResourceSet]) -> int:
        """Hand out new sets by proxy name (those of proxies that did not change may be left out); the generation that
        this makes."""
        self._generation += 1
        self.counters.publishes += 1
        for proxy, resources in sets.items():
            for connection in self._connections.get(proxy, ()):
                if connection.session.update(resources, self._generation):
                    connection.wake.set()
        return self._generation

    async def stream(self, proxy: str, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Serve one aggregated delta stream: serialised DeltaDiscoveryRequests in, DeltaDiscoveryResponses out.

        Ends when `requests` ends; ProtocolError where the client breaks the protocol.
        """
        connection = self._open(proxy)
        reader = asyncio.create_task(self._read(connection, requests))
        try:
            while not connection.ended:
                connection.wake.clear()
                for response in connection.session.outgoing():
                    if response.size < _LARGE:
                        yield response.message()
                    else:
                        async with self._turns.taken():
                            yield response.message()
                self._progress(connection)
                await self._woken(connection)
            await reader
        finally:
            self._close(connection)
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await reader

    def statuses(self) -> tuple[ProxyStatus, ...]:
        """The connected proxies by name."""
        return tuple(_status(proxy, connections) for proxy, connections in sorted(self._connections.items()))

    def status(self, proxy: str) -> ProxyStatus | None:
        """One connected proxy; None where it has no stream."""
        connections = self._connections.get(proxy)
        return _status(proxy, connections) if connections else None

    async def acknowledged(self, generation: int, timeout: float) -> frozenset[str]:
        """Wait until every proxy that is connected now has answered all that was published up to `generation`; the
        proxies that had not within `timeout` seconds. One that disconnects is not waited for."""
        waiter = _Waiter(
            generation,
            {
                connection
                for connections in self._connections.values()
                for connection in connections
                if not connection.session.settled(generation)
            },
        )
        if not waiter.pending:
            return frozenset()
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(timeout):
                await waiter.done.wait()
        except TimeoutError:
            pass
        finally:
            self._waiters.discard(waiter)
        return frozenset(connection.proxy for connection in waiter.pending)

    def _open(self, proxy: str) -> _Connection:
        session = Session(self._assembler, self._clock, patience=self._patience, counters=self.counters)
        resources = self._source.resources_for(proxy)
        if resources is not None:
            session.update(resources, self._generation)
        connection = _Connection(proxy, session, self._clock.now())
        self._connections.setdefault(proxy, []).append(connection)
        self.counters.streams_opened += 1
        return connection

    def _close(self, connection: _Connection) -> None:
        connections = self._connections[connection.proxy]
        connections.remove(connection)
        if not connections:
            del self._connections[connection.proxy]
        self.counters.streams_closed += 1
        for waiter in self._waiters:
            _strike(waiter, connection)

    async def _read(self, connection: _Connection, requests: AsyncIterator[bytes]) -> None:
        try:
            async for message in requests:
                connection.session.receive(message)
                connection.wake.set()
                del message  # not kept until the next one
        except ProtocolError:
            self.counters.streams_refused += 1
            raise
        finally:
            connection.ended = True
            connection.wake.set()

    async def _woken(self, connection: _Connection) -> None:
        """Wait for a request, a publication, or the time at which the session wants to go on by itself."""
        at = connection.session.wake_at()
        if at is None:
            await connection.wake.wait()
            return
        timer = asyncio.get_running_loop().call_later(max(0.0, at - self._clock.monotonic()), connection.wake.set)
        try:
            await connection.wake.wait()
        finally:
            timer.cancel()

    def _progress(self, connection: _Connection) -> None:
        for waiter in self._waiters:
            if connection in waiter.pending and connection.session.settled(waiter.generation):
                _strike(waiter, connection)


def _strike(waiter: _Waiter, connection: _Connection) -> None:
    waiter.pending.discard(connection)
    if not waiter.pending:
        waiter.done.set()


def _status(proxy: str, connections: list[_Connection]) -> ProxyStatus:
    types = tuple(kind for connection in connections for kind in connection.session.status())
    return ProxyStatus(proxy, connections[-1].since, len(connections), types)
