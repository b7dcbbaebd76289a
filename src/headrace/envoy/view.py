"""What one proxy may see of the mesh: a shared scope, its own inbound side and its own instance.

Translation gets nothing else. Made by `envoy.scopes`, read by `envoy.translate`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, fields, replace

from headrace.envoy.guards import OPEN, Guard
from headrace.envoy.imports import EVERYTHING
from headrace.model.destination import ConnectionPool, DestinationRule
from headrace.model.envoy_filter import Patch
from headrace.model.gateway import Gateway, ServerTlsMode
from headrace.model.inference import InferencePolicy
from headrace.model.mesh import MeshConfig, OutboundMode
from headrace.model.names import outbound_cluster
from headrace.model.proxy import Proxy, ProxyKind, WorkloadPortView
from headrace.model.resource import ResourceKey
from headrace.model.security import Secret
from headrace.model.service import Endpoint, Service
from headrace.model.sidecar import EgressListener, IngressListener, Sidecar
from headrace.model.traffic import Pairs, VirtualService
from headrace.registry.mtls import MtlsPolicy
from headrace.registry.snapshot import Endpoints


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Target:
    """A service as one scope sees it: with the DestinationRule that speaks for it there, the SPIFFE URIs that its
    workloads have (the SANs of mesh mutual TLS), the InferencePolicy that is for it, and the one whose credential the
    scope's proxies put into requests (`injects`). `cut`: the ports that a Sidecar leaves of it (none: it is whole).
    Interned: same parts, same object. Endpoints are not in it, so that they change without touching clusters and
    routes."""

    service: Service
    rule: DestinationRule | None
    accounts: tuple[str, ...]
    inference: InferencePolicy | None = None
    injects: InferencePolicy | None = None
    cut: tuple[int, ...] = ()

    @property
    def is_pool(self) -> bool:
        """Whether its requests are picked for, held and shed as those of a pool of model servers: because a document
        says so, or because a Workload behind it names an engine."""
        return self.is_declared_pool or bool(self.service.engine)

    @property
    def is_declared_pool(self) -> bool:
        """Whether a document says so: it is an InferencePool, or has an InferencePolicy."""
        return self.service.pool or self.inference is not None

    @property
    def key(self) -> tuple[str, str]:
        """What `ProxyView.endpoints` is looked up by: namespace and host of the service."""
        return (self.service.namespace, self.service.host)

    @property
    def slot(self) -> tuple[Hashable, ...]:
        """What stays the same while the documents behind the target are edited."""
        written = (item.meta.key if item else None for item in (self.rule, self.injects))
        return (self.service.namespace, self.service.host, *written, self.cut)


@dataclass(frozen=True, slots=True)
class ScopeKey:
    """What decides a scope: the proxy's role and namespace, those of its labels that policies select on, and the
    Sidecar that is for it, or the Services (namespace, host) before a gateway. `listener`: the place of an egress
    listener in that Sidecar (-1: the scope as a whole)."""

    kind: ProxyKind
    namespace: str
    labels: Pairs
    sidecar: ResourceKey | None = None
    listener: int = -1
    before: tuple[tuple[str, str], ...] = ()
    workload: str = ""
    """Whose listeners are made from it, where they say it; '' : everybody's."""


@dataclass(frozen=True, slots=True)
class Outside:
    """What becomes of traffic to hosts that the mesh does not know; `proxy` not empty: the cluster that takes it."""

    mode: OutboundMode
    proxy: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """What all proxies with one `ScopeKey` see. Compared by identity; unchanged → the same object.

    `targets`: visible services, sorted by host, and the same by host. `virtual_services`: those for `mesh` (sidecars);
    `gateways`: those whose selector selects the proxy (gateways), oldest first, with `gateway_virtual_services` for
    them by gateway name (`namespace/name`), oldest first. `secrets`: Secrets of the proxy's own namespace that its
    gateways, DestinationRules or credentials name, by name.

    `attached` is `mesh` with what Telemetry and extensions add for this scope (None: nothing). `patches`: those of
    EnvoyFilters, in order.

    `sidecar` is the Sidecar that cuts the view down (None: nothing does). Then `through` are its egress listeners, each
    as a scope that sees what is let through there (`listener`), while the whole sees what all of them call together.
    """

    key: ScopeKey
    mesh: MeshConfig
    targets: tuple[Target, ...]
    by_host: Mapping[str, Target]
    virtual_services: tuple[VirtualService, ...] = ()
    gateways: tuple[Gateway, ...] = ()
    gateway_virtual_services: Mapping[str, tuple[VirtualService, ...]] = field(default_factory=dict)
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    attached: MeshConfig | None = None
    patches: tuple[Patch, ...] = ()
    sidecar: Sidecar | None = None
    listener: EgressListener = EVERYTHING
    through: tuple[Scope, ...] = ()

    @property
    def namespace(self) -> str:
        return self.key.namespace

    @property
    def outside(self) -> Outside:
        """The Sidecar's outboundTrafficPolicy, else the mesh's."""
        if self.sidecar is None or self.sidecar.outbound_mode is None:
            return Outside(self.mesh.outbound_mode)
        proxy = self.sidecar.egress_proxy
        cluster = outbound_cluster(proxy.port, proxy.subset, proxy.host) if proxy is not None else ""
        return Outside(self.sidecar.outbound_mode, cluster)

    @property
    def is_gateway(self) -> bool:
        return self.key.kind is ProxyKind.GATEWAY

    @property
    def passes_by_sni(self) -> bool:
        """Whether a server of the gateway leads to every service by the SNI alone (AUTO_PASSTHROUGH)."""
        return any(
            server.tls is not None and server.tls.mode is ServerTlsMode.AUTO_PASSTHROUGH
            for gateway in self.gateways
            for server in gateway.servers
        )

    def parts(self) -> tuple[object, ...]:
        """What it is made of: equal parts, the same scope."""
        return tuple(getattr(self, item.name) for item in fields(self) if item.name != "by_host")


@dataclass(frozen=True, slots=True)
class Inbound:
    """The server side of a sidecar's workload: its ports with the protocols that services in front declare, the
    mutual TLS it accepts, and by port the connection pools that DestinationRules give those services (both ends of a
    connection have them: Istio's rule), and the policies that guard them. Of a gateway, only the `guard`. Compared by
    value; interned by workload. `ingress`: the listeners of a Sidecar, in place of what services make of the ports."""

    ports: tuple[WorkloadPortView, ...] = ()
    mtls: MtlsPolicy = field(default_factory=MtlsPolicy)
    pools: tuple[tuple[int, ConnectionPool], ...] = ()
    guard: Guard = OPEN
    ingress: tuple[IngressListener, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class ProxyView:
    """All that translation gets for one proxy. `endpoints` by (namespace of the service, host)."""

    scope: Scope
    endpoints: Mapping[tuple[str, str], Endpoints]
    inbound: Inbound
    instance: Proxy
    listening: Scope | None = None
    """The scope from which listeners are made; None: the very same."""

    def for_listeners(self) -> ProxyView:
        """The view from which listeners are made."""
        return self if self.listening is None else replace(self, scope=self.listening, listening=None)

    @property
    def listener_mesh(self) -> MeshConfig:
        """The settings of listeners."""
        return (self.listening or self.scope).mesh

    def endpoints_of(self, target: Target) -> tuple[Endpoint, ...]:
        """All endpoints of a service, every port."""
        return self.endpoints.get(target.key, ())
