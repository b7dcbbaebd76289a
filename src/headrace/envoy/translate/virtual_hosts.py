"""Virtual hosts and route tables of a sidecar: which names are answered on which port.

Called by `translate` (one RouteConfiguration a port) and by `loopback`, which derives its one proxy table from the
same parts.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.envoy.translate.memo import Memo
from headrace.envoy.view import Scope


@dataclass(frozen=True, slots=True, eq=False)
class HostPart:
    """One virtual host: `name` (`host:port`), `domains`, and `rest`: a serialised VirtualHost without those two.

    Messages concatenate in the wire format, so a virtual host under other domains costs no translation.
    """

    name: str
    domains: tuple[str, ...]
    rest: bytes


@dataclass(frozen=True, slots=True, eq=False)
class PortTable:
    """All virtual hosts of one outbound port, without the catch-all."""

    port: int
    hosts: tuple[HostPart, ...]


def virtual_host_bytes(part: HostPart, domains: tuple[str, ...] | None = None) -> bytes:
    """A serialised RouteConfiguration that holds only this virtual host (append it to another one's bytes); `domains`
    in place of the part's own."""
    raise NotImplementedError


def port_tables(memo: Memo, scope: Scope) -> tuple[PortTable, ...]:
    """The route tables of a sidecar's outbound HTTP ports, sorted by port; unchanged tables are the same objects."""
    raise NotImplementedError


def catch_all(scope: Scope) -> HostPart:
    """The virtual host of unknown names: `allow_any` to PassthroughCluster or `block_all` with 502."""
    raise NotImplementedError
