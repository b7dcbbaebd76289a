"""One data-plane proxy, as the control plane knows it: who it is, where, and how traffic reaches it.

Made by `app` (live: from an agent's registration; offline: from documents), read by `envoy.view`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from headrace.model.identity import Identity
from headrace.model.mesh import GatewayTopology
from headrace.model.resource import Labels

PortPairs = tuple[tuple[int, int], ...]
"""Ports, each with the one that it leads to."""
ServicesBefore = tuple[tuple[tuple[str, str], PortPairs], ...]
"""Services (namespace, host) before a gateway, with their ports and where those lead to, oldest first."""


class ProxyKind(StrEnum):
    """The role of a proxy; the word stands in proxy names (`sidecar/default/chat-v1`)."""

    SIDECAR = "sidecar"
    GATEWAY = "gateway"
    WAYPOINT = "waypoint"


class CaptureKind(StrEnum):
    """How traffic reaches the proxy: redirected by the kernel, or by HTTP_PROXY and per-port listeners."""

    TRANSPARENT = "transparent"
    LOOPBACK = "loopback"


@dataclass(frozen=True, slots=True)
class Capture:
    """The capture strategy of one proxy.

    For LOOPBACK: `outbound_port` is where the application's HTTP_PROXY points (on the proxy's own address),
    `credentials` is the htpasswd line (`user:{SHA}...`) that the outbound listener demands, and `app_ports` maps each
    port of the workload to the one the process really listens on at 127.0.0.1.

    For TRANSPARENT with `own_namespace`: the proxy shares a network namespace with its application only; it speaks IPv4
    and IPv6 there and answers for names, and `app_ports` says where the process listens on 127.0.0.1.
    """

    kind: CaptureKind = CaptureKind.TRANSPARENT
    outbound_port: int = 15001
    credentials: str = ""
    app_ports: tuple[tuple[int, int], ...] = ()
    own_namespace: bool = False


@dataclass(frozen=True, slots=True)
class WorkloadPortView:
    """A port of the proxy's own workload, with the protocol that the services in front of it declare; `engine` is the
    model engine of a Workload document ('' : none named), None for a workload that others run. `host` and
    `service_port` name the port of the oldest service in front ('' and 0: none)."""

    number: int
    name: str
    protocol: str
    engine: str | None = None
    host: str = ""
    service_port: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Proxy:
    """One Envoy. `name` is the replica (`chat-v1-0`), `workload` the document's name (`chat-v1`).

    `addresses`: own addresses, first one primary. `module`: the native module passed its check on that host.
    `bind`: address that gateway listeners bind ('0.0.0.0' by default), `port_map` maps Gateway server ports to those
    really bound (privileged ports on a machine without privileges). `behind` are the Services before a gateway; where
    there is one (`fronted`), that translation is theirs, so that clients know the Gateway's own ports.
    `topology`: what stands before the gateway (None: what the mesh says of all).
    """

    kind: ProxyKind
    name: str
    workload: str
    identity: Identity
    labels: Labels
    addresses: tuple[str, ...]
    capture: Capture = Capture()
    module: bool = False
    bind: str = "0.0.0.0"  # noqa: S104 - Istio's own shape; `up` passes a loopback address
    port_map: PortPairs = ()
    behind: ServicesBefore = ()
    topology: GatewayTopology | None = None

    @property
    def fronted(self) -> bool:
        """Whether a Service stands before the gateway."""
        return bool(self.behind)

    @property
    def namespace(self) -> str:
        return self.identity.namespace

    @property
    def metadata(self) -> dict[str, str]:
        """What this proxy's Envoy says of itself in the metadata of its node, as far as documents can ask for it."""
        return {
            "NAME": self.name,
            "NAMESPACE": self.namespace,
            "WORKLOAD_NAME": self.workload,
            "SERVICE_ACCOUNT": self.identity.service_account,
        }

    @property
    def node_id(self) -> str:
        """Envoy's node id, in Istio's form: type~address~name.namespace~domain."""
        address = self.addresses[0] if self.addresses else "0.0.0.0"  # noqa: S104
        kind = "router" if self.kind is ProxyKind.GATEWAY else self.kind.value
        return f"{kind}~{address}~{self.name}.{self.namespace}~{self.namespace}.svc.cluster.local"
