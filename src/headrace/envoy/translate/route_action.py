"""Where a request goes and how: destinations, weights, rewrites, mirrors, timeouts, hash policies; or an answer.

Called by `routes` and `virtual_hosts`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2 as route_pb2

from headrace.envoy.translate.destination_rules import consistent_hash
from headrace.envoy.translate.messages import boolean, duration, uint32
from headrace.envoy.translate.overflow import overflow_of
from headrace.envoy.translate.pools import pool_retries
from headrace.envoy.translate.route_filters import runtime_fraction
from headrace.envoy.translate.route_headers import apply_headers, host_written
from headrace.envoy.translate.route_retry import retry_policy
from headrace.envoy.view import Target
from headrace.model.destination import ConsistentHash
from headrace.model.engine_timeouts import engine_timeouts
from headrace.model.mesh import MeshConfig
from headrace.model.names import outbound_cluster
from headrace.model.traffic import Destination, DirectResponse, HttpRoute, Redirect

_CODES = {
    301: route_pb2.RedirectAction.MOVED_PERMANENTLY,
    302: route_pb2.RedirectAction.FOUND,
    303: route_pb2.RedirectAction.SEE_OTHER,
    307: route_pb2.RedirectAction.TEMPORARY_REDIRECT,
    308: route_pb2.RedirectAction.PERMANENT_REDIRECT,
}
_USUAL_PORT = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a route stands: the mesh, the listener's port, whether its listener terminates TLS, and the services that
    its destinations name (those that are visible)."""

    mesh: MeshConfig
    port: int
    tls: bool
    targets: Mapping[str, Target]


def destination_cluster(place: Place, destination: Destination) -> str:
    """The cluster of a destination; of a reference that leads nowhere one that never exists (Istio's name)."""
    if not destination.host:
        return "UnknownService"
    return outbound_cluster(destination_port(place, destination), destination.subset, destination.host)


def destination_port(place: Place, destination: Destination) -> int:
    """The port of a destination: as written, else the service's only one, else the listener's."""
    if destination.port:
        return destination.port
    target = place.targets.get(destination.host)
    if target is not None and len(target.service.ports) == 1:
        return target.service.ports[0].number
    return place.port


def apply_route(route: Any, http: HttpRoute, place: Place) -> None:
    """Fill in the action of a rule that forwards."""
    action = route.route
    _apply_rewrite(action, http)
    if http.missing_is_error:
        action.cluster_not_found_response_code = route_pb2.RouteAction.INTERNAL_SERVER_ERROR
    host = (http.rewrite.authority if http.rewrite else "") or host_written(http.headers)
    if host:
        action.host_rewrite_literal = host
    sticky = False
    if len(http.route) == 1:
        lone = http.route[0]
        action.cluster = destination_cluster(place, lone.destination)
        apply_headers(route, lone.headers)
        own = host_written(lone.headers)
        if own and not host:
            action.host_rewrite_literal = own
        sticky = _add_hash_policy(action, place, lone.destination)
    else:
        _apply_weighted(action, http, place)
    for mirror in http.mirrors:
        if mirror.percent > 0:
            action.request_mirror_policies.add(
                cluster=destination_cluster(place, mirror.destination),
                runtime_fraction=runtime_fraction(mirror.percent),
                trace_sampled=boolean(False),
                disable_shadow_host_suffix_append=True,
            )
    allowed = pool_retries(place.targets.get(item.destination.host) for item in http.route)
    retries = http.retries or allowed or place.mesh.default_http_retry
    policy = retry_policy(retries, sticky=sticky)
    if policy is not None:
        action.retry_policy.CopyFrom(policy)
    set_timeouts(action, http.timeout, (place.targets.get(item.destination.host) for item in http.route))


def overflow_destinations(http: HttpRoute, place: Place) -> list[Destination | None]:
    """For each destination of the rule that gets requests: where those go that do not fit there (None: nowhere)."""
    found = []
    for item in http.route:
        target = place.targets.get(item.destination.host)
        if target is not None and (item.weight or len(http.route) == 1):
            found.append(overflow_of(target, destination_port(place, item.destination), place.targets))
    return found


def _apply_rewrite(action: Any, http: HttpRoute) -> None:
    rewrite = http.rewrite
    if rewrite is None:
        return
    if rewrite.regex_match:
        action.regex_rewrite.pattern.regex = rewrite.regex_match
        action.regex_rewrite.substitution = rewrite.regex_rewrite
    elif rewrite.uri:
        action.prefix_rewrite = rewrite.uri


def _apply_weighted(action: Any, http: HttpRoute, place: Place) -> None:
    """Weighted clusters; a destination with weight 0 gets nothing, so it is left out."""
    for item in http.route:
        if item.weight == 0:
            continue
        cluster = action.weighted_clusters.clusters.add(
            name=destination_cluster(place, item.destination), weight=uint32(item.weight)
        )
        apply_headers(cluster, item.headers)
        host = host_written(item.headers)
        if host:
            cluster.host_rewrite_literal = host
        _add_hash_policy(action, place, item.destination)


def _add_hash_policy(action: Any, place: Place, destination: Destination) -> bool:
    target = place.targets.get(destination.host)
    if target is None:
        return False
    key = consistent_hash(target.rule, destination_port(place, destination), destination.subset)
    if key is None:
        return False
    action.hash_policy.append(hash_policy(key))
    return True


def hash_policy(key: ConsistentHash) -> Any:
    """The HashPolicy of a consistent hash: by header, cookie, source address or query parameter."""
    found = route_pb2.RouteAction.HashPolicy()
    if key.header:
        found.header.header_name = key.header
    elif key.cookie_name:
        found.cookie.name = key.cookie_name
        found.cookie.path = key.cookie_path
        if key.cookie_ttl is not None:
            found.cookie.ttl.CopyFrom(duration(key.cookie_ttl))
        for name, value in key.cookie_attributes:
            found.cookie.attributes.add(name=name, value=value)
    elif key.query_parameter:
        found.query_parameter.name = key.query_parameter
    else:
        found.connection_properties.source_ip = True
    return found


def set_timeouts(action: Any, written: float | None, targets: Iterable[Target | None]) -> None:
    """The route's timeouts: as written; else for each target its InferencePolicy's total, or its engine's explicit
    ones (of several targets the longest); else none, as in Istio.

    A route's timeout begins when the request is sent, also one that the mesh held; its idle time passes while a request
    is held, and while a server is silent as long as the policy allows, so it is never less than all of that.
    """
    known = [] if written is not None else [found for found in map(_times_of, targets) if found is not None]
    total = written or max((item.total for item in known), default=0.0)
    idle = max((item.idle for item in known), default=0.0)
    if idle:
        action.idle_timeout.CopyFrom(duration(idle))
    action.timeout.CopyFrom(duration(total))
    action.max_grpc_timeout.CopyFrom(duration(total))


@dataclass(frozen=True, slots=True)
class _Times:
    """Seconds; `idle` 0: no limit."""

    total: float
    idle: float


def _times_of(target: Target | None) -> _Times | None:
    """What holds for a target where its route says nothing (None: nothing does)."""
    if target is None:
        return None
    engine = engine_timeouts(target.service.engine)
    policy = target.inference
    if policy is None:
        return _Times(engine.total, engine.idle) if engine else None
    times, queue = policy.timeouts, policy.admission.queue
    if engine is None:
        return _Times(times.total, 0.0) if times.total else None
    silence = max(engine.idle, times.first_token or 0.0, times.between_tokens or 0.0, times.total or 0.0)
    held = queue.time if queue is not None and queue.time is not None else 0.0
    return _Times(times.total or engine.total, silence + held)


def apply_redirect(route: Any, redirect: Redirect, place: Place) -> None:
    """Fill in the action of a rule that redirects."""
    action = route.redirect
    action.host_redirect = redirect.authority
    if redirect.regex_match:
        action.regex_rewrite.pattern.regex = redirect.regex_match
        action.regex_rewrite.substitution = redirect.regex_rewrite
    elif redirect.prefix_rewrite:
        action.prefix_rewrite = redirect.prefix_rewrite
    else:
        action.path_redirect = redirect.uri
    if redirect.scheme:
        action.scheme_redirect = redirect.scheme
    port = place.port if redirect.derive_port == "FROM_REQUEST_PORT" else redirect.port
    if port != _USUAL_PORT.get(redirect.scheme or ("https" if place.tls else "http")):
        action.port_redirect = port
    action.response_code = _CODES.get(redirect.code, route_pb2.RedirectAction.MOVED_PERMANENTLY)


def apply_direct_response(route: Any, response: DirectResponse) -> None:
    """Fill in the action of a rule that answers by itself."""
    route.direct_response.status = response.status
    if response.body is not None:
        route.direct_response.body.CopyFrom(base_pb2.DataSource(inline_bytes=response.body))
