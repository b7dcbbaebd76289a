"""What Gateway API documents can refer to: one pass over a revision's documents, and who may refer across namespaces.

Built by `convert` for each conversion; nothing here decides what a document means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from headrace.model.gateway_api import (
    BUILTIN_CLASSES,
    CONTROLLER,
    REMOTE_CONTROLLER,
    ROUTES,
    ApiGateway,
    GatewayClass,
    LabelSelector,
    ListenerSet,
    ReferenceGrant,
    Route,
)
from headrace.model.inference import POOL_GROUP
from headrace.model.kube import ConfigMap, Namespace
from headrace.model.policy import GATEWAY_GROUP
from headrace.model.resource import Labels
from headrace.model.security import Secret
from headrace.model.service import Service, ServiceEntry
from headrace.registry.documents import Documents

NAMESPACE_NAME = "kubernetes.io/metadata.name"
"""The label with its name that every namespace has."""
Place = tuple[str, str]
"""Namespace and name."""

_FROM = frozenset({"Gateway", "ListenerSet", *ROUTES})
_TO = frozenset({("", "ConfigMap"), ("", "Secret"), ("", "Service"), (POOL_GROUP, "InferencePool")})


@dataclass(frozen=True, slots=True)
class World:
    """The documents by name. `hosts`: everything that can be called, by namespace and host."""

    services: Mapping[Place, Service] = field(default_factory=dict)
    pools: Mapping[Place, Service] = field(default_factory=dict)
    entries: Mapping[Place, ServiceEntry] = field(default_factory=dict)
    hosts: Mapping[Place, Service | ServiceEntry] = field(default_factory=dict)
    secrets: Mapping[Place, Secret] = field(default_factory=dict)
    config_maps: Mapping[Place, ConfigMap] = field(default_factory=dict)
    namespaces: Mapping[str, Labels] = field(default_factory=dict)
    classes: Mapping[str, str] = field(default_factory=dict)
    grants: Mapping[tuple[str, str, str, str, str], frozenset[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, documents: Documents) -> World:
        services = {(item.meta.namespace, item.meta.name): item for item in documents.services if not item.pool}
        pools = {(item.meta.namespace, item.meta.name): item for item in documents.services if item.pool}
        entries = {(item.meta.namespace, item.meta.name): item for item in reversed(documents.entries)}
        hosts: dict[Place, Service | ServiceEntry] = {
            (item.meta.namespace, host): item for item in reversed(documents.entries) for host in item.hosts
        }
        hosts |= {(item.namespace, item.host): item for item in documents.services}
        return cls(
            services=services,
            pools=pools,
            entries=entries,
            hosts=hosts,
            secrets={(item.meta.namespace, item.meta.name): item for item in documents.secrets},
            config_maps={(item.meta.namespace, item.meta.name): item for item in documents.of(ConfigMap)},
            namespaces=_namespaces(documents),
            classes=_classes(documents.of(GatewayClass)),
            grants=_grants(documents.of(ReferenceGrant)),
        )

    @property
    def destinations(self) -> tuple[object, ...]:
        """All that decides where a backend leads: equal, and every route leads where it did."""
        pools = {place: (pool.host, pool.ports[0].number) for place, pool in self.pools.items()}
        entries = {place: entry.hosts for place, entry in self.entries.items()}
        return (self.services.keys(), pools, entries, self.hosts.keys(), self.grants)

    def allowed(self, source: tuple[str, str], target: tuple[str, str, str], name: str) -> bool:
        """Whether a document (`source`: kind and namespace) may refer to `target` (group, kind, namespace)."""
        if source[1] == target[2]:
            return True
        names = self.grants.get((*source, *target), frozenset())
        return name in names or "" in names

    def selected(self, selector: LabelSelector | None) -> list[str]:
        """The namespaces that a selector selects, sorted (none written: every one)."""
        if selector is None:
            return ["*"]
        return sorted(name for name, labels in self.namespaces.items() if selector.matches(labels))

    def has_port(self, place: Place, port: int) -> bool:
        """Whether the host of a namespace has the port."""
        found = self.hosts.get(place)
        return found is not None and any(item.number == port for item in found.ports)

    def controller(self, name: str) -> str:
        """The controller of a class: '' where it is not ours."""
        return self.classes.get(name, "")


def _namespaces(documents: Documents) -> dict[str, Labels]:
    """Labels of the namespaces that have a document or are one."""
    found: dict[str, Labels] = {}
    owners: Iterable[object] = (*documents.of(ApiGateway), *documents.of(ListenerSet), *documents.of(Route))
    for item in owners:
        namespace = item.meta.namespace  # type: ignore[attr-defined]
        found[namespace] = {NAMESPACE_NAME: namespace}
    for item in documents.of(Namespace):
        found[item.meta.name] = {**item.meta.labels, NAMESPACE_NAME: item.meta.name}
    return found


def _classes(documents: Iterable[GatewayClass]) -> dict[str, str]:
    """Controllers by class; a document for another controller takes even a built-in name away."""
    found = dict(BUILTIN_CLASSES) | {item.meta.name: item.controller for item in documents}
    return {name: owner for name, owner in found.items() if owner in (CONTROLLER, REMOTE_CONTROLLER)}


def _grants(documents: Iterable[ReferenceGrant]) -> dict[tuple[str, str, str, str, str], frozenset[str]]:
    found: dict[tuple[str, str, str, str, str], frozenset[str]] = {}
    for grant in documents:
        for group, kind, namespace in grant.sources:
            if group != GATEWAY_GROUP or kind not in _FROM:
                continue
            for to_group, to_kind, name in grant.targets:
                if (to_group, to_kind) in _TO:
                    key = (kind, namespace, to_group, to_kind, grant.meta.namespace)
                    found[key] = found.get(key, frozenset()) | {name}
    return found
