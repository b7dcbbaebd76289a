"""Listener filters: what is read from a connection before a filter chain is chosen.

Called by `inbound`, `gateways` and `loopback`. Inspectors are switched off for ports whose chains do not need them:
an inspector waits for the client's first bytes, which on a server-speaks-first protocol never come.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.filters.listener.http_inspector.v3 import http_inspector_pb2
from envoy.extensions.filters.listener.original_dst.v3 import original_dst_pb2
from envoy.extensions.filters.listener.proxy_protocol.v3 import proxy_protocol_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from envoy.type.v3 import range_pb2

from headrace.envoy.translate.messages import packed, uint32

_Predicate = listener_components_pb2.ListenerFilterChainMatchPredicate


def original_dst() -> Any:
    """Restores the address that the kernel's redirection replaced."""
    return listener_components_pb2.ListenerFilter(
        name="envoy.filters.listener.original_dst", typed_config=packed(original_dst_pb2.OriginalDst())
    )


def tls_inspector(disabled: Any = None) -> Any:
    """Reads SNI and ALPN; 512 bytes at first, as in Istio (Envoy's own 64 KiB cost memory for every connection)."""
    found = listener_components_pb2.ListenerFilter(
        name="envoy.filters.listener.tls_inspector",
        typed_config=packed(tls_inspector_pb2.TlsInspector(initial_read_buffer_size=uint32(512))),
    )
    if disabled is not None:
        found.filter_disabled.CopyFrom(disabled)
    return found


def http_inspector(disabled: Any = None) -> Any:
    """Tells HTTP/1.1 and HTTP/2 from anything else."""
    found = listener_components_pb2.ListenerFilter(
        name="envoy.filters.listener.http_inspector", typed_config=packed(http_inspector_pb2.HttpInspector())
    )
    if disabled is not None:
        found.filter_disabled.CopyFrom(disabled)
    return found


def proxy_protocol() -> Any:
    """Reads who the client is from the PROXY protocol, which every connection must begin with."""
    return listener_components_pb2.ListenerFilter(
        name="envoy.filters.listener.proxy_protocol", typed_config=packed(proxy_protocol_pb2.ProxyProtocol())
    )


def on_ports(ports: Iterable[int]) -> Any:
    """A predicate: the connection's original port is one of these (None where there are none)."""
    rules = [
        _Predicate(destination_port_range=range_pb2.Int32Range(start=port, end=port + 1)) for port in sorted(ports)
    ]
    if not rules:
        return None
    return rules[0] if len(rules) == 1 else _Predicate(or_match=_Predicate.MatchSet(rules=rules))


def not_on_ports(ports: Iterable[int]) -> Any:
    """A predicate: the connection's original port is none of these."""
    found = on_ports(ports)
    return None if found is None else _Predicate(not_match=found)
