"""Patches of route tables, their virtual hosts and routes.

Called by `patch` (tables that are resources) and `patch.listeners` (tables inside connection managers). The rules are
Istio's (rc_patch.go): tables are merged only; of virtual hosts and routes what is there is removed, merged or replaced
first, then what is new is put in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.envoy.translate.patch.choice import Chosen, Read
from headrace.envoy.translate.patch.merge import merge, replace_all
from headrace.model.envoy_filter import ApplyTo, Operation, PatchContext, RouteMatch

Ports = Mapping[int, frozenset[int]]
"""Ports that a gateway really binds → the ports of its servers that they stand for."""
_ACTIONS = {"route": "ROUTE", "redirect": "REDIRECT", "direct_response": "DIRECT_RESPONSE"}


def patch_routes(table: Any, chosen: Chosen, ports: Ports) -> None:
    """Apply the patches to a RouteConfiguration, in place."""

    def fits(item: Read) -> bool:
        match = item.patch.route
        return match is None or _table_matches(match, table.name, chosen.context, ports)

    for item in chosen.of(ApplyTo.ROUTE_CONFIGURATION):
        if item.operation.merges and fits(item):
            _merge(table, item)
    hosts = [item for item in chosen.of(ApplyTo.VIRTUAL_HOST) if fits(item)]
    routes = [item for item in chosen.of(ApplyTo.HTTP_ROUTE) if fits(item)]
    gone = {host.name for host in table.virtual_hosts if _host_removed(host, hosts, routes)}
    table.virtual_hosts.extend(item.value for item in hosts if item.operation is Operation.ADD)
    if gone:
        replace_all(table.virtual_hosts, [host for host in table.virtual_hosts if host.name not in gone])


def _merge(target: Any, item: Read) -> None:
    merge(target, item.value, replace_lists=item.operation is Operation.MERGE_AND_REPLACE_LIST)


def _host_removed(host: Any, hosts: list[Read], routes: list[Read]) -> bool:
    """Patch one virtual host; whether it is to go."""
    for item in hosts:
        if not _host_matches(item.patch.route, host):
            continue
        if item.operation is Operation.REMOVE:
            return True
        if item.operation.merges:
            _merge(host, item)
        elif item.operation is Operation.REPLACE:
            host.CopyFrom(item.value)
    _patch_host_routes(host, [item for item in routes if _host_matches(item.patch.route, host)])
    return False


def _patch_host_routes(host: Any, routes: list[Read]) -> None:
    kept = [route for route in host.routes if not _route_removed(route, routes)]
    if len(kept) < len(host.routes):
        replace_all(host.routes, kept)
    for item in routes:
        match = item.patch.route
        if item.operation is Operation.ADD:
            host.routes.append(item.value)
        elif item.operation in (Operation.INSERT_AFTER, Operation.INSERT_BEFORE, Operation.INSERT_FIRST):
            _insert_route(host.routes, item, match if match is not None and match.route else None)


def _insert_route(routes: Any, item: Read, match: RouteMatch | None) -> None:
    """`match` None: the patch names no route, and goes to an end."""
    at: int | None = 0
    if match is not None:
        at = next((at for at, route in enumerate(routes) if _route_matches(match, route)), None)
    if at is None:
        return
    if item.operation is Operation.INSERT_AFTER:
        routes.insert(len(routes) if match is None else at + 1, item.value)
    else:
        routes.insert(0 if item.operation is Operation.INSERT_FIRST else at, item.value)


def _route_removed(route: Any, routes: list[Read]) -> bool:
    """Merge into one route what is for it; whether it is to go."""
    for item in routes:
        match = item.patch.route
        if match is not None and match.route and not _route_matches(match, route):
            continue
        if item.operation is Operation.REMOVE:
            return True
        if item.operation.merges:
            _merge(route, item)
    return False


def _table_matches(match: RouteMatch, name: str, context: PatchContext, ports: Ports) -> bool:
    if match.name and match.name != name:
        return False
    if context is not PatchContext.GATEWAY:
        return not match.port or match.port == _port_of(name)
    port, port_name, gateway = _gateway_parts(name)
    if (match.port_name and match.port_name != port_name) or (match.gateway and match.gateway != gateway):
        return False
    return not match.port or match.port in ports.get(port, frozenset({port}))


def _port_of(name: str) -> int:
    """The port of a sidecar's table: `80`, or `inbound|80||`; 0 for others."""
    text = name.split("|")[1] if name.startswith("inbound|") else name
    return int(text) if text.isdigit() else 0


def _gateway_parts(name: str) -> tuple[int, str, str]:
    """Port, its name and `namespace/gateway` of `http.80` or `https.443.https-main.gateway.namespace`."""
    parts = name.split(".")
    port = int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 0
    if parts[0] == "https" and len(parts) >= 5:
        return port, parts[2], f"{parts[4]}/{parts[3]}"
    return port, "", ""


def _host_matches(match: RouteMatch | None, host: Any) -> bool:
    if match is None or not match.vhost:
        return True
    return match.vhost_name in ("", host.name) and (not match.vhost_domain or match.vhost_domain in host.domains)


def _route_matches(match: RouteMatch, route: Any) -> bool:
    if match.route_name and match.route_name != route.name:
        return False
    action = route.WhichOneof("action")
    return match.action == "ANY" or action not in _ACTIONS or _ACTIONS[action] == match.action
