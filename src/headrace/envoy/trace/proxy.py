"""One proxy's way with one request, from listener to cluster.

Called by `app.trace`, once for the caller's proxy and once for every callee's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from headrace.envoy.trace.filters import passed
from headrace.envoy.trace.listeners import chain_for, inspect, listener_for
from headrace.envoy.trace.request import Content, Data, Hop, Refusal, Request, Share, Step, Tls
from headrace.envoy.trace.routes import Skipped, answer_of, document, route_in, shares, virtual_host

Resources = Mapping[str, Sequence[Data]]
"""What `headrace translate -o json` prints."""

_HCM = "envoy.filters.network.http_connection_manager"
_TCP = "envoy.filters.network.tcp_proxy"
_NOT_FOUND, _MOVED, _BAD = 404, 301, 502
_SKIPPED_SHOWN = 5
BLACK_HOLE, PASSTHROUGH = "BlackHoleCluster", "PassthroughCluster"


def follow(resources: Resources, request: Request) -> Hop:
    """What the proxy with these resources does with the request."""
    steps: list[Step] = []
    listener, why = listener_for(resources["listeners"], request)
    if listener is None:
        place = f"{request.address}:{request.port}"
        return Hop(tuple(steps), refusal=Refusal("no-listener", f"nothing listens on {place} here"))
    steps.append(Step("listener", listener["name"], why))
    chain, why = chain_for(listener, request, inspect(listener, request))
    if chain is None:
        return Hop(tuple(steps), refusal=Refusal("no-filter-chain", why))
    steps.append(Step("filter chain", chain.get("name") or "(unnamed)", why, document(chain)))
    refusal = _handshake(chain, request)
    if refusal is not None:
        return Hop(tuple(steps), refusal=refusal)
    inside = request if chain.get("transport_socket") is None else _unwrapped(request)
    return _through(chain, resources, inside, steps)


def _handshake(chain: Data, request: Request) -> Refusal | None:
    """Whether the connection is wrapped as the chain wants it."""
    socket = chain.get("transport_socket")
    if socket is None:
        return None
    if request.tls is Tls.PLAIN:
        return Refusal("tls-required", "the client speaks plaintext where TLS is required")
    context: Mapping[str, Any] = socket.get("typed_config", {})
    if not context.get("require_client_certificate"):
        return None
    if request.tls is not Tls.MESH:
        return Refusal("client-certificate-required", "the client shows no certificate where one is required")
    return None


def _unwrapped(request: Request) -> Request:
    """The request inside TLS that ended here; the certificate stays known."""
    return replace(request, tls=Tls.PLAIN, scheme="https")


def _through(chain: Data, resources: Resources, request: Request, steps: list[Step]) -> Hop:
    filters = chain.get("filters", [])
    found, refusal = passed(filters, request, {})
    steps += found
    if refusal is not None:
        return Hop(tuple(steps), refusal=refusal)
    for item in filters:
        if item["name"] == _HCM:
            return _http(item["typed_config"], resources, request, steps)
        if item["name"] == _TCP:
            return _connection(item["typed_config"], request, steps)
    return Hop(tuple(steps), refusal=Refusal("no-route", "the filter chain forwards nothing"))


def _connection(config: Data, request: Request, steps: list[Step]) -> Hop:
    """Bytes that are passed on as they are."""
    parts = config.get("weighted_clusters", {}).get("clusters", [])
    total = sum(item.get("weight", 0) for item in parts) or 1
    found = tuple(Share(item["name"], 100 * item.get("weight", 0) / total, request) for item in parts)
    found = found or (Share(config.get("cluster", ""), 100.0, request),)
    return _forwarded(found, steps, {})


def _http(config: Data, resources: Resources, request: Request, steps: list[Step]) -> Hop:
    if request.tls is not Tls.PLAIN or request.content is Content.TCP:
        what = "TLS that does not end here" if request.tls is not Tls.PLAIN else "bytes that are no HTTP"
        return Hop(tuple(steps), refusal=Refusal("protocol-error", f"the port is HTTP, the client sends {what}"))
    table = config.get("route_config")
    if table is None:
        name = config.get("rds", {}).get("route_config_name", "")
        table = next((item for item in resources["routes"] if item["name"] == name), {"name": name})
    host, domain = virtual_host(table, request.host)
    route: Data | None = None
    skipped: tuple[Skipped, ...] = ()
    chance = ""
    if host is not None:
        route, skipped, chance = route_in(host, request)
    found, refusal = passed(config.get("http_filters", []), request, route or {})
    steps += found
    if refusal is not None:
        return Hop(tuple(steps), refusal=refusal)
    if host is None:
        reason = f"no virtual host of route table {table.get('name', '')} has the name {request.host!r}"
        return Hop(tuple(steps), refusal=Refusal("no-virtual-host", reason, _NOT_FOUND))
    steps.append(Step("virtual host", host.get("name", ""), f"host {request.host} is its domain {domain}"))
    if host.get("require_tls") == "ALL" and request.scheme != "https":
        return Hop(tuple(steps), answer=f"{_MOVED} to https://{request.host}{request.path}")
    return _routed(route, skipped, chance, request, steps)


def _routed(route: Data | None, skipped: tuple[Skipped, ...], chance: str, request: Request, steps: list[Step]) -> Hop:
    shown = skipped[:_SKIPPED_SHOWN]
    steps += [Step("not taken", item.name or "(unnamed route)", item.why, item.document) for item in shown]
    if len(skipped) > _SKIPPED_SHOWN:
        steps.append(Step("not taken", f"{len(skipped) - _SKIPPED_SHOWN} more routes", "none of them matches"))
    if route is None:
        return Hop(tuple(steps), refusal=Refusal("no-route", f"no route matches {request.path}", _NOT_FOUND))
    why = "the first route that matches" if skipped else "it matches"
    steps.append(
        Step("route", route.get("name") or "(unnamed)", f"{why}: {chance}" if chance else why, document(route))
    )
    answer = answer_of(route, request)
    if answer:
        blocked = route.get("name") == "block_all"
        if blocked:
            reason = "the mesh sends nothing to hosts that it does not know (REGISTRY_ONLY)"
            return Hop(tuple(steps), refusal=Refusal("unknown-host", reason, _BAD), route=route)
        return Hop(tuple(steps), answer=answer, route=route)
    return _forwarded(shares(route, request), steps, route)


def _forwarded(found: tuple[Share, ...], steps: list[Step], route: Data) -> Hop:
    if all(share.cluster == BLACK_HOLE for share in found):
        return Hop(tuple(steps), refusal=Refusal("unknown-host", "the connection is for nobody that the mesh knows"))
    return Hop(tuple(steps), found, route)
