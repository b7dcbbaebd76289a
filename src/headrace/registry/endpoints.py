"""Endpoints of one service: what stands behind each of its ports.

Called by `registry.join`. Four sources: observed replicas of Workloads, described workloads (Pod, WorkloadEntry),
addresses inside a ServiceEntry, and Endpoints documents. Only what is ready is an endpoint; a replica that no longer is
stays one that takes no new requests, for proxies that keep books of what it is still answering.
"""

from __future__ import annotations

from collections.abc import Iterable

from headrace.model.identity import Identity
from headrace.model.locality import NETWORK, locality_of
from headrace.model.mesh import MeshConfig
from headrace.model.proxy import ProxyKind
from headrace.model.security import MtlsMode, PeerAuthentication
from headrace.model.service import DeclaredEndpoints, Endpoint, Health, Resolution, Service, ServiceEntry
from headrace.model.workload import StaticWorkload
from headrace.registry.inbound import static_ports, target_ports
from headrace.registry.mtls import MtlsPolicy, settle
from headrace.registry.observed import ObservedReplica, ReplicaState


class PolicyCache:
    """The mutual TLS policy of workloads, settled once for each set of labels."""

    def __init__(self, mesh: MeshConfig, policies: tuple[PeerAuthentication, ...]) -> None:
        self._mesh = mesh
        self._policies = policies
        self._known: dict[tuple[str, tuple[tuple[str, str], ...]], MtlsPolicy] = {}

    def of(self, namespace: str, labels: tuple[tuple[str, str], ...]) -> MtlsPolicy:
        """The policy of a workload with these (sorted) labels."""
        key = (namespace, labels)
        policy = self._known.get(key)
        if policy is None:
            policy = settle(self._policies, self._mesh.root_namespace, namespace, dict(labels))
            self._known[key] = policy
        return policy


_HEALTH = {
    ReplicaState.READY: Health.HEALTHY,
    ReplicaState.UNREADY: Health.DRAINING,
    ReplicaState.DRAINING: Health.DRAINING,
}


def replica_endpoints(service: Service, replica: ObservedReplica, policies: PolicyCache) -> Iterable[Endpoint]:
    """Endpoints of one observed replica: none before it was READY, draining ones after."""
    health = _HEALTH.get(replica.state)
    if health is None or not replica.address:
        return
    policy = policies.of(replica.namespace, replica.labels)
    local, labels = dict(replica.port_map), dict(replica.labels)
    for port in service.ports:
        for number in target_ports(port, replica.ports):
            yield Endpoint(
                address=replica.address,
                port=local.get(number, number),
                service_port=port.number,
                labels=replica.labels,
                namespace=replica.namespace,
                workload=replica.workload,
                identity=replica.identity,
                mtls=replica.kind is ProxyKind.SIDECAR and policy.of_port(number) is not MtlsMode.DISABLE,
                health=health,
                locality=locality_of(labels),
                network=labels.get(NETWORK, ""),
            )


def static_endpoints(
    service: Service, workload: StaticWorkload, policies: PolicyCache, mesh: MeshConfig
) -> Iterable[Endpoint]:
    """Endpoints of a Pod or WorkloadEntry that the service selects."""
    if not (workload.ready or service.unready) or not workload.address:
        return
    labels = tuple(sorted(workload.labels.items()))
    policy = policies.of(workload.meta.namespace, labels)
    identity = static_identity(workload, mesh)
    for port in service.ports:
        for number in static_ports(port, workload):
            yield Endpoint(
                address=workload.address,
                port=number,
                service_port=port.number,
                labels=labels,
                namespace=workload.meta.namespace,
                workload=workload.meta.name,
                identity=identity,
                mtls=workload.proxied and policy.of_port(number) is not MtlsMode.DISABLE,
                weight=workload.weight,
                locality=workload.locality,
                network=workload.network,
            )


def static_identity(workload: StaticWorkload, mesh: MeshConfig) -> str:
    """The SPIFFE URI of a described workload ('' where nothing says that it has one)."""
    account = workload.service_account or ("default" if workload.proxied else "")
    if not account:
        return ""
    return Identity(mesh.trust_domain, workload.meta.namespace, account).uri


def inline_endpoints(service: Service, entry: ServiceEntry, mesh: MeshConfig) -> Iterable[Endpoint]:
    """Endpoints written in the ServiceEntry; a DNS service without any is found at its own host name."""
    by_name = service.resolution in (Resolution.DNS, Resolution.DNS_ROUND_ROBIN)
    if not entry.endpoints and by_name and entry.workload_selector is None and not service.host.startswith("*"):
        for port in service.ports:
            yield Endpoint(service.host, port.target or port.number, port.number)
    for inline in entry.endpoints:
        ports = dict(inline.ports)
        identity = ""
        if inline.service_account:
            identity = Identity(mesh.trust_domain, entry.meta.namespace, inline.service_account).uri
        for port in service.ports:
            if inline.address:
                yield Endpoint(
                    address=inline.address,
                    port=ports.get(port.name, port.target or port.number),
                    service_port=port.number,
                    labels=inline.labels,
                    namespace=entry.meta.namespace,
                    identity=identity,
                    mtls=bool(identity) and not service.external,
                    weight=inline.weight,
                    locality=inline.locality,
                    network=inline.network,
                )


def declared_endpoints(service: Service, document: DeclaredEndpoints) -> Iterable[Endpoint]:
    """Endpoints of an Endpoints or EndpointSlice document, matched to the service's ports by name."""
    for part in document.groups:
        if not (part.ready or service.unready):
            continue
        numbers = dict(part.ports)
        for port in service.ports:
            number = numbers.get(port.name, 0)
            if not number and len(service.ports) == 1 and len(part.ports) == 1:
                number = part.ports[0][1]
            if number:
                for address in part.addresses:
                    yield Endpoint(address, number, port.number, namespace=service.namespace)
