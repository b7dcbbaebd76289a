"""The edge of discovery: gRPC methods over raw bytes, and servers on owner-only Unix sockets.

The control plane's tests and the agent's per-replica sockets use it. No message is parsed here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import grpc

from headrace.envoy.xds.session import MAX_REQUEST_BYTES, ProtocolError
from headrace.floor.files import OWNER_ONLY_FILE

ADS_METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
SDS_METHOD = "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets"
_SOCKET_PATH_LIMIT = 107

Stream = Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]
"""Serialised requests in, serialised responses out: `functools.partial(hub.stream, proxy)`, or a relay."""

_Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
)


class SocketInUse(Exception):
    """The path of a socket is taken; the message says by what."""


def discovery_handler(*, ads: Stream | None = None, sds: Stream | None = None) -> grpc.GenericRpcHandler[bytes, bytes]:
    """The delta methods of aggregated and of secret discovery, each served by its stream; others are unimplemented."""
    methods = {
        method: grpc.stream_stream_rpc_method_handler(_served(stream))
        for method, stream in ((ADS_METHOD, ads), (SDS_METHOD, sds))
        if stream is not None
    }
    return _Methods(methods)


@contextlib.asynccontextmanager
async def unix_server(
    path: Path, handlers: Sequence[grpc.GenericRpcHandler[bytes, bytes]], *, grace: float = 0.2
) -> AsyncIterator[grpc.aio.Server]:
    """A gRPC server on a Unix socket that only its owner may open (mode 0600 from the moment it exists).

    A socket that nobody serves any more is replaced; SocketInUse where somebody does, or where the path is something
    else. On leaving, streams get `grace` seconds to end and the socket is removed.
    """
    if len(os.fsencode(path)) > _SOCKET_PATH_LIMIT:
        raise SocketInUse(f"{path}: longer than the {_SOCKET_PATH_LIMIT} bytes of a Unix socket's path")
    _clear(path)
    server = grpc.aio.server(options=list(SERVER_OPTIONS))
    server.add_generic_rpc_handlers(tuple(handlers))
    umask = os.umask(0o777 & ~OWNER_ONLY_FILE)
    try:
        server.add_insecure_port(f"unix:{path}")
    except RuntimeError as error:
        raise SocketInUse(f"{path}: {error}") from error
    finally:
        os.umask(umask)
    await server.start()
    try:
        yield server
    finally:
        await asyncio.shield(server.stop(grace))
        with contextlib.suppress(SocketInUse):
            _clear(path)


def _clear(path: Path) -> None:
    """Remove a socket left behind by a process that is gone."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SocketInUse(f"{path}: exists and is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(os.fspath(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise SocketInUse(f"{path}: another process serves it")


def _served(stream: Stream) -> Callable[[AsyncIterator[bytes], _Context], Awaitable[None]]:
    async def method(requests: AsyncIterator[bytes], context: _Context) -> None:
        messages = stream(requests)
        try:
            async for message in messages:
                await context.write(message)
                del message  # not kept until the next one, which may be a day away; nor would a generator let go of it
        except ProtocolError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        finally:
            if isinstance(messages, AsyncGenerator):
                await messages.aclose()  # a stream that was cut while writing

    return method


class _Methods(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs only
    def __init__(self, methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]]) -> None:
        self._methods = methods

    def service(self, call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        return self._methods.get(call_details.method)
