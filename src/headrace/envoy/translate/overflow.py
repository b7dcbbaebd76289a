"""Where requests go that a pool does not take: overflow.action Redirect of an InferencePolicy.

The module gives such a request a header and has the route chosen anew; so a sibling with that header stands before each
route to the pool. Called by `routes` and `virtual_hosts` (siblings) and by `clusters` (what the module is told).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from envoy.config.route.v3 import route_components_pb2 as route_pb2
from envoy.type.matcher.v3 import string_pb2

from headrace.envoy.translate.destination_rules import subset_named
from headrace.envoy.translate.ways_in import OVERFLOW_HEADER
from headrace.envoy.view import Target
from headrace.model.names import outbound_cluster
from headrace.model.service import Service
from headrace.model.traffic import Destination, HttpRoute, RouteDestination


def overflow_host(target: Target | None) -> str:
    """The host to which the target's requests are redirected ('' : they are rejected)."""
    policy = target.inference if target is not None else None
    if policy is None or policy.redirects is None:
        return ""
    return policy.redirects.host(policy.meta.namespace)


def overflow_of(target: Target, port: int, by_host: Mapping[str, Target]) -> Destination | None:
    """Where requests to `port` of the target are redirected; None where they are rejected, also because the other
    service, port or subset is not there (`check` says so)."""
    policy, host = target.inference, overflow_host(target)
    other = by_host.get(host)
    if policy is None or other is None or host == target.service.host:
        return None
    written = policy.admission.overflow
    number = written.port or _usual_port(other.service, port)
    if all(item.number != number for item in other.service.ports):
        return None
    if written.subset and subset_named(other.rule, written.subset) is None:
        return None
    return Destination(host, written.subset, number)


def _usual_port(service: Service, port: int) -> int:
    """The service's only port, else the same as that of the pool."""
    return service.ports[0].number if len(service.ports) == 1 else port


def overflow_name(destination: Destination) -> str:
    """The header's value for a destination: its cluster's name."""
    return outbound_cluster(destination.port, destination.subset, destination.host)


def overflowing(http: HttpRoute, found: Iterable[Destination | None]) -> Iterator[tuple[Destination, HttpRoute]]:
    """For each different destination of `found` the rule that leads what overflows there: the same in all but its
    destinations and what goes with each of them, and without injected faults, which the request has had already."""
    for other in dict.fromkeys(item for item in found if item is not None):
        yield other, replace(http, route=(RouteDestination(other),), fault=None)


def match_overflow(route: Any, destination: Destination) -> None:
    """Let the route take only what the module redirects to the destination."""
    route.name = f"{route.name}.overflow" if route.name else "overflow"
    name = string_pb2.StringMatcher(exact=overflow_name(destination))
    route.match.headers.append(route_pb2.HeaderMatcher(name=OVERFLOW_HEADER, string_match=name))
    route.request_headers_to_remove.append(OVERFLOW_HEADER)


def own_headers(match: Any) -> list[Any]:
    """The header conditions of a route without that of a sibling: it stays beside its route where routes are sorted."""
    return [header for header in match.headers if header.name != OVERFLOW_HEADER]
