"""AUTO_PASSTHROUGH: the SNI of mesh mutual TLS says which service is meant, and the gateway passes the bytes on.

Called by `translate` (clusters, assignments) and `gateway_chains` (filter chains). Rules (Istio): one cluster for each
port and subset of every service of the mesh, called as its SNI (`outbound_.8000_.v1_.chat.default.svc.cluster.local`),
without TLS of its own, and only with endpoints that demand mutual TLS: nobody reaches a server unauthenticated, though
the gateway cannot see who calls. The gateway's AuthorizationPolicies do not apply there; those of the server do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from headrace.envoy.resources import XdsResource
from headrace.envoy.translate.clusters import dnat_clusters, parts_of
from headrace.envoy.translate.l4_routes import service_way
from headrace.envoy.translate.memo import Memo
from headrace.envoy.translate.tcp_proxy import Way
from headrace.envoy.view import ProxyView, Scope, Target
from headrace.envoy.visibility import wildcard_covers


def dnat_targets(scope: Scope) -> Iterable[Target]:
    """The services that AUTO_PASSTHROUGH leads to; none where no server of the gateway has that mode."""
    if not scope.passes_by_sni:
        return ()
    return (target for target in scope.targets if not target.service.external)


def resources(memo: Memo, view: ProxyView) -> tuple[XdsResource, ...]:
    """The clusters of those services."""
    found: list[XdsResource] = []
    for target in dnat_targets(view.scope):
        found += dnat_clusters(memo, view, target)
    return tuple(found)


def dnat_ways(scope: Scope, hosts: Iterable[str]) -> Iterator[tuple[str, Way]]:
    """The SNI names that a server with these hosts takes, each with its way."""
    patterns = tuple(hosts)
    for target in dnat_targets(scope):
        if any(wildcard_covers(pattern, target.service.host) for pattern in patterns):
            for part in parts_of(target.service, target.rule):
                name = part.sni(target.service)
                way = service_way(target, part.port.number, name)
                yield name, replace(way, tunnel="", post=False)
