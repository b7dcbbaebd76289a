"""The gRPC edge of discovery: owner-only sockets, raw bytes through, errors as gRPC says them."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
from envoy.service.discovery.v3 import discovery_pb2
from tests.flows.xds_resources import FixedResources, cluster

from headrace.envoy.resources import CLUSTER, ResourceSet
from headrace.envoy.xds.hub import Hub
from headrace.envoy.xds.service import ADS_METHOD, SDS_METHOD, SocketInUse, discovery_handler, unix_server
from headrace.floor.clock import SystemClock


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="hr-xds-"))
    yield path
    shutil.rmtree(path)


async def echo(requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for message in requests:
        yield b"echo " + message


async def words(path: Path, method: str, *messages: bytes) -> list[bytes]:
    """What the method answers to these messages."""
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel, asyncio.timeout(10):
        call = channel.stream_stream(method)(iter_of(messages))
        return [message async for message in call]


async def iter_of(messages: tuple[bytes, ...]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


async def test_bytes_go_through_to_whatever_serves_them(directory: Path) -> None:
    path = directory / "s"
    async with unix_server(path, [discovery_handler(ads=echo)]):
        assert await words(path, ADS_METHOD, b"one", b"\xff\x00") == [b"echo one", b"echo \xff\x00"]
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await words(path, SDS_METHOD, b"one")
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_socket_is_its_owners_only_and_goes_with_the_server(directory: Path) -> None:
    path = directory / "s"
    umask = os.umask(0)
    try:
        async with unix_server(path, [discovery_handler(ads=echo)]):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert os.umask(0) == 0, "the process's own mask is as before"
    finally:
        os.umask(umask)
    assert not path.exists()


async def test_a_socket_left_behind_is_replaced_and_a_served_one_is_not(directory: Path) -> None:
    path = directory / "s"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with unix_server(path, [discovery_handler(ads=echo)]):
        with pytest.raises(SocketInUse, match="another process"):
            async with unix_server(path, []):
                pass
        assert await words(path, ADS_METHOD, b"still") == [b"echo still"]


async def test_what_is_no_socket_is_left_alone(directory: Path) -> None:
    path = directory / "s"
    path.write_text("precious")
    with pytest.raises(SocketInUse, match="no socket"):
        async with unix_server(path, []):
            pass
    assert path.read_text() == "precious"
    with pytest.raises(SocketInUse, match="longer"):
        async with unix_server(directory / ("x" * 120), []):
            pass


async def test_a_client_that_breaks_the_protocol_is_told_so(directory: Path) -> None:
    path, hub = directory / "s", Hub(FixedResources(), SystemClock())
    async with unix_server(path, [discovery_handler(ads=lambda requests: hub.stream("p", requests))]):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await words(path, ADS_METHOD, b"\xff\xff\xff")
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await words(path, ADS_METHOD, b"\0" * (9 << 20))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert hub.statuses() == ()


async def test_a_stream_that_is_cut_leaves_nothing_behind(directory: Path) -> None:
    source = FixedResources(p=ResourceSet.collect([cluster("a")]))
    path, hub = directory / "s", Hub(source, SystemClock())
    request = discovery_pb2.DeltaDiscoveryRequest(type_url=CLUSTER).SerializeToString()
    async with unix_server(path, [discovery_handler(ads=lambda requests: hub.stream("p", requests))]):
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            call = channel.stream_stream(ADS_METHOD)()
            await call.write(request)
            response = discovery_pb2.DeltaDiscoveryResponse.FromString(await call.read())
            assert [entry.name for entry in response.resources] == ["a"]
            assert [status.proxy for status in hub.statuses()] == ["p"]
            call.cancel()
        async with asyncio.timeout(5):
            while hub.statuses():
                await asyncio.sleep(0.005)
    assert hub.counters.streams_opened == hub.counters.streams_closed == 1
