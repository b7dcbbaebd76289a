"""Patches of what Envoy is told (istio.networking.v1alpha3.EnvoyFilter): where each one applies, and what it does.

Made by `config.kinds.envoy_filter`, chosen by `registry.extensions`, applied by `envoy.translate.patch`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from headrace.model.policy import PolicyScope
from headrace.model.resource import Metadata
from headrace.model.traffic import Pairs

ISTIO_VERSION = "1.32.0"
"""What proxies are taken for by `match.proxy.proxyVersion`: the release of Istio whose documents Headrace reads."""


class ApplyTo(StrEnum):
    """EnvoyFilter.ApplyTo: the kind of object that a patch changes."""

    LISTENER = "LISTENER"
    FILTER_CHAIN = "FILTER_CHAIN"
    NETWORK_FILTER = "NETWORK_FILTER"
    HTTP_FILTER = "HTTP_FILTER"
    ROUTE_CONFIGURATION = "ROUTE_CONFIGURATION"
    VIRTUAL_HOST = "VIRTUAL_HOST"
    HTTP_ROUTE = "HTTP_ROUTE"
    CLUSTER = "CLUSTER"
    EXTENSION_CONFIG = "EXTENSION_CONFIG"
    BOOTSTRAP = "BOOTSTRAP"
    LISTENER_FILTER = "LISTENER_FILTER"


class PatchContext(StrEnum):
    """EnvoyFilter.PatchContext: the side of a proxy on which a patch applies."""

    ANY = "ANY"
    SIDECAR_INBOUND = "SIDECAR_INBOUND"
    SIDECAR_OUTBOUND = "SIDECAR_OUTBOUND"
    GATEWAY = "GATEWAY"
    WAYPOINT = "WAYPOINT"


class Operation(StrEnum):
    """EnvoyFilter.Patch.Operation."""

    MERGE = "MERGE"
    ADD = "ADD"
    REMOVE = "REMOVE"
    INSERT_BEFORE = "INSERT_BEFORE"
    INSERT_AFTER = "INSERT_AFTER"
    INSERT_FIRST = "INSERT_FIRST"
    REPLACE = "REPLACE"
    MERGE_AND_REPLACE_LIST = "MERGE_AND_REPLACE_LIST"

    @property
    def merges(self) -> bool:
        """Whether the patch's fields go into an object that is there."""
        return self in (Operation.MERGE, Operation.MERGE_AND_REPLACE_LIST)


@dataclass(frozen=True, slots=True)
class ListenerMatch:
    """EnvoyFilter.ListenerMatch. Empty texts and 0 match everything; `filter` and `sub_filter` None: not written (which
    is not the same where a patch is inserted)."""

    name: str = ""
    port: int = 0
    listener_filter: str = ""
    chain_name: str = ""
    sni: str = ""
    transport_protocol: str = ""
    application_protocols: tuple[str, ...] = ()
    destination_port: int = 0
    filter: str | None = None
    sub_filter: str | None = None


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """EnvoyFilter.RouteConfigurationMatch. `vhost` and `route` say whether these parts of it are written; `action` is
    ANY, ROUTE, REDIRECT or DIRECT_RESPONSE."""

    name: str = ""
    port: int = 0
    port_name: str = ""
    gateway: str = ""
    vhost: bool = False
    vhost_name: str = ""
    vhost_domain: str = ""
    route: bool = False
    route_name: str = ""
    action: str = "ANY"


@dataclass(frozen=True, slots=True)
class ClusterMatch:
    """EnvoyFilter.ClusterMatch; a `name` excludes everything else."""

    name: str = ""
    port: int = 0
    service: str = ""
    subset: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """One of a document's configPatches. `value` is the serialised message that `apply_to` names (empty: none was
    written). `proxy_metadata` must all stand in a proxy's metadata. At most one of the three matches is there."""

    apply_to: ApplyTo
    operation: Operation
    value: bytes
    context: PatchContext = PatchContext.ANY
    proxy_metadata: Pairs = ()
    listener: ListenerMatch | None = None
    route: RouteMatch | None = None
    cluster: ClusterMatch | None = None


@dataclass(frozen=True, slots=True, eq=False)
class EnvoyFilter:
    """An EnvoyFilter; patches in the document's order, without those that can apply to no proxy of this mesh."""

    meta: Metadata
    scope: PolicyScope
    priority: int = 0
    patches: tuple[Patch, ...] = ()
