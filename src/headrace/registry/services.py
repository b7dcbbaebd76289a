"""Services of the mesh, from Service and ServiceEntry documents.

Called by `registry.join`. A ServiceEntry makes one service for each of its hosts; several of one namespace for the same
host make one together, with the ports of all; a service learns its model engine from the Workloads that it selects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from headrace.model.kube import Namespace
from headrace.model.locality import distribution_of
from headrace.model.resource import Labels, selects
from headrace.model.service import Service, ServiceEntry, ServicePort
from headrace.model.workload import Workload
from headrace.registry.addresses import virtual_addresses
from headrace.registry.documents import Documents

ServiceKey = tuple[str, str]
"""Namespace and host."""
EntryParts = tuple[tuple[ServiceEntry, Service], ...]
"""ServiceEntries for one host, oldest first, each with the service that it makes alone."""


@dataclass(frozen=True, slots=True, eq=False)
class ServiceTable:
    """All services by host (oldest first), and for each the ServiceEntries that it comes from.

    `made` keeps derived objects by what they were made of, so that the next table reuses them.
    """

    by_host: Mapping[str, tuple[Service, ...]] = field(default_factory=dict)
    parts_of: Mapping[ServiceKey, EntryParts] = field(default_factory=dict)
    made: Mapping[tuple[object, str, str], Service] = field(default_factory=dict)

    def all(self) -> Iterable[Service]:
        """Every service, by host."""
        for services in self.by_host.values():
            yield from services


class LabelIndex:
    """Things of the mesh by namespace and label, to find those that a selector selects without a walk over all."""

    def __init__(self) -> None:
        self._by_label: dict[tuple[str, str, str], list[tuple[Labels, object]]] = {}

    def add(self, namespace: str, labels: Labels, thing: object) -> None:
        for name, value in labels.items():
            self._by_label.setdefault((namespace, name, value), []).append((labels, thing))

    def find(self, namespace: str, selector: Labels) -> list[object]:
        """The things whose labels the selector selects; an empty selector selects nothing here."""
        candidates = [self._by_label.get((namespace, name, value), []) for name, value in selector.items()]
        if not candidates:
            return []
        return [thing for labels, thing in min(candidates, key=len) if selects(selector, labels)]


def build_services(documents: Documents, previous: ServiceTable, *, addressed: bool = False) -> ServiceTable:
    """The services that the documents declare; unchanged ones are the previous table's objects. `addressed`: those
    without an address get one (`registry.addresses`)."""
    near = {item.meta.name: distribution_of(item.meta.annotations) for item in documents.of(Namespace)}
    workloads = LabelIndex()
    for workload in documents.workloads:
        workloads.add(workload.meta.namespace, workload.labels or {}, workload)
    made: dict[tuple[object, str, str], Service] = {}
    found: dict[ServiceKey, Service] = {}
    for service in documents.services:
        engine = service.engine or _engine(workloads, service.namespace, service.selector)
        distribution = service.distribution or near.get(service.namespace, "")
        key: tuple[object, str, str] = ((service, distribution), service.host, engine)
        same = (engine, distribution) == (service.engine, service.distribution)
        made[key] = previous.made.get(key) or (
            service if same else replace(service, engine=engine, distribution=distribution)
        )
        found.setdefault((service.namespace, service.host), made[key])
    parts_of: dict[ServiceKey, EntryParts] = {}
    for entry in documents.entries:
        for host in entry.hosts:
            place = (entry.meta.namespace, host)
            known = parts_of.get(place, ())
            if place in found or (known and not _can_merge(known[0][0], entry)):
                continue
            engine = _engine(workloads, entry.meta.namespace, entry.workload_selector)
            distribution = entry.distribution or near.get(entry.meta.namespace, "")
            key = ((entry, distribution), host, engine)
            made[key] = previous.made.get(key) or _of_entry(entry, host, engine, distribution)
            parts_of[place] = (*known, (entry, made[key]))
    for place, parts in parts_of.items():
        alone = tuple(service for _, service in parts)
        key = (alone, place[1], "")
        made[key] = previous.made.get(key) or _merged(alone)
        found[place] = made[key]
    _resolve_aliases(found, made, previous)
    if addressed:
        _give_addresses(found, made, previous)
    by_host: dict[str, list[Service]] = {}
    for service in sorted(found.values(), key=lambda item: item.meta.age()):
        by_host.setdefault(service.host, []).append(service)
    tuples = {host: tuple(by_host[host]) for host in sorted(by_host)}
    return ServiceTable({host: _same(previous.by_host.get(host), new) for host, new in tuples.items()}, parts_of, made)


def _resolve_aliases(
    found: dict[ServiceKey, Service], made: dict[tuple[object, str, str], Service], previous: ServiceTable
) -> None:
    """Services of type ExternalName that stand for a host of the mesh, maybe through others, become names of that
    (Istio's rule); a loop stays what it is."""
    names = {service.host: service.external_name.lower() for service in found.values() if service.external_name}
    if not names:
        return
    hosts = {service.host for service in found.values()} - set(names)
    aliases: dict[str, list[str]] = {}
    for alias in sorted(names):
        seen, host = {alias}, names[alias]
        while host in names and host not in seen:
            seen.add(host)
            host = names[host]
        if host in hosts:
            aliases.setdefault(host, []).append(alias)
    for place, service in list(found.items()):
        if service.host in aliases:
            known = tuple(aliases[service.host])
            key = ((service, known), place[1], "")
            made[key] = previous.made.get(key) or replace(service, aliases=known)
            found[place] = made[key]
    gone = {alias for known in aliases.values() for alias in known}
    for place in [place for place, service in found.items() if service.host in gone and service.external_name]:
        del found[place]


def _give_addresses(
    found: dict[ServiceKey, Service], made: dict[tuple[object, str, str], Service], previous: ServiceTable
) -> None:
    """Replace services without an address by themselves with one."""
    given = virtual_addresses(sorted(found.values(), key=lambda item: item.meta.age()))
    for place, addresses in given.items():
        key = ((found[place], addresses), place[1], "")
        made[key] = previous.made.get(key) or replace(found[place], addresses=addresses)
        found[place] = made[key]


def _can_merge(one: ServiceEntry, other: ServiceEntry) -> bool:
    """Whether two ServiceEntries for one host make one service (Istio's rule); else the oldest has the host."""
    return (one.resolution, one.workload_selector, one.export_to, one.meta.labels) == (
        other.resolution,
        other.workload_selector,
        other.export_to,
        other.meta.labels,
    )


def _merged(services: tuple[Service, ...]) -> Service:
    """The oldest service with what the others add: ports by number, addresses, names."""
    first = services[0]
    if len(services) == 1:
        return first
    ports: dict[int, ServicePort] = {}
    for service in services:
        for port in service.ports:
            ports.setdefault(port.number, port)
    return replace(
        first,
        ports=tuple(ports.values()),
        addresses=tuple(dict.fromkeys(address for service in services for address in service.addresses)),
        subject_alt_names=tuple(dict.fromkeys(name for service in services for name in service.subject_alt_names)),
    )


def _same(old: tuple[Service, ...] | None, new: tuple[Service, ...]) -> tuple[Service, ...]:
    return old if old is not None and old == new else new


def _engine(workloads: LabelIndex, namespace: str, selector: Labels | None) -> str:
    """The engine of the oldest Workload behind a selector that names one."""
    for workload in workloads.find(namespace, selector or {}):
        if isinstance(workload, Workload) and workload.engine is not None:
            return workload.engine.value
    return ""


def _of_entry(entry: ServiceEntry, host: str, engine: str, distribution: str) -> Service:
    return Service(
        meta=entry.meta,
        host=host,
        namespace=entry.meta.namespace,
        ports=entry.ports,
        addresses=entry.addresses,
        resolution=entry.resolution,
        external=entry.external,
        selector=entry.workload_selector,
        export_to=entry.export_to,
        subject_alt_names=entry.subject_alt_names,
        engine=engine,
        kubernetes=False,
        distribution=distribution,
    )
