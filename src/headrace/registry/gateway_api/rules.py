"""Rules of routes become routes of Istio's model: one for each match, so that they can be put in order.

Used by `routes`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from headrace.model.gateway_api import HTTP_ROUTES, BackendRef, Route, RouteRule
from headrace.model.names import CLUSTER_DOMAIN
from headrace.model.traffic import (
    Destination,
    DirectResponse,
    HttpMatch,
    HttpRoute,
    L4Match,
    L4Route,
    MatchKind,
    Mirror,
    RouteDestination,
)
from headrace.registry.gateway_api.backends import find, is_soft
from headrace.registry.gateway_api.conditions import Refusal
from headrace.registry.gateway_api.world import World

_ERROR = DirectResponse(500)
_REFUSING = Destination(f"internal.{CLUSTER_DOMAIN}", "zero-weight", 65535)
"""Where connections go that may go nowhere: a cluster that there never is."""
_PATHS = {MatchKind.EXACT: 3, MatchKind.PREFIX: 2, MatchKind.SEGMENTS: 2, MatchKind.REGEX: 1}


class Unusable(Exception):
    """The whole route cannot be used: `problem` says why."""

    def __init__(self, problem: Refusal) -> None:
        super().__init__(problem.message)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Lowered:
    """The routes that a document's rules become, for gateways or for the mesh, and what they could not resolve."""

    http: tuple[HttpRoute, ...] = ()
    l4: tuple[L4Route, ...] = ()
    problem: Refusal | None = None


def lower(world: World, route: Route, *, mesh: bool) -> Lowered:
    """All rules of a route; nothing but the reason where one of them makes the route unusable."""
    try:
        if route.kind in HTTP_ROUTES:
            return _http(world, route, mesh=mesh)
        return _l4(world, route, mesh=mesh)
    except Unusable as error:
        return Lowered(problem=error.problem)


def _http(world: World, route: Route, *, mesh: bool) -> Lowered:
    found: list[HttpRoute] = []
    problem: Refusal | None = None
    for rule in route.rules:
        if rule.unusable:
            raise Unusable(_unsupported(rule.unusable))
        action, soft = _action(world, route, rule, mesh=mesh)
        problem = soft or problem
        matches: Sequence[HttpMatch | None] = rule.matches or (None,)
        found += [replace(action, matches=(match,) if match is not None else ()) for match in matches]
    return Lowered(http=tuple(found), problem=problem)


def _unsupported(kind: str) -> Refusal:
    return Refusal("InvalidFilter", f'unsupported filter type "{kind}"')


def _action(world: World, route: Route, rule: RouteRule, *, mesh: bool) -> tuple[HttpRoute, Refusal | None]:
    """What a rule does, and what it could not resolve."""
    mirrors, problem = _mirrors(world, route, rule, mesh=mesh)
    action = replace(rule.action, mirrors=mirrors, missing_is_error=True)
    if rule.action.redirect is not None:
        return action, problem
    if not sum(backend.weight for backend in rule.backends):
        return replace(action, direct_response=_ERROR, rewrite=None), problem
    destinations, soft = _destinations(world, route, rule.backends, mesh=mesh)
    if soft is not None:
        problem = soft.and_then(problem)
    return replace(action, route=destinations), problem


def _mirrors(world: World, route: Route, rule: RouteRule, *, mesh: bool) -> tuple[tuple[Mirror, ...], Refusal | None]:
    found, problem = [], None
    for mirror in rule.mirrors:
        place = find(world, mirror.backend, (route.kind, route.meta.namespace), granted=not mesh)
        if place.problem is not None:
            problem = place.problem
        elif place.destination is not None and mirror.percent > 0:
            found.append(Mirror(place.destination, mirror.percent))
    return tuple(found), problem


def _destinations(
    world: World, route: Route, backends: Sequence[BackendRef], *, mesh: bool
) -> tuple[tuple[RouteDestination, ...], Refusal | None]:
    """The destinations that get requests, and what is wrong with the last one that something is wrong with."""
    wanted = [backend for backend in backends if backend.weight]
    found, problem = [], None
    for backend in wanted:
        place = find(world, backend, (route.kind, route.meta.namespace), granted=not mesh)
        if place.destination is None or (place.problem is not None and not is_soft(place.problem)):
            raise Unusable(place.problem or _unsupported("?"))
        if backend.unusable:
            raise Unusable(_unsupported(backend.unusable))
        problem = place.problem or problem
        weight = backend.weight if len(wanted) > 1 else 0
        found.append(RouteDestination(place.destination, weight, backend.headers))
    return tuple(found), problem


def _l4(world: World, route: Route, *, mesh: bool) -> Lowered:
    found: list[L4Route] = []
    problem: Refusal | None = None
    matches = (L4Match(sni_hosts=tuple(route.hostnames or ("*",))),) if route.kind == "TLSRoute" else ()
    for rule in route.rules:
        if sum(backend.weight for backend in rule.backends):
            destinations, soft = _destinations(world, route, rule.backends, mesh=mesh)
            problem = soft or problem
        else:
            destinations = (RouteDestination(_REFUSING),)
        found.append(L4Route(matches, destinations, rule.action.line))
    return Lowered(l4=tuple(found), problem=problem)


def in_order(routes: Sequence[HttpRoute]) -> list[HttpRoute]:
    """The routes as the Gateway API ranks them: the better path first (exact, then prefix, then pattern; the longer
    one), then a method, then the number of headers, then of query parameters; what is equal stays in order."""
    return sorted(routes, key=_rank)


def _rank(route: HttpRoute) -> tuple[int, int, int, bool, int, int]:
    if not route.matches:
        return (1, 0, 0, False, 0, 0)
    match = route.matches[0]
    kind = _PATHS[match.uri.kind] if match.uri is not None else -1
    length = len(match.uri.value) if match.uri is not None else 0
    return (0, -kind, -length, match.method is None, -len(match.headers), -len(match.query_params))


def at_port(routes: Sequence[HttpRoute], port: int) -> list[HttpRoute]:
    """The routes for one port of a service only."""
    return [
        replace(item, matches=tuple(replace(match, port=port) for match in item.matches or (HttpMatch(),)))
        for item in routes
    ]


def connections_at_port(routes: Sequence[L4Route], port: int) -> list[L4Route]:
    """The same of routes of connections."""
    return [
        replace(item, matches=tuple(replace(match, port=port) for match in item.matches or (L4Match(),)))
        for item in routes
    ]


def with_names(routes: Sequence[L4Route], choose: Sequence[str]) -> Iterator[L4Route]:
    """TLS routes for these SNI names instead of their own."""
    for item in routes:
        yield replace(item, matches=tuple(replace(match, sni_hosts=tuple(choose)) for match in item.matches))
