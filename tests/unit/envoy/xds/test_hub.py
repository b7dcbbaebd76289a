"""The hub as its callers see it: streams of bytes, publications, and who has acknowledged what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from envoy.service.discovery.v3 import discovery_pb2
from tests.unit.envoy.xds.xds_client import Answer, parse, resource_set

from headrace.envoy.resources import CLUSTER, ENDPOINT, LISTENER, ResourceSet
from headrace.envoy.xds.hub import Hub
from headrace.envoy.xds.session import ProtocolError
from headrace.envoy.xds.status import ProxyStatus
from headrace.floor.clock import SystemClock


class Source(dict[str, ResourceSet]):
    def resources_for(self, proxy: str) -> ResourceSet | None:
        return self.get(proxy)


class Peer:
    """One client of a hub's stream; what it is sent waits in a queue."""

    def __init__(self, hub: Hub, proxy: str) -> None:
        self._requests: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._answers: asyncio.Queue[Answer | BaseException | None] = asyncio.Queue()
        self._task = asyncio.create_task(self._pump(hub, proxy))

    async def _pump(self, hub: Hub, proxy: str) -> None:
        try:
            async for message in hub.stream(proxy, self._read()):
                self._answers.put_nowait(parse(message))
        except ProtocolError as error:
            self._answers.put_nowait(error)
        else:
            self._answers.put_nowait(None)

    async def _read(self) -> AsyncIterator[bytes]:
        while (message := await self._requests.get()) is not None:
            yield message

    def send(self, type_url: str = CLUSTER, nonce: str = "", node: str = "", names: tuple[str, ...] = ()) -> None:
        request = discovery_pb2.DeltaDiscoveryRequest(type_url=type_url, response_nonce=nonce)
        request.resource_names_subscribe.extend(names)
        request.node.id = node
        self.send_raw(request.SerializeToString())

    def send_raw(self, message: bytes) -> None:
        self._requests.put_nowait(message)

    async def receive(self) -> Answer:
        async with asyncio.timeout(5):
            answer = await self._answers.get()
        if isinstance(answer, BaseException):
            raise answer
        assert answer is not None, "the stream ended"
        return answer

    async def receive_and_acknowledge(self) -> Answer:
        answer = await self.receive()
        self.send(answer.type_url, answer.nonce)
        return answer

    async def end(self) -> None:
        """End the stream; nothing must be left that was not received."""
        self._requests.put_nowait(None)
        async with asyncio.timeout(5):
            assert await self._answers.get() is None
            await self._task


async def in_sync(hub: Hub, proxy: str) -> ProxyStatus:
    async with asyncio.timeout(5):
        while (status := hub.status(proxy)) is None or not status.types or not status.types[0].in_sync:
            await asyncio.sleep(0)
    return status


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def hub(source: Source) -> Hub:
    return Hub(source, SystemClock())


async def test_a_stream_serves_what_the_source_has_and_then_what_is_published(hub: Hub, source: Source) -> None:
    source["p"] = resource_set(cds={"a": "1"})
    peer = Peer(hub, "p")
    peer.send()
    assert str(await peer.receive_and_acknowledge()) == "CDS a=1"
    assert hub.publish({"p": resource_set(cds={"a": "2"})}) == hub.generation == 1
    assert str(await peer.receive()) == "CDS a=2"
    peer.send(CLUSTER, "2")
    await in_sync(hub, "p")
    await peer.end()
    assert hub.statuses() == ()


async def test_a_proxy_gets_its_own_set_whatever_it_says_it_is(hub: Hub, source: Source) -> None:
    source["mine"] = resource_set(cds={"mine": "1"})
    source["other"] = resource_set(cds={"other": "secret"})
    peer = Peer(hub, "mine")
    peer.send(node="other")
    assert str(await peer.receive()) == "CDS mine=1"
    hub.publish({"other": resource_set(cds={"other": "2"})})
    peer.send(ENDPOINT, names=("other",))
    assert str(await peer.receive()) == "EDS -other"
    await peer.end()


async def test_acknowledged_waits_for_every_connected_proxy(hub: Hub, source: Source) -> None:
    source.update(dict.fromkeys("abc", resource_set(cds={"x": "1"})))
    peers = {name: Peer(hub, name) for name in "abc"}
    for name, peer in peers.items():
        peer.send()
        await peer.receive_and_acknowledge()
        await in_sync(hub, name)
    changed = resource_set(cds={"x": "2"})
    waiting = asyncio.create_task(hub.acknowledged(hub.publish({"a": changed, "b": changed}), 5))
    for name in ("a", "b"):
        answer = await peers[name].receive()
        assert not waiting.done()
        peers[name].send(CLUSTER, answer.nonce)
    assert await waiting == frozenset()
    for peer in peers.values():
        await peer.end()


async def test_acknowledged_names_those_who_did_not_answer_in_time(hub: Hub, source: Source) -> None:
    source["p"] = source["q"] = resource_set(cds={"x": "1"})
    silent, other = Peer(hub, "p"), Peer(hub, "q")
    for each in (silent, other):
        each.send()
    await silent.receive()
    await other.receive_and_acknowledge()
    await in_sync(hub, "q")
    assert await hub.acknowledged(hub.publish({}), 0.05) == {"p"}
    await silent.end()
    await other.end()


async def test_a_proxy_for_which_nothing_is_published_is_not_waited_for(hub: Hub) -> None:
    peer = Peer(hub, "unknown")
    peer.send()
    async with asyncio.timeout(5):
        while not hub.counters.requests:
            await asyncio.sleep(0)
    assert await hub.acknowledged(hub.publish({}), 5) == frozenset()
    await peer.end()


async def test_a_proxy_that_goes_away_is_not_waited_for(hub: Hub, source: Source) -> None:
    source["p"] = resource_set(cds={"x": "1"})
    peer = Peer(hub, "p")
    peer.send()
    await peer.receive()
    waiting = asyncio.create_task(hub.acknowledged(hub.publish({"p": resource_set(cds={"x": "2"})}), 5))
    await asyncio.sleep(0)
    await peer.end()
    assert await waiting == frozenset()


async def test_a_broken_client_ends_its_own_stream_only(hub: Hub, source: Source) -> None:
    source["p"] = source["q"] = resource_set(cds={"x": "1"})
    good, bad = Peer(hub, "p"), Peer(hub, "q")
    good.send()
    await good.receive_and_acknowledge()
    bad.send_raw(b"\xff\xff\xff")
    with pytest.raises(ProtocolError):
        await bad.receive()
    assert [status.proxy for status in hub.statuses()] == ["p"]
    assert hub.counters.streams_refused == 1
    hub.publish({"p": resource_set(cds={"x": "2"})})
    assert str(await good.receive()) == "CDS x=2"


async def test_a_stream_goes_on_by_itself_when_an_answer_does_not_come(source: Source) -> None:
    hub = Hub(source, SystemClock(), patience=0.05)
    source["p"] = resource_set(eds={"x": "1"})
    peer = Peer(hub, "p")
    peer.send(ENDPOINT, names=("x",))
    await peer.receive()
    hub.publish({"p": resource_set(eds={"x": "2"})})
    assert str(await peer.receive()) == "EDS x=2"
    await peer.end()


async def test_counters_and_status_follow_the_stream(hub: Hub, source: Source) -> None:
    source["p"] = resource_set(cds={"x": "1", "y": "1"})
    peer = Peer(hub, "p")
    peer.send()
    answer = await peer.receive()
    status = hub.status("p")
    assert status is not None and not status.in_sync and status.types[0].pending == 1
    peer.send(CLUSTER, answer.nonce)
    status = await in_sync(hub, "p")
    assert status.push_ms is not None and status.push_ms > 0
    assert (hub.counters.responses, hub.counters.resources_sent, hub.counters.acks) == (1, 2, 1)
    assert hub.status("nobody") is None
    await peer.end()


async def test_a_proxy_is_not_in_sync_before_it_asked_for_listeners(hub: Hub, source: Source) -> None:
    source["p"] = resource_set(cds={"x": "1"})
    peer = Peer(hub, "p")
    peer.send()
    await peer.receive_and_acknowledge()
    status = await in_sync(hub, "p")
    assert not status.in_sync
    peer.send(LISTENER)
    await peer.receive_and_acknowledge()
    async with asyncio.timeout(5):
        while (status := hub.status("p")) is None or not status.in_sync:
            await asyncio.sleep(0)
    await peer.end()


async def test_a_proxy_with_several_streams_is_in_sync_when_all_of_them_are(hub: Hub, source: Source) -> None:
    source["p"] = resource_set(eds={"x": "1", "y": "1"})
    first, second = Peer(hub, "p"), Peer(hub, "p")
    first.send(ENDPOINT, names=("x",))
    second.send(ENDPOINT, names=("y",))
    await first.receive_and_acknowledge()
    answer = await second.receive()
    status = hub.status("p")
    assert status is not None and status.streams == 2 and not status.in_sync
    second.send(ENDPOINT, answer.nonce)
    async with asyncio.timeout(5):
        while (status := hub.status("p")) is None or not status.in_sync:
            await asyncio.sleep(0)
    await first.end()
    await second.end()
