"""Validated HTTP routes become model routes: full host names, gateways by key, percentages settled.

Used by `virtual_service`, and its retries by `mesh_config`.
"""

from __future__ import annotations

from collections.abc import Mapping

from headrace.config.kinds.http_fields import (
    LARGEST_STATUS,
    AbsentMatchSpec,
    UriMatchSpec,
    lower_cors,
    lower_destination,
    lower_fault,
    lower_headers,
    lower_match,
)
from headrace.config.kinds.http_route import (
    ENVOY_REDIRECTS,
    DirectResponseSpec,
    HttpMatchSpec,
    HttpRouteSpec,
    RedirectSpec,
    RetrySpec,
    RewriteSpec,
)
from headrace.config.kinds.istio_names import gateway_key
from headrace.model.names import resolve_gateway
from headrace.model.traffic import (
    DirectResponse,
    HttpMatch,
    HttpRoute,
    MatchKind,
    Mirror,
    Redirect,
    Retries,
    Rewrite,
    RouteDestination,
    StringMatch,
)


def lower_gateways(names: list[str], namespace: str) -> tuple[str, ...]:
    """References to gateways as keys: `mesh` or `namespace/name`."""
    return tuple(resolve_gateway(gateway_key(name), namespace) for name in names)


def lower_http_route(spec: HttpRouteSpec, namespace: str, position: int, line: int) -> HttpRoute:
    """The route."""
    delegate = spec.delegate
    return HttpRoute(
        name=spec.name,
        matches=tuple(_match(match, namespace) for match in spec.match),
        route=_destinations(spec, namespace),
        redirect=_redirect(spec.redirect) if spec.redirect else None,
        direct_response=_direct_response(spec.direct_response) if spec.direct_response else None,
        rewrite=_rewrite(spec.rewrite) if spec.rewrite else None,
        timeout=spec.timeout,
        retries=lower_retries(spec.retries),
        fault=lower_fault(spec.fault) if spec.fault else None,
        mirrors=_mirrors(spec, namespace),
        cors=lower_cors(spec.cors_policy) if spec.cors_policy else None,
        headers=lower_headers(spec.headers),
        delegate=(delegate.namespace or namespace, delegate.name) if delegate is not None else None,
        line=line,
        position=position,
    )


def _match(spec: HttpMatchSpec, namespace: str) -> HttpMatch:
    return HttpMatch(
        name=spec.name,
        uri=_condition(spec.uri),
        ignore_uri_case=spec.ignore_uri_case,
        scheme=_condition(spec.scheme),
        method=_condition(spec.method),
        authority=_condition(spec.authority),
        headers=_conditions(spec.headers),
        without_headers=_conditions(spec.without_headers),
        query_params=_conditions(spec.query_params),
        port=spec.port,
        source_labels=tuple(sorted(spec.source_labels.items())),
        source_namespace=spec.source_namespace,
        gateways=lower_gateways(spec.gateways, namespace),
        stat_prefix=spec.stat_prefix,
    )


def _condition(spec: UriMatchSpec | None) -> StringMatch | None:
    """A condition on something that every request has: none where any value fits."""
    found = lower_match(spec) if spec is not None else None
    always = found is None or found.kind is MatchKind.PRESENT or found == StringMatch(MatchKind.PREFIX, "")
    return None if always else found


def _conditions(
    specs: Mapping[str, UriMatchSpec | AbsentMatchSpec],
) -> tuple[tuple[str, StringMatch], ...]:
    return tuple((name, lower_match(spec)) for name, spec in sorted(specs.items()))


def _destinations(spec: HttpRouteSpec, namespace: str) -> tuple[RouteDestination, ...]:
    return tuple(
        RouteDestination(lower_destination(found.destination, namespace), found.weight, lower_headers(found.headers))
        for found in spec.route or ()
    )


def _redirect(spec: RedirectSpec) -> Redirect:
    return Redirect(
        uri=spec.uri,
        authority=spec.authority,
        port=spec.port or 0,
        derive_port=spec.derive_port or "",
        scheme=spec.scheme,
        code=spec.redirect_code if spec.redirect_code in ENVOY_REDIRECTS else 301,
        prefix_rewrite=spec.prefix_rewrite,
    )


def _direct_response(spec: DirectResponseSpec) -> DirectResponse:
    return DirectResponse(min(spec.status, LARGEST_STATUS), spec.body.content() if spec.body else None)


def _rewrite(spec: RewriteSpec) -> Rewrite:
    regex = spec.uri_regex_rewrite
    return Rewrite(spec.uri, spec.authority, regex.match if regex else "", regex.rewrite if regex else "")


def lower_retries(spec: RetrySpec | None) -> Retries | None:
    """A retry policy, of a route or of the mesh."""
    if spec is None:
        return None
    return Retries(
        attempts=spec.attempts,
        per_try_timeout=spec.per_try_timeout,
        retry_on=spec.retry_on,
        retry_remote_localities=spec.retry_remote_localities,
        retry_ignore_previous_hosts=spec.retry_ignore_previous_hosts,
        backoff=spec.backoff,
    )


def _mirrors(spec: HttpRouteSpec, namespace: str) -> tuple[Mirror, ...]:
    """Copies with their percentages (unset: 100); those of 0 are left out."""
    found = []
    if spec.mirror is not None:
        percent = 100.0 if spec.mirror_percent is None else float(spec.mirror_percent)
        percent = spec.mirror_percentage.value if spec.mirror_percentage is not None else percent
        found.append(Mirror(lower_destination(spec.mirror, namespace), percent))
    for mirror in spec.mirrors:
        percent = mirror.percentage.value if mirror.percentage is not None else 100.0
        found.append(Mirror(lower_destination(mirror.destination, namespace), percent))
    return tuple(mirror for mirror in found if mirror.percent > 0)
