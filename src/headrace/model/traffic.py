"""HTTP routing policy: what a VirtualService says, with hosts and gateways resolved and units fixed.

Made by `config.kinds.virtual_service`, read by `envoy.translate.routes`. Field meanings are those of
istio.networking.v1.VirtualService; only what differs is said here. Times in seconds, percentages 0-100.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from headrace.model.resource import Metadata

Pairs = tuple[tuple[str, str], ...]
"""Ordered name/value pairs (headers, labels); sorted by name where order carries no meaning."""


PARENTS = "internal.istio.io/parents"
"""Istio's annotation of a VirtualService that stands for a route of the Gateway API: the route's kind and name."""


class MatchKind(StrEnum):
    """How a StringMatch compares. PRESENT is Istio's header match without a value (`{}`) or with the regex `*`;
    SEGMENTS a path whose first whole segments are the value's (the Gateway API's PathPrefix)."""

    EXACT = "exact"
    PREFIX = "prefix"
    SEGMENTS = "segments"
    REGEX = "regex"
    PRESENT = "present"


@dataclass(frozen=True, slots=True)
class StringMatch:
    """One text comparison; `value` is an RE2 pattern that must match the whole text where kind is REGEX."""

    kind: MatchKind
    value: str = ""


@dataclass(frozen=True, slots=True)
class HttpMatch:
    """HTTPMatchRequest: all conditions hold together. `gateways` empty means the VirtualService's own. A header may be
    the claim of a verified token (`model.claims.routing_claim`)."""

    name: str = ""
    uri: StringMatch | None = None
    ignore_uri_case: bool = False
    scheme: StringMatch | None = None
    method: StringMatch | None = None
    authority: StringMatch | None = None
    headers: tuple[tuple[str, StringMatch], ...] = ()
    without_headers: tuple[tuple[str, StringMatch], ...] = ()
    query_params: tuple[tuple[str, StringMatch], ...] = ()
    port: int = 0
    source_labels: Pairs = ()
    source_namespace: str = ""
    gateways: tuple[str, ...] = ()
    stat_prefix: str = ""


@dataclass(frozen=True, slots=True)
class HeaderOps:
    """Headers.HeaderOperations; `set` overwrites, `add` appends."""

    set: Pairs = ()
    add: Pairs = ()
    remove: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Headers:
    """Headers: what happens to request and response headers."""

    request: HeaderOps = HeaderOps()
    response: HeaderOps = HeaderOps()


@dataclass(frozen=True, slots=True)
class Destination:
    """A service (full name; '' a reference that leads nowhere), one of its subsets ('' = whole service) and a port (0 =
    the only one, else the one the request came for)."""

    host: str
    subset: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True)
class RouteDestination:
    """HTTPRouteDestination. `weight` as written; a lone destination has weight 0 written and takes everything."""

    destination: Destination
    weight: int = 0
    headers: Headers = Headers()


@dataclass(frozen=True, slots=True)
class Redirect:
    """HTTPRedirect. `port` 0: unset; `derive_port` is '', FROM_PROTOCOL_DEFAULT or FROM_REQUEST_PORT. `prefix_rewrite`
    replaces the prefix that matched; it excludes `uri`, which replaces the whole path, and `regex_match` (RE2 pattern)
    with `regex_rewrite` (`\\1` substitution)."""

    uri: str = ""
    authority: str = ""
    port: int = 0
    derive_port: str = ""
    scheme: str = ""
    code: int = 301
    prefix_rewrite: str = ""
    regex_match: str = ""
    regex_rewrite: str = ""


@dataclass(frozen=True, slots=True)
class Rewrite:
    """HTTPRewrite; `regex_match`/`regex_rewrite` are uriRegexRewrite (RE2 pattern, `\\1` substitution)."""

    uri: str = ""
    authority: str = ""
    regex_match: str = ""
    regex_rewrite: str = ""


@dataclass(frozen=True, slots=True)
class DirectResponse:
    """HTTPDirectResponse; None body means no body."""

    status: int
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Retries:
    """HTTPRetry; None means "as the default" for the field. `attempts` 0 disables."""

    attempts: int
    per_try_timeout: float | None = None
    retry_on: str = ""
    retry_remote_localities: bool | None = None
    retry_ignore_previous_hosts: bool | None = None
    backoff: float | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """HTTPFaultInjection; a part without a percentage does nothing (Istio's rule), so it is None or has one."""

    delay: float | None = None
    delay_percent: float = 0.0
    abort_status: int | None = None
    abort_grpc_status: int | None = None
    abort_percent: float = 0.0


@dataclass(frozen=True, slots=True)
class Mirror:
    """A destination that receives a copy of `percent` of the requests (unset → 100)."""

    destination: Destination
    percent: float = 100.0


@dataclass(frozen=True, slots=True)
class Cors:
    """CorsPolicy; `max_age` in seconds, None where unset. `unmatched_preflights`: '', FORWARD or IGNORE."""

    allow_origins: tuple[StringMatch, ...] = ()
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age: float | None = None
    allow_credentials: bool | None = None
    unmatched_preflights: str = ""


@dataclass(frozen=True, slots=True)
class HttpRoute:
    """HTTPRoute: matches (none = everything) and exactly one of route, redirect, direct_response, delegate.

    `delegate` is namespace and name of the VirtualService that has the routes (`model.delegation` puts them in place).

    `timeout` None means "not written" (the engine's explicit default or none), 0 means written as none. `position` is
    its index in the document's list, where routes that are not translated leave gaps. `missing_is_error`: a destination
    that does not exist answers 500 (the Gateway API's rule), not 503.
    """

    name: str = ""
    matches: tuple[HttpMatch, ...] = ()
    route: tuple[RouteDestination, ...] = ()
    redirect: Redirect | None = None
    direct_response: DirectResponse | None = None
    rewrite: Rewrite | None = None
    timeout: float | None = None
    retries: Retries | None = None
    fault: Fault | None = None
    mirrors: tuple[Mirror, ...] = ()
    cors: Cors | None = None
    headers: Headers = Headers()
    delegate: tuple[str, str] | None = None
    line: int = 0
    position: int = 0
    missing_is_error: bool = False


@dataclass(frozen=True, slots=True)
class L4Match:
    """L4MatchAttributes or TLSMatchAttributes: all conditions hold together. `sni_hosts` (of TLS only) in lower case,
    empty or with `*`: any; `subnets` are blocks of destination addresses as `address/length`, empty: any address."""

    sni_hosts: tuple[str, ...] = ()
    subnets: tuple[str, ...] = ()
    port: int = 0
    source_labels: Pairs = ()
    source_namespace: str = ""
    gateways: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class L4Route:
    """TCPRoute or TLSRoute: connections that one of `matches` takes (none: every one) go to `route` as they are."""

    matches: tuple[L4Match, ...]
    route: tuple[RouteDestination, ...]
    line: int = 0
    position: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class VirtualService:
    """A VirtualService; `hosts` are full names (none: a delegate of others), `gateways` are `mesh` or `namespace/name`
    (default: mesh), `export_to` as written (empty: the mesh's default). `sources`: the documents that it was merged of,
    the root first, where it delegates."""

    meta: Metadata
    hosts: tuple[str, ...]
    gateways: tuple[str, ...]
    http: tuple[HttpRoute, ...]
    export_to: tuple[str, ...] = ()
    tls: tuple[L4Route, ...] = ()
    tcp: tuple[L4Route, ...] = ()
    sources: tuple[VirtualService, ...] = ()

    @property
    def delegates(self) -> bool:
        """Whether it leaves routes to others."""
        return any(route.delegate is not None for route in self.http)

    @property
    def made_of_tls_route(self) -> bool:
        """Whether it stands for a TLSRoute, whose `tls` rules hold also where TLS ends at the gateway (Istio)."""
        return self.meta.annotations.get(PARENTS, "").startswith("TLSRoute/")

    def matches(self) -> Iterator[HttpMatch | L4Match]:
        """Every condition of every route."""
        for http in self.http:
            yield from http.matches
        for opaque in (*self.tls, *self.tcp):
            yield from opaque.matches
