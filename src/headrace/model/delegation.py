"""Routes that a VirtualService leaves to another one: how the two become one (Istio's merge of delegates).

Called by `registry.build`, and by `config.analysis.delegates`, which tells what has no effect. A route with a
`delegate` becomes the delegate's routes: a match of the delegate must lie within one of the root's, else its route is
left out; what the delegate does not say of a route, the root's route says. One level only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from headrace.model.traffic import (
    Headers,
    HttpMatch,
    HttpRoute,
    MatchKind,
    Pairs,
    StringMatch,
    VirtualService,
)

Conditions = tuple[tuple[str, StringMatch], ...]
Delegates = Mapping[tuple[str, str], VirtualService]
"""VirtualServices without hosts, by namespace and name."""


def delegates_of(virtual_services: Iterable[VirtualService]) -> Delegates:
    """Those that have no hosts, which only others lead to."""
    return {(item.meta.namespace, item.meta.name): item for item in virtual_services if not item.hosts}


def is_exported(delegate: VirtualService, default: Sequence[str], namespace: str) -> bool:
    """Whether a VirtualService of `namespace` may delegate to it; `default` holds where it has no exportTo."""
    own = delegate.meta.namespace
    return any(word == "*" or (own if word == "." else word) == namespace for word in delegate.export_to or default)


def with_delegates(
    virtual_services: tuple[VirtualService, ...], default: Sequence[str], previous: tuple[VirtualService, ...]
) -> tuple[VirtualService, ...]:
    """The VirtualServices in the same order, delegates merged into their roots; the same tuple where none delegates,
    and the objects (or the tuple) of `previous` where roots and delegates are the same."""
    if all(item.hosts and not item.delegates for item in virtual_services):
        return virtual_services
    known = {item.sources: item for item in previous if item.sources}
    delegates = delegates_of(virtual_services)
    found: list[VirtualService] = []
    for item in virtual_services:
        if item.hosts and item.delegates:
            sources = (item, *_used(item, delegates, default))
            found.append(known.get(sources) or merged(item, sources))
        elif item.hosts:
            found.append(item)
    return previous if previous == tuple(found) else tuple(found)


def _used(root: VirtualService, delegates: Delegates, default: Sequence[str]) -> Iterator[VirtualService]:
    """The delegates that exist and that the root may use, in order of its routes, each once."""
    for key in dict.fromkeys(route.delegate for route in root.http if route.delegate is not None):
        delegate = delegates.get(key)
        if delegate is not None and is_exported(delegate, default, root.meta.namespace):
            yield delegate


def merged(root: VirtualService, sources: tuple[VirtualService, ...]) -> VirtualService:
    """The root with the routes of its delegates in place of those that lead to them; `sources` are it and them."""
    delegates = delegates_of(sources[1:])
    routes: list[HttpRoute] = []
    for route in root.http:
        if route.delegate is None:
            routes.append(route)
        elif route.delegate in delegates:
            routes += (found for found in merged_routes(route, delegates[route.delegate]) if found is not None)
    return replace(root, http=tuple(routes), sources=sources)


def merged_routes(root: HttpRoute, delegate: VirtualService) -> Iterator[HttpRoute | None]:
    """For each route of a delegate what becomes of it behind the root's route (None: a match of it conflicts)."""
    for route in delegate.http:
        matches = _matches(root.matches, route.matches)
        yield None if matches is None else _route(root, route, matches)


def _route(root: HttpRoute, route: HttpRoute, matches: tuple[HttpMatch, ...]) -> HttpRoute:
    return replace(
        route,
        name=_joined(root.name, route.name),
        matches=matches,
        rewrite=route.rewrite or root.rewrite,
        direct_response=route.direct_response or root.direct_response,
        timeout=route.timeout if route.timeout is not None else root.timeout,
        retries=route.retries or root.retries,
        fault=route.fault or root.fault,
        mirrors=route.mirrors or root.mirrors,
        cors=route.cors or root.cors,
        headers=root.headers if route.headers == Headers() else route.headers,
    )


def _joined(root: str, own: str) -> str:
    return f"{root}-{own}" if root and own else root or own


def _matches(roots: tuple[HttpMatch, ...], leaves: tuple[HttpMatch, ...]) -> tuple[HttpMatch, ...] | None:
    """Every pair that goes together, in order of the delegate's (None: one of the delegate's goes with none)."""
    if not roots or not leaves:
        return roots or leaves
    found: list[HttpMatch] = []
    for leaf in leaves:
        own = [_match(root, leaf) for root in roots if not _conflict(root, leaf)]
        if not own:
            return None
        found += own
    return tuple(found)


def _match(root: HttpMatch, leaf: HttpMatch) -> HttpMatch:
    return replace(
        leaf,
        name=_joined(root.name, leaf.name),
        uri=leaf.uri or root.uri,
        scheme=leaf.scheme or root.scheme,
        method=leaf.method or root.method,
        authority=leaf.authority or root.authority,
        headers=_together(root.headers, leaf.headers),
        without_headers=_together(root.without_headers, leaf.without_headers),
        query_params=_together(root.query_params, leaf.query_params),
        port=leaf.port or root.port,
        source_labels=_labels(root.source_labels, leaf.source_labels),
        source_namespace=leaf.source_namespace or root.source_namespace,
        gateways=leaf.gateways or root.gateways,
        stat_prefix=leaf.stat_prefix or root.stat_prefix,
    )


def _together(root: Conditions, leaf: Conditions) -> Conditions:
    return tuple(sorted({**dict(root), **dict(leaf)}.items(), key=lambda pair: pair[0]))


def _labels(root: Pairs, leaf: Pairs) -> Pairs:
    return tuple(sorted({**dict(root), **dict(leaf)}.items()))


def _conflict(root: HttpMatch, leaf: HttpMatch) -> bool:
    """Whether the leaf asks for something that is not certainly within what the root asks for."""
    texts = (
        (root.uri, leaf.uri),
        (root.scheme, leaf.scheme),
        (root.method, leaf.method),
        (root.authority, leaf.authority),
    )
    if any(_text_conflict(one, other) for one, other in texts):
        return True
    maps = (
        (root.headers, leaf.headers),
        (root.without_headers, leaf.without_headers),
        (root.query_params, leaf.query_params),
    )
    if any(_text_conflict(dict(one).get(name), text) for one, other in maps for name, text in other):
        return True
    labels = dict(root.source_labels)
    return (
        root.ignore_uri_case != leaf.ignore_uri_case
        or bool(root.port and leaf.port and root.port != leaf.port)
        or bool(root.source_namespace and root.source_namespace != leaf.source_namespace)
        or any(labels.get(name, value) != value for name, value in leaf.source_labels)
        or bool(root.gateways and not set(leaf.gateways) <= set(root.gateways))
    )


def _text_conflict(root: StringMatch | None, leaf: StringMatch | None) -> bool:
    """Whether both ask for a text and the leaf's is not certainly within the root's: patterns are not compared."""
    if root is None or leaf is None:
        return False
    if root.kind is MatchKind.EXACT:
        return leaf != root
    if root.kind is MatchKind.PREFIX and leaf.kind in (MatchKind.PREFIX, MatchKind.EXACT):
        return not leaf.value.startswith(root.value)
    return True
