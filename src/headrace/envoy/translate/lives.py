"""How long a connection of the mesh takes requests: so long that it does not outlast the certificates it began with.

Called by `clusters` (the client's side, which acts first: it simply sends no more there, so no request is lost) and
`hcm` (the server's, against clients that are not ours). Requests under way are finished, however long they last.
"""

from __future__ import annotations

import struct
from typing import Any

from headrace.envoy.translate.messages import duration
from headrace.model.destination import ClientTls, TlsMode
from headrace.model.mesh import MeshConfig
from headrace.model.service import Protocol

_JITTER_PERCENT = 10.0
_SERVER = 1.25
"""The server waits so much longer than a client of ours."""
_JITTER_FIELD = 8
"""`max_connection_duration_jitter` of envoy.config.core.v3.HttpProtocolOptions in Envoy 1.40, an
envoy.type.v3.Percent; xds-protos 1.85 lacks it."""


def carries_http(protocol: Protocol) -> bool:
    """Whether connections of this protocol are, or may turn out to be, HTTP."""
    return protocol.is_http or protocol is Protocol.UNDECLARED


def speaks_mesh_tls(cluster: Any, tls: ClientTls | None) -> bool:
    """Whether the cluster's connections are, or may be, the mesh's mutual TLS."""
    written = tls is not None and tls.mode is TlsMode.ISTIO_MUTUAL
    return written or len(cluster.transport_socket_matches) > 0


def bound_client_side(options: Any, mesh: MeshConfig) -> None:
    """A cluster's HttpProtocolOptions: no new request on a connection older than the mesh says, and jitter, so that
    connections that began together do not end together. A shorter bound that a document writes stays."""
    life = mesh.connection_life / (1.0 + _JITTER_PERCENT / 100.0)
    common = options.common_http_protocol_options
    written = common.max_connection_duration.ToNanoseconds() / 1e9
    if written and written <= life:
        return
    common.max_connection_duration.CopyFrom(duration(life))
    _jitter(common)


def bound_server_side(manager: Any, mesh: MeshConfig) -> None:
    """A connection manager: asks clients to go (GOAWAY, or `connection: close` with the next answer) after a while."""
    if not mesh.connection_life:
        return
    common = manager.common_http_protocol_options
    common.max_connection_duration.CopyFrom(duration(mesh.connection_life * _SERVER))
    _jitter(common)
    manager.http1_safe_max_connection_duration = True


def _jitter(common: Any) -> None:
    percent = b"\x09" + struct.pack("<d", _JITTER_PERCENT)
    common.MergeFromString(bytes((_JITTER_FIELD << 3 | 2, len(percent))) + percent)
