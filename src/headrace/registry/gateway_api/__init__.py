"""The Kubernetes Gateway API's documents as Istio's: Gateways, VirtualServices, DestinationRules, and statuses.

`convert` is called by `registry.build` for every revision, so that whatever translates, describes or plans Istio's
documents needs to know nothing of the Gateway API. Semantics and names are Istio's (its package config/kube/gateway):
a listener is a Gateway with one server, routes become VirtualServices by listener and host name.

Files: `world` (what can be referred to), `gateways` and `listeners` (doors), `attachment` and `rules` (routes),
`routes` (VirtualServices), `backends`, `hostnames`, `certificates`, `backend_tls`, `conditions` (statuses).
Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from headrace.model.destination import DestinationRule
from headrace.model.gateway import Gateway
from headrace.model.gateway_api import (
    ApiGateway,
    BackendTlsPolicy,
    GatewayClass,
    ListenerSet,
    ReferenceGrant,
    Route,
)
from headrace.model.kube import ConfigMap, Namespace
from headrace.model.resource import ResourceKey
from headrace.model.security import Secret
from headrace.model.service import Service, ServiceEntry
from headrace.model.traffic import VirtualService
from headrace.registry.documents import Documents, HasMeta, kept
from headrace.registry.gateway_api.backend_tls import originate
from headrace.registry.gateway_api.certificates import References
from headrace.registry.gateway_api.conditions import Status
from headrace.registry.gateway_api.gateways import class_statuses, open_doors
from headrace.registry.gateway_api.routes import Memory, bind
from headrace.registry.gateway_api.world import World

_OWN = (GatewayClass, ApiGateway, ListenerSet, Route, ReferenceGrant, BackendTlsPolicy)
_READ = (*_OWN, Service, ServiceEntry, Secret, ConfigMap, Namespace)

Written = TypeVar("Written", bound=HasMeta)


@dataclass(frozen=True, slots=True, eq=False)
class Converted:
    """What the Gateway API's documents of a revision become, each oldest first. `credentials` are the Secrets and
    ConfigMaps that they may use, by the name that they use. `parts` are the documents that it was made of, `memory`
    what the next conversion starts from."""

    gateways: tuple[Gateway, ...] = ()
    virtual_services: tuple[VirtualService, ...] = ()
    destination_rules: tuple[DestinationRule, ...] = ()
    credentials: Mapping[str, Secret] = field(default_factory=dict)
    statuses: Mapping[ResourceKey, Status] = field(default_factory=dict)
    parts: tuple[tuple[object, ...], ...] = ()
    memory: Memory = field(default_factory=Memory, repr=False)


NOTHING = Converted()


def convert(documents: Documents, previous: Converted = NOTHING) -> Converted:
    """Convert the documents; what comes out as before is the object of before (all of it where no document changed)."""
    if not any(documents.of(kind) for kind in _OWN):
        return NOTHING
    parts: tuple[tuple[object, ...], ...] = tuple(documents.of(kind) for kind in _READ)
    if previous.parts and all(one is other for one, other in zip(parts, previous.parts, strict=True)):
        return previous
    world = World.of(documents)
    references = References(world, previous.credentials)
    doors = open_doors(world, references, _ranked(documents.of(ApiGateway)), _ranked(documents.of(ListenerSet)))
    bound = bind(world, doors, _ranked(documents.of(Route)), previous.memory)
    for key, status in doors.statuses.items():
        counts = bound.attached.get((key.short_kind, key.namespace, key.name), {})
        if "listeners" in status:
            status["listeners"] = [
                {**item, "attachedRoutes": counts.get(item["name"], 0)} for item in status["listeners"]
            ]
    originated = originate(world, references, _ranked(documents.of(BackendTlsPolicy)), bound.behind)
    statuses = dict(class_statuses(documents.of(GatewayClass)))
    statuses |= doors.statuses | bound.statuses | originated.statuses
    credentials = references.found
    return Converted(
        gateways=kept(doors.gateways, previous.gateways),
        virtual_services=kept(bound.virtual_services, previous.virtual_services),
        destination_rules=kept(originated.rules, previous.destination_rules),
        credentials=previous.credentials if credentials == previous.credentials else credentials,
        statuses=statuses,
        parts=parts,
        memory=bound.memory or Memory(),
    )


def _ranked(documents: tuple[Written, ...]) -> list[Written]:
    """The documents by the Gateway API's rule for those that conflict: creation time where it is written, then
    namespace and name. Their place in a file means nothing."""
    return sorted(documents, key=lambda item: (item.meta.origin.created, item.meta.namespace, item.meta.name))
