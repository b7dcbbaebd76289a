"""Declared configuration and observed replicas become one immutable snapshot of the mesh.

Called by the control plane (`app`) after every change, and offline by `headrace translate`. Pure; what did not change
is the previous snapshot's object.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from headrace.model.delegation import with_delegates
from headrace.model.envoy_filter import EnvoyFilter
from headrace.model.extension import Extension
from headrace.model.proxy_config import ProxyConfig
from headrace.model.resource import Labels, ResourceKey
from headrace.model.security import Secret
from headrace.model.telemetry import Telemetry
from headrace.registry.documents import Documents, HasMeta, Revision, group
from headrace.registry.join import Joined, join
from headrace.registry.observed import ObservedReplica
from headrace.registry.snapshot import MeshSnapshot


def build_snapshot(
    revision: Revision,
    observed: Mapping[str, ObservedReplica],
    previous: MeshSnapshot | None = None,
    *,
    addressed: bool = False,
) -> MeshSnapshot:
    """The mesh that `revision` declares and the agents observed; equal parts are the objects of `previous`.
    `addressed`: services that declare no address get one, for replicas that find them by name."""
    last = cast("Joined | None", previous.basis) if previous is not None else None
    documents = group(revision.resources, last.documents if last else Documents())
    joined = join(documents, revision.mesh, observed, last, addressed=addressed)
    services = joined.declared.table.by_host
    secrets = {(secret.meta.namespace, secret.meta.name): secret for secret in documents.secrets}
    namespaces = _namespaces(revision.resources)
    if previous is not None:
        services = previous.services if services == previous.services else services
        secrets = cast("dict[tuple[str, str], Secret]", previous.secrets) if secrets == previous.secrets else secrets
        namespaces = cast("dict[str, Labels]", previous.namespaces) if namespaces == previous.namespaces else namespaces
    return MeshSnapshot(
        mesh=revision.mesh,
        services=services,
        endpoints=joined.endpoints,
        virtual_services=with_delegates(
            documents.virtual_services,
            revision.mesh.default_virtual_service_export_to,
            previous.virtual_services if previous is not None else (),
        ),
        destination_rules=documents.destination_rules,
        gateways=documents.gateways,
        peer_authentications=documents.peer_authentications,
        secrets=secrets,
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
        basis=joined,
    )


def _namespaces(resources: Mapping[ResourceKey, object]) -> dict[str, Labels]:
    """Labels of the Namespace documents by name."""
    return {key.name: cast("HasMeta", item).meta.labels for key, item in resources.items() if key.kind == "Namespace"}
