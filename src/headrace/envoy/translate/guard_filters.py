"""All that guards a workload, in Istio's order, as filters of its listeners.

Called by `inbound_chains` (sidecars) and `gateways`. Order: the authorizers of CUSTOM policies, tokens, then AUDIT,
DENY and ALLOW; a filter is only there if a policy asks for it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from headrace.envoy.guards import Guard
from headrace.envoy.resources import XdsResource
from headrace.envoy.translate.authorization import http_custom_filters, http_filters, network_filters
from headrace.envoy.translate.jwt_authn import jwt_filters, key_resources
from headrace.envoy.translate.memo import Memo
from headrace.envoy.view import ProxyView
from headrace.model.mesh import MeshConfig

_KEPT = 64
"""Guards whose filters are kept: all chains of a workload have the same ones, and are built one after the other."""


def resources(memo: Memo, view: ProxyView) -> tuple[XdsResource, ...]:
    """What the filters need beside themselves: the clusters that fetch keys."""
    guard, mesh = view.inbound.guard, view.scope.mesh
    return memo.get("key servers", (guard, mesh), key_resources, guard, mesh) if guard.rules else ()


@lru_cache(maxsize=_KEPT)
def http_guards(guard: Guard, mesh: MeshConfig, *, gateway: bool = False) -> tuple[Any, ...]:
    """The HTTP filters of a connection manager."""
    if not guard:
        return ()
    tokens = jwt_filters(guard, clear_route_cache=gateway)
    return (*http_custom_filters(guard, mesh), *tokens, *http_filters(guard, mesh))


@lru_cache(maxsize=_KEPT)
def network_guards(guard: Guard, mesh: MeshConfig) -> tuple[Any, ...]:
    """The network filters of a chain that does not look into what it carries."""
    return tuple(network_filters(guard, mesh)) if guard else ()
