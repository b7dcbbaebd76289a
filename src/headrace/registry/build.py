"""Declared configuration and observed replicas become one immutable snapshot of the mesh.

Called by the control plane (`app`) after every change, and offline by `headrace translate`. Pure; what did not change
is the previous snapshot's object.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

from headrace.model.delegation import with_delegates
from headrace.model.envoy_filter import EnvoyFilter
from headrace.model.extension import Extension
from headrace.model.gateway import Gateway
from headrace.model.proxy_config import ProxyConfig
from headrace.model.resource import Labels, ResourceKey
from headrace.model.security import Secret
from headrace.model.telemetry import Telemetry
from headrace.model.traffic import VirtualService
from headrace.registry.bundles import named_bundles
from headrace.registry.documents import Documents, HasMeta, Revision, group
from headrace.registry.gateway_api import NOTHING, Converted, convert
from headrace.registry.ingress import NO_INGRESS, Opened, open_ingresses
from headrace.registry.join import Joined, join
from headrace.registry.observed import ObservedReplica
from headrace.registry.snapshot import MeshSnapshot

T = TypeVar("T", bound=HasMeta)


@dataclass(frozen=True, slots=True, eq=False)
class Declared:
    """What documents alone say: by kind, those of the Gateway API and the Ingresses converted to Istio's, and all
    Gateways."""

    documents: Documents
    converted: Converted
    opened: Opened
    gateways: tuple[Gateway, ...]

    @property
    def made_services(self) -> tuple[VirtualService, ...]:
        """The VirtualServices that no document of theirs declares."""
        return self.converted.virtual_services + self.opened.virtual_services


def declare(revision: Revision, previous: Declared | None = None) -> Declared:
    """The documents of a revision; what did not change is the object of `previous`."""
    documents = group(revision.resources, previous.documents if previous else Documents())
    converted = convert(documents, previous.converted if previous else NOTHING)
    opened = open_ingresses(documents, revision.mesh, previous.opened if previous else NO_INGRESS)
    made = converted.gateways + opened.gateways
    gateways = aged(documents.gateways, made, previous.gateways if previous else ())
    return Declared(documents, converted, opened, gateways)


def aged(written: tuple[T, ...], made: tuple[T, ...], previous: tuple[T, ...]) -> tuple[T, ...]:
    """Documents as written and as made of others, oldest first together; `previous` where that is the same."""
    if not made:
        return written
    found = tuple(sorted((*written, *made), key=lambda item: item.meta.age()))
    return previous if found == previous else found


@dataclass(frozen=True, slots=True, eq=False)
class _Basis:
    """What the next snapshot starts from."""

    joined: Joined
    declared: Declared


def build_snapshot(
    revision: Revision,
    observed: Mapping[str, ObservedReplica],
    previous: MeshSnapshot | None = None,
    *,
    addressed: bool = False,
) -> MeshSnapshot:
    """The mesh that `revision` declares and the agents observed; equal parts are the objects of `previous`.
    `addressed`: services that declare no address get one, for replicas that find them by name."""
    last = cast("_Basis | None", previous.basis) if previous is not None else None
    declared = declare(revision, last.declared if last else None)
    documents, converted = declared.documents, declared.converted
    joined = join(documents, revision.mesh, observed, last.joined if last else None, addressed=addressed)
    services = joined.declared.table.by_host
    secrets = {(secret.meta.namespace, secret.meta.name): secret for secret in documents.secrets}
    namespaces = _namespaces(revision.resources)
    before = previous.credentials if previous is not None else {}
    credentials = {**named_bundles(documents, before), **converted.credentials}
    if previous is not None:
        credentials = cast("dict[str, Secret]", before) if credentials == before else credentials
        services = previous.services if services == previous.services else services
        secrets = cast("dict[tuple[str, str], Secret]", previous.secrets) if secrets == previous.secrets else secrets
        namespaces = cast("dict[str, Labels]", previous.namespaces) if namespaces == previous.namespaces else namespaces
    return MeshSnapshot(
        mesh=revision.mesh,
        services=services,
        endpoints=joined.endpoints,
        virtual_services=aged(
            with_delegates(
                documents.virtual_services,
                revision.mesh.default_virtual_service_export_to,
                previous.virtual_services if previous is not None else (),
            ),
            declared.made_services,
            previous.virtual_services if previous is not None else (),
        ),
        destination_rules=aged(
            documents.destination_rules,
            converted.destination_rules,
            previous.destination_rules if previous is not None else (),
        ),
        gateways=declared.gateways,
        peer_authentications=documents.peer_authentications,
        secrets=secrets,
        credentials=credentials,
        statuses=converted.statuses,
        workloads=documents.workloads,
        static_workloads=documents.static_workloads,
        namespaces=namespaces,
        accounts=joined.accounts,
        inference_policies=documents.inference_policies,
        authorization_policies=documents.authorization_policies,
        request_authentications=documents.request_authentications,
        envoy_filters=documents.of(EnvoyFilter),
        extensions=documents.of(Extension),
        telemetries=documents.of(Telemetry),
        proxy_configs=documents.of(ProxyConfig),
        sidecars=documents.sidecars,
        basis=_Basis(joined, declared),
    )


def _namespaces(resources: Mapping[ResourceKey, object]) -> dict[str, Labels]:
    """Labels of the Namespace documents by name."""
    return {key.name: cast("HasMeta", item).meta.labels for key, item in resources.items() if key.kind == "Namespace"}
