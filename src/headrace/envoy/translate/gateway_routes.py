"""Route tables of a gateway: VirtualServices that are bound to it, under the names that its servers offer.

Called by `gateways`. Unlike a sidecar's, VirtualServices for the same host are merged: their routes append in order of
age, and catch-alls move to the end (Istio).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from envoy.config.route.v3 import route_components_pb2, route_pb2

from headrace.envoy.translate.gateway_servers import BoundServer, intersection, is_http
from headrace.envoy.translate.memo import Memo
from headrace.envoy.translate.messages import boolean, uint32
from headrace.envoy.translate.overflow import own_headers
from headrace.envoy.translate.routes import http_routes
from headrace.envoy.view import Scope
from headrace.envoy.visibility import host_specificity

MAX_DIRECT_RESPONSE = 1024 * 1024
"""Bytes of a directResponse body that Envoy accepts (its own limit is 4 KiB); Istio's number."""
HTTPS_PORT = 443


class _Host:
    """A virtual host while it is put together."""

    def __init__(self, name: str, domain: str) -> None:
        self.name = name
        self.domains = [domain]
        self.routes: list[Any] = []
        self.redirect = False


def gateway_route_config(
    memo: Memo, scope: Scope, name: str, servers: Sequence[BoundServer], https_port: int = HTTPS_PORT
) -> Any:
    """The RouteConfiguration `name` of these servers; with no virtual host in it, everything is answered 404.

    `https_port` is where this proxy really listens for https: a redirection must lead there.
    """
    hosts: dict[str, _Host] = {}
    for server in servers:
        _add_server(memo, scope, server, hosts)
    config = route_pb2.RouteConfiguration(
        name=name,
        validate_clusters=boolean(False),
        ignore_port_in_host_matching=True,
        max_direct_response_body_size_bytes=uint32(MAX_DIRECT_RESPONSE),
    )
    if not hosts:
        config.virtual_hosts.add(name=f"blackhole:{servers[0].server.port}", domains=["*"])
        return config
    for host in _collapsed(hosts):
        # What comes over https already is not sent elsewhere: there the redirection means nothing, as in Istio.
        config.virtual_hosts.append(_virtual_host(host, https_port if is_http(servers[0].server) else HTTPS_PORT))
    return config


def _add_server(memo: Memo, scope: Scope, server: BoundServer, hosts: dict[str, _Host]) -> None:
    """Adds what one server offers: its VirtualServices' routes, and the redirection to https where it asks for it."""
    port = server.server.port
    redirect = server.server.tls is not None and server.server.tls.https_redirect
    for item in scope.gateway_virtual_services.get(server.gateway, ()):
        names = intersection(server.hosts, item.hosts, item.meta.namespace)
        if not names:
            continue
        routes = http_routes(memo, scope, item, port, server.gateway)
        if not routes:
            continue
        for name in names:
            host = hosts.setdefault(name, _Host(f"{name}:{port}", name))
            host.routes += routes
            host.redirect = host.redirect or redirect
    if redirect:
        for _, name in server.hosts:
            hosts.setdefault(name, _Host(f"{name}:{port}", name)).redirect = True


def _collapsed(hosts: dict[str, _Host]) -> list[_Host]:
    """Virtual hosts sorted by name; those with the very same routes become one with several domains, called by the most
    specific of them (Istio)."""
    kept: dict[tuple[bool, tuple[int, ...]], _Host] = {}
    for name in sorted(hosts, key=host_specificity):
        host = hosts[name]
        first = kept.setdefault((host.redirect, tuple(id(route) for route in host.routes)), host)
        if first is not host:
            first.domains += host.domains
    return sorted(kept.values(), key=lambda host: host.name)


def _virtual_host(host: _Host, https_port: int) -> Any:
    message = route_components_pb2.VirtualHost(name=host.name, domains=host.domains, include_request_attempt_count=True)
    if host.redirect and https_port != HTTPS_PORT:
        # Envoy's own redirection (require_tls) keeps the port of the request, which only 80 and 443 survive.
        route = message.routes.add()
        route.match.prefix = "/"
        route.redirect.https_redirect = True
        route.redirect.port_redirect = https_port
        return message
    message.routes.extend(sorted(host.routes, key=_is_catch_all))
    if host.redirect:
        message.require_tls = route_components_pb2.VirtualHost.ALL
    return message


def _is_catch_all(route: Any) -> bool:
    """Whether a route takes every request; a stable sort by this moves catch-alls last."""
    match = route.match
    every = (
        match.prefix == "/" or match.path_separated_prefix == "/" or match.safe_regex.regex == ".*"
    ) and match.WhichOneof("path_specifier") in ("prefix", "path_separated_prefix", "safe_regex")
    return every and not (own_headers(match) or match.query_parameters or match.dynamic_metadata)
