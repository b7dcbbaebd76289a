"""One proxy's view becomes the resources that it is sent: pure, deterministic, memoised.

`Translator.resources(view)` is the one way in (called by `app`). Parts, one file a concern: clusters, endpoints,
routes (with route_match, route_action, virtual_hosts), outbound listeners; and inbound, gateways, hcm, tls, loopback,
each `resources(memo, view) -> Sequence[XdsResource]`. `patch` applies what EnvoyFilters say to all of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from headrace.envoy.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE, TYPES, Resources, ResourceSet, XdsResource
from headrace.envoy.translate import (
    credentials,
    extensions,
    file_secrets,
    gateways,
    guard_filters,
    inbound,
    loopback,
    outbound,
    own_namespace,
    secrets,
    sni_dnat,
)
from headrace.envoy.translate.assignments import AssignmentKeeper
from headrace.envoy.translate.clusters import fixed_clusters, target_clusters, targets_by_name
from headrace.envoy.translate.memo import Memo, Same
from headrace.envoy.translate.outbound_plan import headless_targets, plan
from headrace.envoy.translate.patch import Patcher
from headrace.envoy.translate.ways_in import way_in
from headrace.envoy.view import ProxyView, Scope, ScopeKey
from headrace.model.proxy import CaptureKind

_SCOPES_KEPT = 4096
_MERGES_KEPT = 2048
"""Mappings of a scope's resources together with those of one workload: large, so few are kept."""


class Translator:
    """Translates views; keeps what it built in one `Memo`. `salt` (random, at most 64 bytes) goes into the versions of
    credentials, which are seen where their values are not. Not thread-safe."""

    def __init__(self, memo: Memo | None = None, salt: bytes = b"") -> None:
        self.memo = memo or Memo()
        self._salt = salt
        self._merges = Memo(slots=_MERGES_KEPT)
        self._patched = Memo(slots=_MERGES_KEPT)
        self._assignments: OrderedDict[ScopeKey, AssignmentKeeper] = OrderedDict()

    def resources(self, view: ProxyView) -> ResourceSet:
        """All resources of the view's proxy; the same view gives the same objects, a part of the view that did not
        change gives the same mapping."""
        shared = self._shared(view)
        own = self._own(view)
        endpoints = self._endpoints(view)
        slot = (view.instance.identity, view.instance.name)
        key = (Same(shared), tuple(own), Same(endpoints))
        found = self.memo.latest("resource set", slot, key, self._assemble, view.scope.key, shared, own, endpoints)
        if not view.scope.patches:
            return found
        patcher = Patcher(self.memo, view)
        return self.memo.latest("patched set", slot, (found, patcher.key), patcher.resources, found, self._patched)

    def _endpoints(self, view: ProxyView) -> Resources:
        key = view.scope.key
        keeper = self._assignments.get(key)
        if keeper is None:
            keeper = self._assignments[key] = AssignmentKeeper()
            if len(self._assignments) > _SCOPES_KEPT:
                self._assignments.popitem(last=False)
        else:
            self._assignments.move_to_end(key)
        return keeper.update(self.memo, view)

    def _shared(self, view: ProxyView) -> Mapping[str, Resources]:
        """What all proxies of the scope have alike: outbound clusters, and for transparent sidecars the outbound
        listeners and routes. DNS services' endpoints are part of clusters, headless ones' of listeners."""
        scope = view.scope
        module = view.instance.module
        transparent = not scope.is_gateway and view.instance.capture.kind is CaptureKind.TRANSPARENT
        named = self.memo.latest("targets by name", scope.key, scope.targets, targets_by_name, scope.targets)
        placed = self.memo.latest("headless", scope.key, scope.targets, headless_targets, scope.targets)
        key = (scope, *(view.endpoints.get(target.key, ()) for target in (named + placed if transparent else named)))
        heard = view.for_listeners().scope if transparent else scope
        slot = (heard.key, transparent, view.instance.capture.own_namespace, module)
        key = (heard, *key)
        return self.memo.latest("shared", slot, key, self._build_shared, view, transparent)

    def _build_shared(self, view: ProxyView, transparent: bool) -> Mapping[str, Resources]:
        scope = view.scope
        named = self.memo.latest("targets by name", scope.key, scope.targets, targets_by_name, scope.targets)
        picks = way_in(self.memo, scope, view.instance.module).pools
        key = (scope.mesh, scope.targets, tuple(view.endpoints.get(target.key, ()) for target in named))
        clusters = self.memo.latest("clusters of a scope", (scope.key, picks), key, self._clusters, view, picks)
        found = {CLUSTER: self._mapping(scope, CLUSTER, clusters, picks)}
        if transparent:
            heard = view.for_listeners()
            planned = plan(self.memo, view)
            listeners = outbound.resources(self.memo, heard, planned)
            if view.instance.capture.own_namespace:
                listeners = own_namespace.both_families(self.memo, listeners)
            found[LISTENER] = self._mapping(heard.scope, LISTENER, listeners, view.instance.module)
            found[ROUTE] = self._mapping(scope, ROUTE, outbound.route_tables(self.memo, scope, planned))
        return found

    def _mapping(
        self, scope: Scope, type_url: str, resources: Iterable[XdsResource], module: bool = False
    ) -> Resources:
        """The resources by name, as the same mapping as long as they are the same; `module`: of proxies with it."""
        key = tuple(resources)
        return self.memo.latest("mapping", (scope.key, type_url, module), key, _by_name, key)

    def _clusters(self, view: ProxyView, picks: bool) -> tuple[XdsResource, ...]:
        scope = view.scope
        found = [*fixed_clusters(self.memo, scope.mesh, gateway=scope.is_gateway)]
        for target in scope.targets:
            found += target_clusters(self.memo, view, target, picks)
        return tuple(found)

    def _own(self, view: ProxyView) -> list[XdsResource]:
        """What depends on the proxy's own side: gateway listeners, inbound listeners and clusters, secrets."""
        found = [*file_secrets.resources(self.memo, view.scope), *guard_filters.resources(self.memo, view)]
        found += credentials.resources(self.memo, view.scope, self._salt)
        found += extensions.resources(self.memo, view.listener_mesh)
        if view.scope.secrets or view.scope.gateways or view.scope.sidecar is not None:
            found += secrets.resources(self.memo, view)
        if view.scope.is_gateway:
            found += gateways.resources(self.memo, view.for_listeners())
            found += sni_dnat.resources(self.memo, view)
        elif view.instance.capture.kind is CaptureKind.LOOPBACK:
            found += loopback.resources(self.memo, view)
        elif view.instance.capture.own_namespace:
            found += own_namespace.resources(self.memo, view)
        else:
            found += inbound.resources(self.memo, view.for_listeners())
        return found

    def _assemble(
        self, scope: ScopeKey, shared: Mapping[str, Resources], own: list[XdsResource], endpoints: Resources
    ) -> ResourceSet:
        """The proxy's set. Replicas share each mapping to which they add the same of their own."""
        extra = _by_type(own)
        found: dict[str, Resources] = {}
        for type_url in TYPES:
            base = endpoints if type_url == ENDPOINT else shared.get(type_url, {})
            more = extra.get(type_url, {})
            if base and more:
                slot = (scope, type_url, tuple(more.values()))
                found[type_url] = self._merges.latest("merged", slot, Same(base), _merge, base, more)
            elif more:
                slot = (scope, type_url, tuple(more.values()))
                found[type_url] = self._merges.latest("merged", slot, None, dict, more)
            elif base:
                found[type_url] = base
        return ResourceSet(found)


def _by_name(resources: Iterable[XdsResource]) -> Resources:
    """By name, sorted; the first of a name has it."""
    found: dict[str, XdsResource] = {}
    for resource in resources:
        found.setdefault(resource.name, resource)
    return dict(sorted(found.items()))


def _by_type(resources: Iterable[XdsResource]) -> Mapping[str, Resources]:
    """The resources by type and name, names sorted."""
    found: dict[str, list[XdsResource]] = {}
    for resource in resources:
        found.setdefault(resource.type_url, []).append(resource)
    return {type_url: _by_name(group) for type_url, group in found.items()}


def _merge(base: Resources, more: Resources) -> Resources:
    return dict(sorted({**base, **more}.items()))
