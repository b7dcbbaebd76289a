"""Fake delta discovery clients in a process of their own: `python benchmarks/_clients.py SOCKET NAMES.json`.

NAMES.json: {"proxies": [...], "names": {type URL: [names to subscribe]}}; without names a type is asked for as a whole.
Each client is one gRPC connection with raw bytes; it acknowledges everything at once and remembers the versions. On
standard input: `open` opens all streams (again: with those versions), `cut` ends them. Used by xds_*.py.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import uvloop
from envoy.service.discovery.v3 import discovery_pb2

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
]


class Client:
    """One fake proxy."""

    def __init__(self, socket: str, proxy: str, names: dict[str, list[str]]) -> None:
        self._socket, self._proxy, self._names = socket, proxy, names
        self._versions: dict[str, dict[str, str]] = {type_url: {} for type_url in names}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        requests: asyncio.Queue[bytes] = asyncio.Queue()
        for type_url, names in self._names.items():
            request = discovery_pb2.DeltaDiscoveryRequest(
                type_url=type_url,
                resource_names_subscribe=names,
                initial_resource_versions=self._versions[type_url],
            )
            requests.put_nowait(request.SerializeToString())

        async def outgoing() -> AsyncIterator[bytes]:
            while True:
                yield await requests.get()

        async with grpc.aio.insecure_channel(f"unix:{self._socket}", options=_OPTIONS) as channel:
            call = channel.stream_stream(METHOD)(outgoing(), metadata=(("proxy", self._proxy),))
            async for message in call:
                response = discovery_pb2.DeltaDiscoveryResponse.FromString(message)
                held = self._versions[response.type_url]
                for entry in response.resources:
                    held[sys.intern(entry.name)] = sys.intern(entry.version)
                for name in response.removed_resources:
                    held.pop(name, None)
                answer = discovery_pb2.DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
                requests.put_nowait(answer.SerializeToString())


async def main() -> None:
    socket, given = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    clients = [Client(socket, proxy, given["names"]) for proxy in given["proxies"]]
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := (await lines.readline()).strip():
        if line == b"cut":
            await asyncio.gather(*(client.stop() for client in clients))
        elif line == b"open":
            for client in clients:
                client.start()
        print("done", flush=True)
    await asyncio.gather(*(client.stop() for client in clients))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        uvloop.run(main())
