"""Patches of EnvoyFilters, applied to what translation made: the last step before resources are sent.

`Patcher` is used by `envoy.translate` for proxies that some patch is for, and never for others. A patched resource is
kept by the resource and the patches that it was made of, so proxies with the same ones share it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2

from headrace.envoy.resources import CLUSTER, EXTENSION, LISTENER, ROUTE, Resources, ResourceSet, XdsResource
from headrace.envoy.translate.memo import Memo, Same, resource_of
from headrace.envoy.translate.messages import serialized
from headrace.envoy.translate.patch.choice import LISTENER_PARTS, ROUTE_PARTS, Read, choose
from headrace.envoy.translate.patch.clusters import changing, matching, patched_cluster
from headrace.envoy.translate.patch.listeners import patch_listener
from headrace.envoy.translate.patch.routes import Ports, patch_routes
from headrace.envoy.view import ProxyView
from headrace.model.envoy_filter import ApplyTo, Operation, Patch, PatchContext

_PATCHED = (CLUSTER, LISTENER, ROUTE)
_INBOUND_CLUSTERS = ("inbound|", "InboundPassthroughCluster")


class Patcher:
    """The patches of one proxy; `memo` keeps patched resources."""

    def __init__(self, memo: Memo, view: ProxyView) -> None:
        self._memo = memo
        gateway = view.scope.is_gateway
        self._place = (view.scope.key, view.instance.workload)
        patches = tuple(patch for patch in view.scope.patches if _is_for(patch, view.instance.metadata))
        side = PatchContext.GATEWAY if gateway else PatchContext.SIDECAR_OUTBOUND
        self._out = choose(patches, side)
        self._in = self._out if gateway else choose(patches, PatchContext.SIDECAR_INBOUND)
        self._hosts = {port.number: (port.host,) for port in view.inbound.ports if port.host}
        self._ports = _bound_ports(view)
        self._served = tuple(sorted((bound, tuple(sorted(served))) for bound, served in self._ports.items()))

    @property
    def key(self) -> Hashable:
        """What decides the result beside the resources: proxies with equal keys share it."""
        return (self._out, self._in, tuple(sorted(self._hosts.items())), self._served)

    def mapping(self, type_url: str, resources: Resources) -> Resources:
        """The resources of one type (of `_PATCHED`) after the patches; the same mapping where they change nothing."""
        if type_url == CLUSTER:
            return self._clusters(resources)
        return self._listeners(resources) if type_url == LISTENER else self._routes(resources)

    def extensions(self, resources: Resources) -> Resources:
        """The extensions with what EXTENSION_CONFIG patches bring, by name; the last of a name has it."""
        found = [item for item in self._out.of(ApplyTo.EXTENSION_CONFIG) if item.operation is Operation.ADD]
        found += [item for item in self._in.of(ApplyTo.EXTENSION_CONFIG) if item.operation is Operation.ADD]
        named = {
            item.value.name: resource_of(EXTENSION, item.value.name, item.value) for item in found if item.value.name
        }
        return dict(sorted({**resources, **named}.items())) if named else resources

    def resources(self, resources: ResourceSet, mappings: Memo) -> ResourceSet:
        """The set after the patches. What no patch changes stays the same object; `mappings` keeps the newest whole
        mappings of each workload."""
        key = self.key
        found = dict(resources.by_type)
        for type_url in _PATCHED:
            before = resources.of_type(type_url)
            slot, made_of = (self._place, type_url), (Same(before), key)
            after = mappings.latest("patched mapping", slot, made_of, self.mapping, type_url, before)
            if after:
                found[type_url] = after
            else:
                found.pop(type_url, None)
        before = resources.of_type(EXTENSION)
        made_of = (Same(before), key)
        if extensions := mappings.latest("patched extensions", self._place, made_of, self.extensions, before):
            found[EXTENSION] = extensions
        return ResourceSet(found)

    def _clusters(self, resources: Resources) -> Resources:
        found: dict[str, XdsResource] = {}
        inbound, outbound = changing(self._in), changing(self._out)
        for name, resource in resources.items():
            kept = self._cluster(resource, inbound if name.startswith(_INBOUND_CLUSTERS) else outbound)
            if kept is not None:
                found[name] = kept
        for chosen in dict.fromkeys((self._out, self._in)):
            _add(found, CLUSTER, chosen.added(ApplyTo.CLUSTER))
        return _settled(resources, found)

    def _cluster(self, resource: XdsResource, changes: Sequence[Read]) -> XdsResource | None:
        port = resource.name.split("|")[1:2]
        hosts = self._hosts.get(int(port[0]), ()) if port and port[0].isdigit() else ()
        reads = matching(changes, resource.name, hosts)
        if not reads:
            return resource
        key = (resource, tuple(item.patch for item in reads))
        return self._memo.get("patched cluster", key, _patched_cluster, resource, reads)

    def _listeners(self, resources: Resources) -> Resources:
        if not self._out.any_of((*LISTENER_PARTS, *ROUTE_PARTS)) and not self._in.any_of(
            (*LISTENER_PARTS, *ROUTE_PARTS)
        ):
            return resources
        found: dict[str, XdsResource] = {}
        for name, resource in resources.items():
            key = (resource, self._out, self._in)
            kept = self._memo.get("patched listener", key, self._listener, resource)
            if kept is not None:
                found[name] = kept
        for chosen in dict.fromkeys((self._out, self._in)):
            _add(found, LISTENER, chosen.added(ApplyTo.LISTENER))
        return _settled(resources, found)

    def _listener(self, resource: XdsResource) -> XdsResource | None:
        listener = listener_pb2.Listener.FromString(resource.body)
        chosen = self._in if listener.traffic_direction == base_pb2.INBOUND else self._out
        if listener.HasField("udp_listener_config"):
            return resource  # it answers for names, and is nothing that Istio has
        if not patch_listener(listener, chosen):
            return None
        return _with_body(resource, serialized(listener))

    def _routes(self, resources: Resources) -> Resources:
        if not self._out.any_of(ROUTE_PARTS):
            return resources
        found = {
            name: self._memo.get("patched routes", (resource, self._out, self._served), self._table, resource)
            for name, resource in resources.items()
        }
        return _settled(resources, found)

    def _table(self, resource: XdsResource) -> XdsResource:
        table = route_pb2.RouteConfiguration.FromString(resource.body)
        patch_routes(table, self._out, self._ports)
        return _with_body(resource, serialized(table))


def _is_for(patch: Patch, metadata: Mapping[str, str]) -> bool:
    return all(metadata.get(name) == value for name, value in patch.proxy_metadata)


def _bound_ports(view: ProxyView) -> Ports:
    found: dict[int, set[int]] = {}
    for served, bound in view.instance.port_map:
        found.setdefault(bound, set()).add(served)
    return {bound: frozenset(served) for bound, served in found.items()}


def _patched_cluster(resource: XdsResource, reads: Sequence[Read]) -> XdsResource | None:
    body = patched_cluster(resource.body, reads)
    return None if body is None else _with_body(resource, body)


def _with_body(resource: XdsResource, body: bytes) -> XdsResource:
    return resource if body == resource.body else XdsResource.of(resource.type_url, resource.name, body)


def _add(found: dict[str, XdsResource], type_url: str, messages: list[Any]) -> None:
    """Put new objects among the others; one without a name, or with the name of another, is left out."""
    for message in messages:
        if message.name and message.name not in found:
            found[message.name] = resource_of(type_url, message.name, message)


def _settled(before: Resources, found: dict[str, XdsResource]) -> Resources:
    """The new mapping, sorted; the old one where nothing changed."""
    if len(before) == len(found) and all(found.get(name) is item for name, item in before.items()):
        return before
    return dict(sorted(found.items()))
