"""What can be called: services (from Service and ServiceEntry documents) and the endpoints behind them.

Made by `registry` from declared and observed things, read by `envoy.translate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from headrace.model.resource import Labels, Metadata


class Protocol(StrEnum):
    """Application protocol of a port (Istio's protocol selection: appProtocol, then the port name's prefix;
    ports 25, 53, 3306 and 27017 are TCP; else UNDECLARED, which proxies sniff)."""

    HTTP = "HTTP"
    HTTP2 = "HTTP2"
    GRPC = "GRPC"
    GRPC_WEB = "GRPC-Web"
    HTTPS = "HTTPS"
    TLS = "TLS"
    TCP = "TCP"
    MONGO = "Mongo"
    MYSQL = "MySQL"
    REDIS = "Redis"
    UDP = "UDP"
    UNDECLARED = "UNDECLARED"

    @property
    def is_http(self) -> bool:
        """Whether a proxy routes it by request."""
        return self in (Protocol.HTTP, Protocol.HTTP2, Protocol.GRPC, Protocol.GRPC_WEB)

    @property
    def is_http2(self) -> bool:
        """Whether the application speaks HTTP/2 in clear text by declaration."""
        return self in (Protocol.HTTP2, Protocol.GRPC, Protocol.GRPC_WEB)


class Resolution(StrEnum):
    """How a service's endpoints are found. MESH: from workloads (a Kubernetes Service); the others are
    ServiceEntry.resolution."""

    MESH = "MESH"
    NONE = "NONE"
    STATIC = "STATIC"
    DNS = "DNS"
    DNS_ROUND_ROBIN = "DNS_ROUND_ROBIN"
    DYNAMIC_DNS = "DYNAMIC_DNS"


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port: `target` is the endpoint's port (number), or `target_name` a port name of the workload. `more_targets`:
    further ports of every endpoint, each an endpoint of its own (an InferencePool with several targetPorts)."""

    number: int
    name: str
    protocol: Protocol
    target: int = 0
    target_name: str = ""
    more_targets: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Service:
    """A callable host name.

    `host` is the full name (`chat.default.svc.cluster.local` or a ServiceEntry host); `addresses` its virtual
    addresses (none for headless); `export_to` as written ('*', '.', '~' or namespaces; empty: the mesh's default);
    `service_accounts` extra SANs (ServiceEntry.subjectAltNames); `engine` the model engine that its workloads name
    ('' : not a model service). `kubernetes` tells a Service document from a ServiceEntry: short names exist only then.
    `external_name` is the DNS name behind a Service of type ExternalName ('' otherwise); where that is a host of the
    mesh, it is no service of its own but one of the `aliases` of that host. `pool`: an InferencePool.
    `distribution`: `zone` or `node` where callers prefer what is near them, `any` where the document says that they do
    not, '' where it says nothing. `unready`: endpoints that are not ready get requests, too.
    """

    meta: Metadata
    host: str
    namespace: str
    ports: tuple[ServicePort, ...]
    addresses: tuple[str, ...] = ()
    resolution: Resolution = Resolution.MESH
    external: bool = False
    selector: Labels | None = None
    headless: bool = False
    export_to: tuple[str, ...] = ()
    subject_alt_names: tuple[str, ...] = ()
    engine: str = ""
    kubernetes: bool = True
    external_name: str = ""
    pool: bool = False
    aliases: tuple[str, ...] = ()
    distribution: str = ""
    unready: bool = False

    @property
    def name(self) -> str:
        return self.meta.name


class Health(StrEnum):
    """Whether an endpoint takes new requests."""

    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    DRAINING = "DRAINING"


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """One address that serves one service port.

    `port_name`/`service_port` tell which port of the service. `mtls`: a proxy with a certificate stands before it.
    `identity` is its SPIFFE URI where known ('' otherwise); `locality` is `region/zone/subzone`; `weight` 0 = unset.
    `labels` as sorted pairs, for subsets. DNS endpoints carry a host name in `address`.
    """

    address: str
    port: int
    service_port: int
    labels: tuple[tuple[str, str], ...] = ()
    namespace: str = ""
    workload: str = ""
    identity: str = ""
    mtls: bool = False
    health: Health = Health.HEALTHY
    weight: int = 0
    locality: str = ""
    network: str = ""


@dataclass(frozen=True, slots=True)
class InlineEndpoint:
    """An endpoint written inside a ServiceEntry (its fields are a WorkloadEntry's).

    `address` is an IP address, a host name (DNS), `unix://...`, or empty for a network's gateway. `ports` maps names of
    the entry's ports to numbers on this endpoint; a port without an entry keeps its target, else its number. `weight`
    0: not written.
    """

    address: str
    ports: tuple[tuple[str, int], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    network: str = ""
    locality: str = ""
    weight: int = 0
    service_account: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class ServiceEntry:
    """A ServiceEntry as written; `registry` makes one Service a host, and endpoints, of it.

    `hosts` in lower case, as written otherwise (never given a namespace). `addresses` are addresses or CIDR blocks.
    `external`: location MESH_EXTERNAL, the default. `workload_selector` None: none written (then `endpoints`, or the
    hosts' own DNS names); it selects WorkloadEntries, Pods and Workloads of its namespace. `export_to` as written
    (empty: the mesh's default). A port's protocol is the one written, UNDECLARED where none is.
    """

    meta: Metadata
    hosts: tuple[str, ...]
    addresses: tuple[str, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    external: bool = True
    resolution: Resolution = Resolution.NONE
    endpoints: tuple[InlineEndpoint, ...] = ()
    workload_selector: Labels | None = None
    export_to: tuple[str, ...] = ()
    subject_alt_names: tuple[str, ...] = ()
    distribution: str = ""


@dataclass(frozen=True, slots=True)
class DeclaredAddresses:
    """One group of an Endpoints or EndpointSlice document: every address serves every port (name, number)."""

    addresses: tuple[str, ...]
    ports: tuple[tuple[str, int], ...]
    ready: bool = True
    zone: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class DeclaredEndpoints:
    """An Endpoints or EndpointSlice document: where the Service `service` of the same namespace, which has no
    selector, is found. Ports are the service's ports by name (one without a name: the only one)."""

    meta: Metadata
    service: str
    groups: tuple[DeclaredAddresses, ...]
