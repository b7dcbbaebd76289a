"""Sidecar: what the proxies of some workloads see of the mesh, and how their own side is reached.

Made by `config.kinds.sidecar`; `envoy.imports` picks the one for a proxy, `envoy.translate` makes listeners of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.model.destination import ConnectionPool
from headrace.model.gateway import ServerTls
from headrace.model.mesh import OutboundMode
from headrace.model.resource import Labels, Metadata
from headrace.model.service import Protocol
from headrace.model.traffic import Destination

ANY_NAMESPACE = "*"


@dataclass(frozen=True, slots=True)
class EgressHost:
    """One item of `egress.hosts`: services and VirtualServices of `namespace` (`*`: any, `.`: the proxy's) with a host
    that `host` covers; `excluded`: those are taken out instead (`~namespace/host`)."""

    namespace: str
    host: str
    excluded: bool = False


@dataclass(frozen=True, slots=True)
class EgressListener:
    """One item of `egress`. `port` 0 and no `bind` on a Unix socket: every port of the services (the last item).

    `bind` is an address, or `unix://PATH` with port 0; `captured` False: the listener is bound for real (captureMode
    NONE, and Unix sockets), so that the application calls it by itself. `http_proxy`: requests name any host and port.
    """

    hosts: tuple[EgressHost, ...]
    port: int = 0
    protocol: Protocol = Protocol.UNDECLARED
    http_proxy: bool = False
    bind: str = ""
    captured: bool = True

    @property
    def is_unix(self) -> bool:
        """Whether the application calls it by a Unix socket."""
        return self.bind.startswith("unix://")

    @property
    def takes_all_ports(self) -> bool:
        """Whether it is the listener of every port that no other item names."""
        return self.port == 0 and not self.is_unix


@dataclass(frozen=True, slots=True)
class IngressListener:
    """One item of `ingress`: a port of the workload, and where the application is (`endpoint`: `unix://PATH`,
    `HOST:PORT` with HOST 127.0.0.1, ::1, or 0.0.0.0 and :: for the workload's own address; '': the port itself).

    `captured` False: the listener is bound for real, at `bind` or, without one, at the workload's address. `pool` comes
    before the Sidecar's own `inbound_pool`.
    """

    port: int
    protocol: Protocol
    name: str = ""
    bind: str = ""
    captured: bool = True
    endpoint: str = ""
    tls: ServerTls | None = None
    pool: ConnectionPool | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Sidecar:
    """A Sidecar document. `selector` None: it is for all workloads of its namespace, or of the mesh where it stands in
    the root namespace. `outbound_mode` None: the mesh's. `egress_proxy`: who takes what goes to unknown hosts."""

    meta: Metadata
    selector: Labels | None = None
    ingress: tuple[IngressListener, ...] = ()
    egress: tuple[EgressListener, ...] = ()
    outbound_mode: OutboundMode | None = None
    egress_proxy: Destination | None = None
    inbound_pool: ConnectionPool | None = None
