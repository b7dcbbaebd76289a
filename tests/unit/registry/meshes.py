"""Small meshes for the tests of the registry and of translation, made of model objects without documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Protocol

from headrace.model.destination import DestinationRule, Subset, TrafficPolicy
from headrace.model.identity import Identity
from headrace.model.mesh import MeshConfig
from headrace.model.names import resolve_host, service_fqdn
from headrace.model.proxy import Capture, Proxy, ProxyKind
from headrace.model.resource import Metadata, Origin, ResourceKey
from headrace.model.security import MtlsMode, PeerAuthentication
from headrace.model.service import InlineEndpoint, Resolution, Service, ServiceEntry, ServicePort
from headrace.model.service import Protocol as Wire
from headrace.model.traffic import Destination, HttpRoute, RouteDestination, VirtualService
from headrace.model.workload import Engine, StaticWorkload, Workload, WorkloadPort
from headrace.registry.build import build_snapshot
from headrace.registry.observed import ObservedReplica, ReplicaState
from headrace.registry.snapshot import MeshSnapshot

_order = count()


class HasMeta(Protocol):
    @property
    def meta(self) -> Metadata: ...


def meta(kind: str, name: str, namespace: str = "default", **labels: str) -> Metadata:
    """Metadata; objects made later are younger."""
    return Metadata(
        ResourceKey(kind, namespace, name), labels, {}, Origin("test", "t.yaml", 1, f"{next(_order):09}"), name
    )


@dataclass
class Mesh:
    """A mesh under test: documents and replicas that can be put, replaced and taken away."""

    config: MeshConfig = field(default_factory=MeshConfig)
    resources: dict[ResourceKey, object] = field(default_factory=dict)
    replicas: dict[str, ObservedReplica] = field(default_factory=dict)
    last: MeshSnapshot | None = None

    @property
    def mesh(self) -> MeshConfig:
        return self.config

    def put(self, *items: HasMeta) -> Mesh:
        self.resources = {**self.resources, **{item.meta.key: item for item in items}}
        return self

    def drop(self, *items: HasMeta) -> Mesh:
        gone = {item.meta.key for item in items}
        self.resources = {key: value for key, value in self.resources.items() if key not in gone}
        return self

    def observe(self, *replicas: ObservedReplica) -> Mesh:
        self.replicas = {**self.replicas, **{replica.id: replica for replica in replicas}}
        return self

    def snapshot(self) -> MeshSnapshot:
        """The next snapshot."""
        self.last = build_snapshot(self, self.replicas, self.last)
        return self.last


def service(
    name: str, *ports: ServicePort, namespace: str = "default", selector: Mapping[str, str] | None = None, **more: Any
) -> Service:
    return Service(
        meta=meta("Service", name, namespace),
        host=service_fqdn(name, namespace),
        namespace=namespace,
        ports=ports or (port(8000),),
        selector={"app": name} if selector is None else selector,
        **more,
    )


def port(number: int, protocol: Wire = Wire.HTTP, *, name: str = "", target: int | str = 0) -> ServicePort:
    label = name or f"{protocol.value.lower()}-{number}"
    if isinstance(target, str):
        return ServicePort(number, label, protocol, 0, target)
    return ServicePort(number, label, protocol, target)


def entry(
    *hosts: str,
    ports: tuple[ServicePort, ...] = (),
    resolution: Resolution = Resolution.STATIC,
    namespace: str = "default",
    endpoints: tuple[InlineEndpoint, ...] = (),
    **more: Any,
) -> ServiceEntry:
    about = meta("networking.istio.io/ServiceEntry", hosts[0].replace("*", "x"), namespace)
    return ServiceEntry(about, hosts, ports=ports or (port(80),), resolution=resolution, endpoints=endpoints, **more)


def workload(
    name: str,
    *ports: WorkloadPort,
    namespace: str = "default",
    engine: Engine | None = None,
    account: str = "default",
    **labels: str,
) -> Workload:
    return Workload(
        meta("headrace.dev/Workload", name, namespace),
        ("serve",),
        ports=ports or (WorkloadPort(8000, "http"),),
        labels=labels or {"app": name},
        service_account=account,
        engine=engine,
    )


def replica(of: Workload, index: int, address: str, state: ReplicaState = ReplicaState.READY) -> ObservedReplica:
    namespace = of.meta.namespace
    return ObservedReplica(
        id=f"{namespace}/{of.meta.name}-{index}",
        namespace=namespace,
        workload=of.meta.name,
        labels=tuple(sorted((of.labels or {}).items())),
        service_account=of.service_account,
        identity=Identity("cluster.local", namespace, of.service_account).uri,
        address=address,
        ports=of.ports,
        state=state,
    )


def pod(name: str, address: str, *ports: WorkloadPort, namespace: str = "default", **more: Any) -> StaticWorkload:
    labels = more.pop("labels", {"app": name})
    return StaticWorkload(meta("Pod", name, namespace), address, labels, ports=ports, proxied=True, **more)


def workload_entry(
    name: str, address: str, *ports: WorkloadPort, namespace: str = "default", **more: Any
) -> StaticWorkload:
    labels = more.pop("labels", {"app": name})
    about = meta("networking.istio.io/WorkloadEntry", name, namespace)
    return StaticWorkload(about, address, labels, ports=ports, **more)


def peer_authentication(
    name: str, mode: MtlsMode, *, namespace: str = "default", selector: Mapping[str, str] = {}, ports: Any = ()
) -> PeerAuthentication:
    return PeerAuthentication(meta("security.istio.io/PeerAuthentication", name, namespace), selector, mode, ports)


def rule(
    host: str,
    *subsets: Subset,
    policy: TrafficPolicy | None = None,
    namespace: str = "default",
    name: str = "",
    export_to: tuple[str, ...] = (),
) -> DestinationRule:
    about = meta("networking.istio.io/DestinationRule", name or host, namespace)
    return DestinationRule(about, resolve_host(host, namespace), policy, subsets, export_to)


def subset(name: str, policy: TrafficPolicy | None = None) -> Subset:
    return Subset(name, (("version", name),), policy)


def to(host: str, subset: str = "", weight: int = 0, *, port: int = 0, namespace: str = "default") -> RouteDestination:
    return RouteDestination(Destination(resolve_host(host, namespace), subset, port), weight)


def virtual_service(
    name: str,
    *routes: HttpRoute,
    hosts: tuple[str, ...] = (),
    gateways: tuple[str, ...] = ("mesh",),
    namespace: str = "default",
    export_to: tuple[str, ...] = (),
) -> VirtualService:
    full = tuple(resolve_host(host, namespace) for host in hosts or (name,))
    about = meta("networking.istio.io/VirtualService", name, namespace)
    return VirtualService(about, full, gateways, routes, export_to)


def aged_like(item: VirtualService, *routes: HttpRoute) -> VirtualService:
    """The document after an edit: same name and age, other rules."""
    return replace(item, http=routes)


def sidecar(
    name: str = "client",
    *,
    namespace: str = "default",
    address: str = "10.0.0.1",
    capture: Capture = Capture(),
    workload: str = "",
    **labels: str,
) -> Proxy:
    return Proxy(
        kind=ProxyKind.SIDECAR,
        name=f"{name}-0" if not workload else name,
        workload=workload or name,
        identity=Identity("cluster.local", namespace, "default"),
        labels=labels or {"app": workload or name},
        addresses=(address,),
        capture=capture,
    )
