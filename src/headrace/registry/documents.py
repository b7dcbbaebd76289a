"""Resources of one revision by kind, oldest first, with the same tuple as before where nothing of a kind changed.

Called by `registry.build` and by what converts documents (`gateway_api`, `ingress`). Sorting thousands of documents for
every change of one would cost more than the change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Protocol, TypeVar, cast

from headrace.model.authorization import AuthorizationPolicy
from headrace.model.destination import DestinationRule
from headrace.model.gateway import Gateway
from headrace.model.inference import InferencePolicy
from headrace.model.mesh import MeshConfig
from headrace.model.request_authentication import RequestAuthentication
from headrace.model.resource import Metadata, ResourceKey
from headrace.model.security import PeerAuthentication, Secret
from headrace.model.service import DeclaredEndpoints, Service, ServiceEntry
from headrace.model.sidecar import Sidecar
from headrace.model.traffic import VirtualService
from headrace.model.workload import StaticWorkload, Workload


class HasMeta(Protocol):
    """Every resource."""

    @property
    def meta(self) -> Metadata: ...


class Revision(Protocol):
    """The part of `config.store.ConfigRevision` that the registry reads."""

    @property
    def resources(self) -> Mapping[ResourceKey, object]: ...

    @property
    def mesh(self) -> MeshConfig: ...


T = TypeVar("T", bound=HasMeta)
Made = TypeVar("Made", Gateway, VirtualService, DestinationRule)
"""What other documents are converted to."""


@dataclass(frozen=True, slots=True, eq=False)
class Documents:
    """Resources by type: as they came (`raw`, to see changes) and oldest first (`sorted`)."""

    raw: Mapping[type, tuple[object, ...]] = field(default_factory=dict)
    sorted: Mapping[type, tuple[object, ...]] = field(default_factory=dict)

    def of(self, kind: type[T]) -> tuple[T, ...]:
        """All resources of one type, oldest first."""
        return cast("tuple[T, ...]", self.sorted.get(kind, ()))

    @property
    def services(self) -> tuple[Service, ...]:
        return self.of(Service)

    @property
    def entries(self) -> tuple[ServiceEntry, ...]:
        return self.of(ServiceEntry)

    @property
    def workloads(self) -> tuple[Workload, ...]:
        return self.of(Workload)

    @property
    def static_workloads(self) -> tuple[StaticWorkload, ...]:
        return self.of(StaticWorkload)

    @property
    def declared_endpoints(self) -> tuple[DeclaredEndpoints, ...]:
        return self.of(DeclaredEndpoints)

    @property
    def virtual_services(self) -> tuple[VirtualService, ...]:
        return self.of(VirtualService)

    @property
    def destination_rules(self) -> tuple[DestinationRule, ...]:
        return self.of(DestinationRule)

    @property
    def gateways(self) -> tuple[Gateway, ...]:
        return self.of(Gateway)

    @property
    def peer_authentications(self) -> tuple[PeerAuthentication, ...]:
        return self.of(PeerAuthentication)

    @property
    def inference_policies(self) -> tuple[InferencePolicy, ...]:
        return self.of(InferencePolicy)

    @property
    def authorization_policies(self) -> tuple[AuthorizationPolicy, ...]:
        return self.of(AuthorizationPolicy)

    @property
    def request_authentications(self) -> tuple[RequestAuthentication, ...]:
        return self.of(RequestAuthentication)

    @property
    def sidecars(self) -> tuple[Sidecar, ...]:
        return self.of(Sidecar)

    @property
    def secrets(self) -> tuple[Secret, ...]:
        return self.of(Secret)


def group(resources: Mapping[ResourceKey, object], previous: Documents) -> Documents:
    """The resources by type; tuples of `previous` are kept where they hold the same objects."""
    found: dict[type, list[object]] = {}
    for resource in resources.values():
        found.setdefault(type(resource), []).append(resource)
    raw: dict[type, tuple[object, ...]] = {}
    ordered: dict[type, tuple[object, ...]] = {}
    for kind, items in found.items():
        old = previous.raw.get(kind, ())
        if len(old) == len(items) and all(one is other for one, other in zip(old, items, strict=True)):
            raw[kind], ordered[kind] = old, previous.sorted[kind]
        else:
            raw[kind] = tuple(items)
            aged = tuple(sorted(items, key=_age))
            same = aged == previous.sorted.get(kind)
            ordered[kind] = previous.sorted[kind] if same else aged
    return Documents(raw, ordered)


def _age(resource: object) -> tuple[str, str, str]:
    return cast("HasMeta", resource).meta.age()


def kept(made: Iterable[Made], before: tuple[Made, ...]) -> tuple[Made, ...]:
    """What was made of other documents, oldest first; whatever equals what was made before is that object."""
    known = {item.meta.key: item for item in before}
    found = []
    for item in made:
        old = known.get(item.meta.key)
        found.append(old if old is not None and _equal(old, item) else item)
    ordered = tuple(sorted(found, key=lambda item: item.meta.age()))
    return before if ordered == before else ordered


def _equal(one: Made, other: Made) -> bool:
    return one is other or all(getattr(one, item.name) == getattr(other, item.name) for item in fields(one))
