"""Workloads that documents describe without an address (a Deployment, a Workload that is not running): where requests
will go once they run.

Called by `walk` where a cluster has no endpoint. The address is nobody's; ports, labels and proxies are as described.
"""

from __future__ import annotations

from collections.abc import Iterator

from headrace.app.trace.places import NOBODYS_ADDRESS
from headrace.envoy.trace.destinations import Endpoint, Place
from headrace.envoy.visibility import MeshIndex, RuleMerger
from headrace.model.resource import Labels, selects
from headrace.model.service import Service, ServicePort
from headrace.model.workload import StaticWorkload, Workload
from headrace.registry.inbound import static_ports, target_ports
from headrace.registry.snapshot import MeshSnapshot

EXPECTED = "EXPECTED"
"""Health of an endpoint that does not run yet."""


def expected(snapshot: MeshSnapshot, place: Place, namespace: str, labels: Labels) -> list[Endpoint]:
    """The endpoints that a cluster (`outbound|PORT|SUBSET|HOST`) of a caller will have, one for each workload."""
    parts = place.name.split("|")
    if len(parts) != 4 or not parts[1].isdigit():
        return []
    port, subset, host = int(parts[1]), parts[2], parts[3]
    found: list[Endpoint] = []
    for service in snapshot.services.get(host, ()):
        own = next((item for item in service.ports if item.number == port), None)
        if own is None or not service.selector:
            continue
        wanted = _subset_labels(snapshot, service, subset, (namespace, labels))
        if wanted is not None:
            found += _selected(snapshot, service, own, wanted, place)
    return found


def _subset_labels(
    snapshot: MeshSnapshot, service: Service, subset: str, caller: tuple[str, Labels]
) -> dict[str, str] | None:
    """The labels of a subset as the caller's DestinationRule has them; None where it has no such subset."""
    if not subset:
        return {}
    rule = MeshIndex(snapshot, RuleMerger()).rule_for(service, *caller)
    for item in rule.subsets if rule is not None else ():
        if item.name == subset:
            return dict(item.labels)
    return None


def _selected(
    snapshot: MeshSnapshot, service: Service, port: ServicePort, wanted: dict[str, str], place: Place
) -> Iterator[Endpoint]:
    every: list[Workload | StaticWorkload] = [*snapshot.workloads, *snapshot.static_workloads]
    for item in every:
        labels = item.labels or {}
        fits = item.meta.namespace == service.namespace and selects(service.selector or {}, labels)
        if not fits or not selects(wanted, labels):
            continue
        running = isinstance(item, Workload)
        ports = target_ports(port, item.ports) if isinstance(item, Workload) else static_ports(port, item)
        wrap = place.mesh_wrap if running or (isinstance(item, StaticWorkload) and item.proxied) else place.wrap
        name = f"{item.meta.name};{item.meta.namespace}"
        yield Endpoint(NOBODYS_ADDRESS, ports[0] if ports else port.number, EXPECTED, 0, 1, name, wrap)
