"""Which patches concern one side of a proxy, by what they change, and with their messages read.

Called by `patch`. A `Chosen` is made once for a scope and a side and used for all of its resources.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import extension_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2

from headrace.model.envoy_filter import ApplyTo, Operation, Patch, PatchContext

_KINDS: dict[ApplyTo, Any] = {
    ApplyTo.LISTENER: listener_pb2.Listener,
    ApplyTo.FILTER_CHAIN: listener_components_pb2.FilterChain,
    ApplyTo.NETWORK_FILTER: listener_components_pb2.Filter,
    ApplyTo.LISTENER_FILTER: listener_components_pb2.ListenerFilter,
    ApplyTo.HTTP_FILTER: hcm_pb2.HttpFilter,
    ApplyTo.ROUTE_CONFIGURATION: route_pb2.RouteConfiguration,
    ApplyTo.VIRTUAL_HOST: route_components_pb2.VirtualHost,
    ApplyTo.HTTP_ROUTE: route_components_pb2.Route,
    ApplyTo.CLUSTER: cluster_pb2.Cluster,
    ApplyTo.EXTENSION_CONFIG: extension_pb2.TypedExtensionConfig,
}
_INSERTABLE = (ApplyTo.HTTP_FILTER, ApplyTo.NETWORK_FILTER, ApplyTo.HTTP_ROUTE, ApplyTo.LISTENER_FILTER)
_INSERTIONS = (Operation.INSERT_AFTER, Operation.INSERT_BEFORE, Operation.INSERT_FIRST)
LISTENER_PARTS = (
    ApplyTo.LISTENER,
    ApplyTo.LISTENER_FILTER,
    ApplyTo.FILTER_CHAIN,
    ApplyTo.NETWORK_FILTER,
    ApplyTo.HTTP_FILTER,
)
ROUTE_PARTS = (ApplyTo.ROUTE_CONFIGURATION, ApplyTo.VIRTUAL_HOST, ApplyTo.HTTP_ROUTE)


@dataclass(frozen=True, slots=True)
class Read:
    """A patch and its message (an empty one where none was written)."""

    patch: Patch
    value: Any

    @property
    def operation(self) -> Operation:
        """What it does; an insertion where nothing has an order adds (Istio's rule)."""
        if self.patch.operation in _INSERTIONS and self.patch.apply_to not in _INSERTABLE:
            return Operation.ADD
        return self.patch.operation


@lru_cache(maxsize=4096)
def _read(patch: Patch) -> Read:
    return Read(patch, _KINDS[patch.apply_to].FromString(patch.value))


@dataclass(frozen=True, slots=True)
class Chosen:
    """The patches for one side (`context`) of a proxy, in order. Compared by the patches themselves."""

    context: PatchContext
    patches: tuple[Patch, ...]

    def of(self, kind: ApplyTo) -> list[Read]:
        """Those of one kind of object."""
        return [_read(patch) for patch in self.patches if patch.apply_to is kind]

    def any_of(self, kinds: Iterable[ApplyTo]) -> bool:
        """Whether some are of one of these kinds."""
        wanted = tuple(kinds)
        return any(patch.apply_to in wanted for patch in self.patches)

    @property
    def adds_for_any(self) -> bool:
        """Whether what is added without a context is added on this side (once for a proxy: not for what it takes)."""
        return self.context in (PatchContext.SIDECAR_OUTBOUND, PatchContext.GATEWAY)

    def added(self, kind: ApplyTo) -> list[Any]:
        """Messages of whole objects that are added on this side."""
        return [
            item.value
            for item in self.of(kind)
            if item.operation is Operation.ADD and (item.patch.context is not PatchContext.ANY or self.adds_for_any)
        ]


def choose(patches: Iterable[Patch], context: PatchContext) -> Chosen:
    """Those of the patches that are for one side."""
    return Chosen(context, tuple(patch for patch in patches if patch.context in (context, PatchContext.ANY)))
