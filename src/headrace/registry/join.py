"""The join of declared services and what stands behind them, kept up to date by what changed.

Called by `registry.build`. `Declared` depends on documents only; `Observed` adds replicas. A change of one replica
touches the services that select it and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from headrace.model.identity import Identity
from headrace.model.kube import Namespace
from headrace.model.mesh import MeshConfig
from headrace.model.resource import Labels, selects
from headrace.model.service import DeclaredEndpoints, Endpoint, Service
from headrace.model.workload import StaticWorkload, Workload
from headrace.registry.documents import Documents
from headrace.registry.endpoints import (
    PolicyCache,
    declared_endpoints,
    inline_endpoints,
    replica_endpoints,
    static_endpoints,
    static_identity,
)
from headrace.registry.observed import ObservedReplica
from headrace.registry.services import LabelIndex, ServiceKey, ServiceTable, build_services
from headrace.registry.snapshot import Endpoints

T = TypeVar("T")
Accounts = tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Declared:
    """What the documents alone say of services: `fixed` endpoints and `accounts` by service, and the services that
    select workloads, by one label of their selector (`selecting`)."""

    basis: tuple[object, ...]
    table: ServiceTable
    policies: PolicyCache
    fixed: Mapping[ServiceKey, Endpoints]
    accounts: Mapping[ServiceKey, Accounts]
    selecting: Mapping[tuple[str, str, str], tuple[Service, ...]]

    def services_selecting(self, namespace: str, labels: Labels) -> Iterable[Service]:
        """Every service whose selector selects a workload with these labels."""
        for name, value in labels.items():
            for service in self.selecting.get((namespace, name, value), ()):
                if selects(service.selector or {}, labels):
                    yield service


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """Documents and replicas together. `members` are the replicas that each service selects, by id."""

    documents: Documents
    declared: Declared
    observed: Mapping[str, ObservedReplica]
    members: Mapping[ServiceKey, Mapping[str, ObservedReplica]] = field(default_factory=dict)
    endpoints: Mapping[ServiceKey, Endpoints] = field(default_factory=dict)
    accounts: Mapping[ServiceKey, Accounts] = field(default_factory=dict)


def declare(documents: Documents, mesh: MeshConfig, previous: Declared | None, *, addressed: bool = False) -> Declared:
    """The declared half; `previous` itself where none of the documents that it depends on changed. `addressed`:
    services without an address get one."""
    basis = (
        mesh,
        documents.services,
        documents.entries,
        documents.workloads,
        documents.static_workloads,
        documents.declared_endpoints,
        documents.of(Namespace),
        documents.peer_authentications,
        addressed,
    )
    if previous is not None and all(one is other for one, other in zip(basis, previous.basis, strict=True)):
        return previous
    table = build_services(documents, previous.table if previous else ServiceTable(), addressed=addressed)
    policies = PolicyCache(mesh, documents.peer_authentications)
    statics, workloads = LabelIndex(), LabelIndex()
    for static in documents.static_workloads:
        statics.add(static.meta.namespace, static.labels, static)
    for workload in documents.workloads:
        workloads.add(workload.meta.namespace, workload.labels or {}, workload)
    by_name: dict[ServiceKey, list[DeclaredEndpoints]] = {}
    for document in documents.declared_endpoints:
        by_name.setdefault((document.meta.namespace, document.service), []).append(document)
    fixed: dict[ServiceKey, Endpoints] = {}
    accounts: dict[ServiceKey, Accounts] = {}
    selecting: dict[tuple[str, str, str], list[Service]] = {}
    for service in table.all():
        key = (service.namespace, service.host)
        behind = statics.find(service.namespace, service.selector or {})
        found = _fixed_endpoints(service, behind, table, by_name, policies, mesh)
        fixed[key] = found
        names = {endpoint.identity for endpoint in found}
        names |= {static_identity(item, mesh) for item in behind if isinstance(item, StaticWorkload)}
        names |= _workload_accounts(workloads.find(service.namespace, service.selector or {}), mesh)
        names |= {name for name in service.subject_alt_names if "://" in name}
        accounts[key] = _with_aliases(names, mesh)
        if service.selector:
            label = min(service.selector.items())
            selecting.setdefault((service.namespace, *label), []).append(service)
    frozen = {label: tuple(services) for label, services in selecting.items()}
    return Declared(basis, table, policies, fixed, accounts, frozen)


def _fixed_endpoints(
    service: Service,
    behind: list[object],
    table: ServiceTable,
    by_name: Mapping[ServiceKey, list[DeclaredEndpoints]],
    policies: PolicyCache,
    mesh: MeshConfig,
) -> Endpoints:
    found: set[Endpoint] = set()
    for item in behind:
        if isinstance(item, StaticWorkload):
            found.update(static_endpoints(service, item, policies, mesh))
    parts = table.parts_of.get((service.namespace, service.host), ())
    if service.external_name:
        found.update(Endpoint(service.external_name, port.target or port.number, port.number) for port in service.ports)
    elif parts:
        for entry, part in parts:
            found.update(inline_endpoints(part, entry, mesh))
    else:
        known = {endpoint.address for endpoint in found}
        for document in by_name.get((service.namespace, service.name), ()):
            written = declared_endpoints(service, document)
            found.update(endpoint for endpoint in written if endpoint.address not in known)
    return tuple(sorted(found))


def _workload_accounts(workloads: list[object], mesh: MeshConfig) -> set[str]:
    return {
        Identity(mesh.trust_domain, item.meta.namespace, item.service_account).uri
        for item in workloads
        if isinstance(item, Workload)
    }


def _with_aliases(names: Iterable[str], mesh: MeshConfig) -> Accounts:
    """The names, and each again under the mesh's other trust domains (MeshConfig.trustDomainAliases), sorted."""
    own = f"spiffe://{mesh.trust_domain}/"
    known = {name for name in names if name}
    for alias in mesh.trust_domain_aliases:
        known |= {f"spiffe://{alias}/{name.removeprefix(own)}" for name in known if name.startswith(own)}
    return tuple(sorted(known))


def join(
    documents: Documents,
    mesh: MeshConfig,
    observed: Mapping[str, ObservedReplica],
    previous: Joined | None,
    *,
    addressed: bool = False,
) -> Joined:
    """Documents and replicas joined; whatever is equal to the previous join is the same object."""
    declared = declare(documents, mesh, previous.declared if previous else None, addressed=addressed)
    if previous is not None and declared is previous.declared:
        members, touched = _update_members(declared, observed, previous)
        if not touched:
            return Joined(documents, declared, observed, members, previous.endpoints, previous.accounts)
        keys: Iterable[ServiceKey] = touched
        endpoints, accounts = dict(previous.endpoints), dict(previous.accounts)
    else:
        members = _all_members(declared, observed)
        keys = declared.fixed
        endpoints, accounts = {}, {}
    services = {(service.namespace, service.host): service for service in declared.table.all()}
    for key in keys:
        group = members.get(key, {})
        endpoints[key] = _endpoints_of(services[key], group, declared)
        names = {replica.identity for replica in group.values()}
        accounts[key] = tuple(sorted(set(declared.accounts[key]) | names)) if names else declared.accounts[key]
    old_endpoints = previous.endpoints if previous else {}
    old_accounts = previous.accounts if previous else {}
    return Joined(documents, declared, observed, members, keep(old_endpoints, endpoints), keep(old_accounts, accounts))


def keep(
    old: Mapping[ServiceKey, tuple[T, ...]], new: dict[ServiceKey, tuple[T, ...]]
) -> Mapping[ServiceKey, tuple[T, ...]]:
    """`new` with the equal values of `old`, or `old` itself where all are equal."""
    same = len(old) == len(new)
    for key, value in new.items():
        before = old.get(key)
        if before is value:
            continue
        if before is not None and before == value:
            new[key] = before
        else:
            same = False
    return old if same else new


def _endpoints_of(service: Service, group: Mapping[str, ObservedReplica], declared: Declared) -> Endpoints:
    fixed = declared.fixed[(service.namespace, service.host)]
    if not group:
        return fixed
    found = set(fixed)
    for replica in group.values():
        found.update(replica_endpoints(service, replica, declared.policies))
    return tuple(sorted(found))


def _all_members(
    declared: Declared, observed: Mapping[str, ObservedReplica]
) -> Mapping[ServiceKey, Mapping[str, ObservedReplica]]:
    members: dict[ServiceKey, dict[str, ObservedReplica]] = {}
    for name, replica in observed.items():
        for service in declared.services_selecting(replica.namespace, dict(replica.labels)):
            members.setdefault((service.namespace, service.host), {})[name] = replica
    return members


def _update_members(
    declared: Declared, observed: Mapping[str, ObservedReplica], previous: Joined
) -> tuple[Mapping[ServiceKey, Mapping[str, ObservedReplica]], set[ServiceKey]]:
    """The members after the changes since `previous`, and the services whose members changed."""
    before = previous.observed
    if observed is before:
        return previous.members, set()
    members = dict(previous.members)
    touched: set[ServiceKey] = set()
    for name, old in before.items():
        new = observed.get(name)
        if new is old or new == old:
            continue
        for service in declared.services_selecting(old.namespace, dict(old.labels)):
            key = (service.namespace, service.host)
            members[key] = {other: replica for other, replica in members.get(key, {}).items() if other != name}
            touched.add(key)
    for name, new in observed.items():
        known = before.get(name)
        if new is known or new == known:
            continue
        for service in declared.services_selecting(new.namespace, dict(new.labels)):
            key = (service.namespace, service.host)
            members[key] = {**members.get(key, {}), name: new}
            touched.add(key)
    return members, touched
