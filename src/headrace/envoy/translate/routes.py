"""HTTP routes of a VirtualService, for sidecars (`virtual_hosts`) and gateways (`gateways`).

Conditions on the caller (gateways, source labels, source namespace) and on the listener's port are decided here, when
translating; a rule that cannot apply to this caller makes no route.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from envoy.config.route.v3 import route_components_pb2 as route_pb2

from headrace.envoy.translate.destination_rules import consistent_hash
from headrace.envoy.translate.memo import Memo
from headrace.envoy.translate.messages import document_path
from headrace.envoy.translate.overflow import match_overflow, overflow_host, overflow_of, overflowing
from headrace.envoy.translate.pools import pool_retries
from headrace.envoy.translate.route_action import (
    Place,
    apply_direct_response,
    apply_redirect,
    apply_route,
    hash_policy,
    overflow_destinations,
    set_timeouts,
)
from headrace.envoy.translate.route_filters import apply_filters
from headrace.envoy.translate.route_headers import apply_headers
from headrace.envoy.translate.route_match import route_match, takes_everything
from headrace.envoy.translate.route_retry import retry_policy
from headrace.envoy.view import Scope, Target
from headrace.model.mesh import MeshConfig
from headrace.model.names import outbound_cluster
from headrace.model.resource import Metadata
from headrace.model.traffic import HttpMatch, HttpRoute, Pairs, VirtualService


@dataclass(frozen=True, slots=True)
class Caller:
    """All that the routes of a VirtualService depend on beside itself; compared by value, so that callers who are alike
    share them. `targets` are the visible services that it names, by host."""

    mesh: MeshConfig
    namespace: str
    labels: Pairs
    port: int
    gateway: str
    tls: bool
    targets: tuple[tuple[str, Target], ...]

    def slot(self, virtual_service: VirtualService) -> Hashable:
        """What stays the same while the document and the services are edited."""
        return (virtual_service.meta.key, self.namespace, self.labels, self.port, self.gateway, self.tls)


def http_routes(
    memo: Memo, scope: Scope, virtual_service: VirtualService, port: int, gateway: str, *, tls: bool = False
) -> Sequence[route_pb2.Route]:
    """The routes that `virtual_service` makes on listener port `port` for `gateway` (`mesh`, or `namespace/name`),
    in order. Shared by everybody: never change them (copy). A rule without a match ends the list. Empty: no rule
    applies to this caller. `tls`: the listener terminates TLS (redirects without a scheme then mean https)."""
    caller = caller_of(memo, scope, virtual_service, port, gateway, tls=tls)
    return routes_for(memo, virtual_service, caller)


def routes_for(memo: Memo, virtual_service: VirtualService, caller: Caller) -> Sequence[route_pb2.Route]:
    """`http_routes`, where the caller is known."""
    return memo.latest(
        "routes", caller.slot(virtual_service), (virtual_service, caller), _build, virtual_service, caller
    )


def caller_of(
    memo: Memo, scope: Scope, virtual_service: VirtualService, port: int, gateway: str, *, tls: bool = False
) -> Caller:
    """What the routes of `virtual_service` depend on: of the scope's labels only those that it selects by, of the
    services only those that it names."""
    hosts, labels, by_namespace = memo.latest(
        "route dependencies", virtual_service.meta.key, virtual_service, _dependencies, virtual_service
    )
    targets = {host: scope.by_host.get(host) for host in hosts}
    for other in {overflow_host(target) for target in targets.values()} - {""}:
        targets[other] = scope.by_host.get(other)
    return Caller(
        mesh=scope.mesh,
        namespace=scope.namespace if by_namespace else "",
        labels=tuple(pair for pair in scope.key.labels if pair[0] in labels),
        port=port,
        gateway=gateway,
        tls=tls,
        targets=tuple((host, target) for host, target in sorted(targets.items()) if target is not None),
    )


def _dependencies(virtual_service: VirtualService) -> tuple[tuple[str, ...], frozenset[str], bool]:
    """Hosts that the document sends requests to, labels it selects callers by, whether it selects by namespace."""
    matches = [match for http in virtual_service.http for match in http.matches]
    hosts = {
        destination.host
        for http in virtual_service.http
        for destination in (
            *(item.destination for item in http.route),
            *(mirror.destination for mirror in http.mirrors),
        )
    }
    labels = frozenset(name for match in matches for name, _ in match.source_labels)
    return tuple(sorted(hosts)), labels, any(match.source_namespace for match in matches)


def _build(virtual_service: VirtualService, caller: Caller) -> tuple[Any, ...]:
    return tuple(_routes(virtual_service, caller))


def _routes(virtual_service: VirtualService, caller: Caller) -> Iterator[Any]:
    place = Place(caller.mesh, caller.port, caller.tls, dict(caller.targets))
    for http in virtual_service.http:
        matches: Sequence[HttpMatch | None] = http.matches or (None,)
        for match in matches:
            if match is not None and not _applies(match, caller):
                continue
            route = _route(virtual_service, http, match, place)
            for other, rule in overflowing(http, overflow_destinations(http, place)):
                sibling = _route(virtual_service, rule, match, place)
                match_overflow(sibling, other)
                yield sibling
            yield route
            if takes_everything(route.match):
                return


def _applies(match: HttpMatch, caller: Caller) -> bool:
    """Whether the part of the condition that is known now holds. Gateways in a match make its source conditions void
    (Istio's rule)."""
    if match.port and match.port != caller.port:
        return False
    if match.gateways:
        return caller.gateway in match.gateways
    labels = dict(caller.labels)
    if any(labels.get(name) != value for name, value in match.source_labels):
        return False
    return not match.source_namespace or match.source_namespace == caller.namespace


def _route(virtual_service: VirtualService, http: HttpRoute, match: HttpMatch | None, place: Place) -> Any:
    name = f"{http.name}.{match.name}" if match is not None and match.name else http.name
    route = route_pb2.Route(name=name, match=route_match(match))
    _describe(route, virtual_service.meta)
    if match is not None and match.stat_prefix:
        route.stat_prefix = match.stat_prefix
    apply_headers(route, http.headers)
    if http.redirect is not None:
        apply_redirect(route, http.redirect, place)
    elif http.direct_response is not None:
        apply_direct_response(route, http.direct_response)
    else:
        apply_route(route, http, place)
    route.decorator.operation = _operation(route, virtual_service.meta.name, place.port)
    apply_filters(route, http.fault, http.cors)
    return route


def _describe(route: Any, meta: Metadata) -> None:
    route.metadata.filter_metadata["istio"]["config"] = document_path(meta, "virtual-service")


def _operation(route: Any, name: str, port: int) -> str:
    """What a trace calls the route: `host:port/path` where there is one destination, else `document:port/path`."""
    match = route.match
    path = match.path or match.safe_regex.regex or f"{match.prefix}*"
    parts = route.route.cluster.split("|") if route.HasField("route") else []
    if len(parts) == 4:
        return f"{parts[3]}:{parts[1]}{path}"
    return f"{name}:{port}{path}"


def default_route(mesh: MeshConfig, target: Target, port: int, subset: str = "") -> Any:
    """The route to a service (or a subset of it) that no VirtualService speaks for."""
    service = target.service
    route = route_pb2.Route(name="default", match=route_match(None))
    route.decorator.operation = f"{service.host}:{port}/*"
    action = route.route
    action.cluster = outbound_cluster(port, subset, service.host)
    policy = retry_policy(pool_retries([target]) or mesh.default_http_retry, sticky=False)
    if policy is not None:
        action.retry_policy.CopyFrom(policy)
    key = consistent_hash(target.rule, port, subset)
    if key is not None:
        action.hash_policy.append(hash_policy(key))
    set_timeouts(action, None, [target])
    return route


def default_routes(mesh: MeshConfig, target: Target, port: int, others: Mapping[str, Target]) -> list[Any]:
    """All routes of a service that no VirtualService speaks for; `others` holds what stands in for it where it is a
    pool that overflows."""
    found = [default_route(mesh, target, port)]
    other = overflow_of(target, port, others)
    if other is not None:
        found.insert(0, default_route(mesh, others[other.host], other.port, other.subset))
        match_overflow(found[0], other)
    return found
