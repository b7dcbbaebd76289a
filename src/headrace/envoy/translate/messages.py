"""Small Envoy messages that nearly every resource contains: addresses, durations, Any, discovery sources.

Called by every module of `envoy.translate`. Each function is pure and makes a new message.
"""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3 import address_pb2, config_source_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf import any_pb2, duration_pb2, wrappers_pb2
from google.protobuf.message import Message

from headrace.model.resource import Metadata

_PREFIX = "type.googleapis.com/"


def packed(message: Message) -> any_pb2.Any:
    """The message in an Any, serialised deterministically (map fields too)."""
    return any_pb2.Any(type_url=_PREFIX + message.DESCRIPTOR.full_name, value=serialized(message))


def serialized(message: Message) -> bytes:
    """The message's bytes; equal messages give equal bytes (xDS versions are hashes of them)."""
    return message.SerializeToString(deterministic=True)


def duration(seconds: float) -> duration_pb2.Duration:
    """A Duration, exact to the nanosecond."""
    nanos = round(seconds * 1_000_000_000)
    return duration_pb2.Duration(seconds=nanos // 1_000_000_000, nanos=nanos % 1_000_000_000)


def uint32(value: int) -> wrappers_pb2.UInt32Value:
    return wrappers_pb2.UInt32Value(value=value)


def boolean(value: bool) -> wrappers_pb2.BoolValue:
    return wrappers_pb2.BoolValue(value=value)


def socket_address(host: str, port: int) -> Any:
    """An `envoy.config.core.v3.Address` of a TCP socket."""
    return address_pb2.Address(socket_address=address_pb2.SocketAddress(address=host, port_value=port))


def server_address(host: str, port: int) -> Any:
    """Where a server is: an IP address and a port, or the socket `unix://PATH`."""
    if host.startswith("unix://"):
        return address_pb2.Address(pipe=address_pb2.Pipe(path=host.removeprefix("unix://")))
    return socket_address(host, port)


def listening_address(host: str, port: int) -> Any:
    """An IP address and a port, or the socket `unix://PATH`, which only the proxy's user may connect to; an abstract
    one has no file and no mode."""
    if not host.startswith("unix://"):
        return socket_address(host, port)
    path = host.removeprefix("unix://")
    return address_pb2.Address(pipe=address_pb2.Pipe(path=path, mode=0 if path.startswith("@") else 0o600))


def ads(initial_fetch_timeout: float | None = 0.0) -> Any:
    """A ConfigSource that reads from the aggregated stream.

    `initial_fetch_timeout` 0 (Istio's choice for routes and endpoints) waits for the answer without limit; None keeps
    Envoy's 15 s, right for what may never come (a Secret that does not exist), so that it does not block a listener.
    """
    source = config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(), resource_api_version=config_source_pb2.ApiVersion.V3
    )
    if initial_fetch_timeout is not None:
        source.initial_fetch_timeout.CopyFrom(duration(initial_fetch_timeout))
    return source


def document_path(meta: Metadata, kind: str) -> str:
    """How Istio's metadata names the document that a resource comes from; `kind` as in `virtual-service`."""
    return f"/apis/networking.istio.io/v1alpha3/namespaces/{meta.namespace}/{kind}/{meta.name}"


def http_filter(name: str, config: Message) -> Any:
    """An HttpFilter with its typed configuration."""
    return hcm_pb2.HttpFilter(name=name, typed_config=packed(config))
