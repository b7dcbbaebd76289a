"""The server side of one workload: its ports, with the protocol that the services in front of it declare.

Called by `envoy.scopes`. Rule (Istio): a port of the workload is known by the service ports that target it; the oldest
service settles the protocol. Ports that only a Workload document declares are added with their own protocol.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from headrace.model.proxy import PortPairs, Proxy, WorkloadPortView
from headrace.model.resource import Labels, selects
from headrace.model.service import Service, ServicePort
from headrace.model.workload import StaticWorkload, WorkloadPort
from headrace.registry.snapshot import MeshSnapshot

_OWN_PORTS_LABEL = "experimental.istio.io/disable-gateway-port-translation"


def target_port(port: ServicePort, ports: tuple[WorkloadPort, ...]) -> int:
    """The workload's port behind a service port: by name where `targetPort` is a name (0: no such name), else the
    number, else the service's own number."""
    if port.target_name:
        return next((own.number for own in ports if own.name == port.target_name), 0)
    return port.target or port.number


def target_ports(port: ServicePort, ports: tuple[WorkloadPort, ...]) -> tuple[int, ...]:
    """All of the workload's ports behind a service port: `target_port`, then the further ones of an InferencePool."""
    number = target_port(port, ports)
    return ((number,) if number else ()) + port.more_targets


def static_ports(port: ServicePort, workload: StaticWorkload) -> tuple[int, ...]:
    """A described workload's ports behind a service port. A WorkloadEntry's `ports` go by the service port's name
    first (istio.networking.v1.WorkloadEntry.ports); a Pod's only matter for a named targetPort."""
    if workload.meta.key.short_kind in ("WorkloadEntry", "WorkloadGroup"):
        for name in (port.name, port.target_name):
            number = next((own.number for own in workload.ports if name and own.name == name), 0)
            if number:
                return (number,)
        return (port.target or port.number, *port.more_targets)
    return target_ports(port, workload.ports)


def workload_ports(
    snapshot: MeshSnapshot, namespace: str, name: str, labels: Labels, addresses: Sequence[str] = ()
) -> tuple[WorkloadPortView, ...]:
    """All ports at which the workload `name` of `namespace` is called, sorted by number; `addresses` are its own, at
    which ServiceEntries of its namespace may have endpoints."""
    own = declared_ports(snapshot, namespace, name)
    workload = next(
        (item for item in snapshot.workloads if (item.meta.namespace, item.meta.name) == (namespace, name)), None
    )
    static = None if workload is not None else _described(snapshot, namespace, name)
    engine = None if workload is None else str(workload.engine or "")
    found: dict[int, WorkloadPortView] = {}
    fronting = [
        (service, port, number)
        for service in _in_front(snapshot, namespace, labels)
        for port in service.ports
        for number in (static_ports(port, static) if static is not None else target_ports(port, own))
    ]
    fronting += _written_endpoints(snapshot, namespace, addresses)
    for service, port, number in sorted(fronting, key=lambda item: item[0].meta.age()):
        view = WorkloadPortView(number, port.name, port.protocol.value, engine, service.host, port.number)
        found.setdefault(number, view)
    if workload is not None:
        for extra in own:
            if extra.number not in found:
                found[extra.number] = WorkloadPortView(extra.number, extra.name, extra.protocol, engine)
    return tuple(found[number] for number in sorted(found))


def services_before(snapshot: MeshSnapshot, proxy: Proxy) -> list[tuple[Service, PortPairs]]:
    """For a gateway: the services of its namespace in front of it, oldest first, each with its ports and those of the
    workload that they lead to. They select its workload, or name its address (a ServiceEntry's endpoint)."""
    own = declared_ports(snapshot, proxy.namespace, proxy.workload)
    found: dict[Service, dict[int, int]] = {}
    for service in _in_front(snapshot, proxy.namespace, proxy.labels):
        leads = {port.number: target_port(port, own) for port in service.ports}
        found[service] = {number: target for number, target in leads.items() if target}
    for services in snapshot.services.values():
        for service in services:
            if service.namespace == proxy.namespace and service not in found:
                endpoints = snapshot.endpoints.get((service.namespace, service.host), ())
                here = {item.service_port: item.port for item in endpoints if item.address in proxy.addresses}
                if here:
                    found[service] = here
    ordered = sorted(found.items(), key=lambda item: item[0].meta.age())
    return [(service, tuple(sorted(ports.items()))) for service, ports in ordered]


def written_addresses(snapshot: MeshSnapshot) -> frozenset[tuple[str, str]]:
    """Namespaces and addresses at which ServiceEntries have endpoints written."""
    return frozenset(
        (service.namespace, endpoint.address)
        for services in snapshot.services.values()
        for service in services
        if not service.kubernetes
        for endpoint in snapshot.endpoints.get((service.namespace, service.host), ())
        if not endpoint.workload
    )


def _written_endpoints(
    snapshot: MeshSnapshot, namespace: str, addresses: Sequence[str]
) -> Iterator[tuple[Service, ServicePort, int]]:
    """Ports of ServiceEntries of the namespace with an endpoint written at one of these addresses."""
    for services in snapshot.services.values() if addresses else ():
        for service in services:
            if service.namespace == namespace and not service.kubernetes:
                ports = {port.number: port for port in service.ports}
                for endpoint in snapshot.endpoints.get((namespace, service.host), ()):
                    if endpoint.address in addresses and not endpoint.workload and endpoint.service_port in ports:
                        yield service, ports[endpoint.service_port], endpoint.port


def fronting_ports(before: Iterable[tuple[Service, PortPairs]]) -> PortPairs:
    """Where a gateway listens for each port that these services have (of several services the oldest); a service may
    keep out of it by a label (Istio's, for Gateways that name the workload's ports)."""
    found: dict[int, int] = {}
    for service, ports in before:
        if _OWN_PORTS_LABEL not in service.meta.labels:
            for number, target in ports:
                found.setdefault(number, target)
    return tuple(sorted(found.items()))


def _in_front(snapshot: MeshSnapshot, namespace: str, labels: Labels) -> list[Service]:
    """The services that select a workload with these labels, oldest first."""
    found = [
        service
        for services in snapshot.services.values()
        for service in services
        if service.namespace == namespace and service.selector and selects(service.selector, labels)
    ]
    return sorted(found, key=lambda service: service.meta.age())


def declared_ports(snapshot: MeshSnapshot, namespace: str, name: str) -> tuple[WorkloadPort, ...]:
    """The ports that the workload's own document declares (a Workload, Pod or WorkloadEntry)."""
    for workload in snapshot.workloads:
        if workload.meta.namespace == namespace and workload.meta.name == name:
            return workload.ports
    static = _described(snapshot, namespace, name)
    return static.ports if static is not None else ()


def _described(snapshot: MeshSnapshot, namespace: str, name: str) -> StaticWorkload | None:
    found = (item for item in snapshot.static_workloads if (item.meta.namespace, item.meta.name) == (namespace, name))
    return next(found, None)
