"""The mesh at one moment: everything translation may know, immutable.

Made by `registry.build` from a `ConfigRevision` and observed endpoints; read by `envoy.scopes`. Objects that did not
change are the same objects in the next snapshot, so that caches can key on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from headrace.model.authorization import AuthorizationPolicy
from headrace.model.destination import DestinationRule
from headrace.model.envoy_filter import EnvoyFilter
from headrace.model.extension import Extension
from headrace.model.gateway import Gateway
from headrace.model.inference import InferencePolicy
from headrace.model.mesh import MeshConfig
from headrace.model.proxy_config import ProxyConfig
from headrace.model.request_authentication import RequestAuthentication
from headrace.model.resource import Labels, ResourceKey
from headrace.model.security import PeerAuthentication, Secret
from headrace.model.service import Endpoint, Service
from headrace.model.sidecar import Sidecar
from headrace.model.telemetry import Telemetry
from headrace.model.traffic import VirtualService
from headrace.model.workload import StaticWorkload, Workload

Endpoints = tuple[Endpoint, ...]
"""All endpoints of one service host (every port), sorted."""


@dataclass(frozen=True, slots=True, eq=False)
class MeshSnapshot:
    """One consistent state of the mesh.

    `services` by host (the oldest document wins a host within a namespace; several namespaces may each have one, so
    values are tuples ordered oldest first); `endpoints` by (namespace of the service, host). Policies are ordered
    oldest first. `namespaces` maps a namespace's name to its labels. `accounts` are the SPIFFE URIs of the workloads
    behind a service, by (namespace, host) as `endpoints`: from the documents, so that they stay when replicas go.
    `credentials` are the certificates that Gateway API documents may use, by the name that they use, `statuses` those
    of these documents. `basis` is what `registry.build` starts the next snapshot from, and nobody else's business.
    """

    mesh: MeshConfig
    services: Mapping[str, tuple[Service, ...]] = field(default_factory=dict)
    endpoints: Mapping[tuple[str, str], Endpoints] = field(default_factory=dict)
    virtual_services: tuple[VirtualService, ...] = ()
    destination_rules: tuple[DestinationRule, ...] = ()
    gateways: tuple[Gateway, ...] = ()
    peer_authentications: tuple[PeerAuthentication, ...] = ()
    secrets: Mapping[tuple[str, str], Secret] = field(default_factory=dict)
    credentials: Mapping[str, Secret] = field(default_factory=dict)
    statuses: Mapping[ResourceKey, Mapping[str, Any]] = field(default_factory=dict)
    workloads: tuple[Workload, ...] = ()
    static_workloads: tuple[StaticWorkload, ...] = ()
    namespaces: Mapping[str, Labels] = field(default_factory=dict)
    accounts: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    inference_policies: tuple[InferencePolicy, ...] = ()
    authorization_policies: tuple[AuthorizationPolicy, ...] = ()
    request_authentications: tuple[RequestAuthentication, ...] = ()
    envoy_filters: tuple[EnvoyFilter, ...] = ()
    extensions: tuple[Extension, ...] = ()
    telemetries: tuple[Telemetry, ...] = ()
    proxy_configs: tuple[ProxyConfig, ...] = ()
    sidecars: tuple[Sidecar, ...] = ()
    basis: object = field(default=None, repr=False)

    def same_but_endpoints(self, other: MeshSnapshot) -> bool:
        """Whether nothing but `endpoints` differs: the short path of an endpoint change."""
        return all(getattr(self, name) is getattr(other, name) for name in _BUT_ENDPOINTS)


_BUT_ENDPOINTS = tuple(item.name for item in fields(MeshSnapshot) if item.name not in ("endpoints", "basis"))
