"""Conditions of HTTPRoute and GRPCRoute rules, and the other fields that both have.

Used by `http_route` and `grpc_route`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated

import re2
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from headrace.config.documents import Path
from headrace.config.fields import Choice, check_regex, shown
from headrace.config.kinds.gateway_api.fields import METHODS, URL_PATH, HeaderName, HeaderValue, Span, bounded, distinct
from headrace.config.schema import NOT_SUPPORTED, Finding, Spec, refuse
from headrace.model.problem import Severity
from headrace.model.traffic import HttpMatch, MatchKind, StringMatch

MAX_MATCHES = 128
"""Matches of all rules of one route together."""
_PATH = re2.compile(URL_PATH)
_FORBIDDEN = ("//", "/./", "/../", "%2f", "%2F", "#")
_SERVICE = re2.compile(r"(?i)\.?[a-z_][a-z_0-9]*(\.[a-z_][a-z_0-9]*)*")
_METHOD = re2.compile(r"[A-Za-z_][A-Za-z_0-9]*")
MatchType = Annotated[str, Choice("Exact", "RegularExpression")]


def _pattern(kind: str, value: str) -> None:
    """RE2 must take it; '*' of a header is Istio's "any value"."""
    if kind == "RegularExpression" and value != "*":
        check_regex(value)


class PathMatchSpec(Spec):
    """HTTPPathMatch."""

    type: Annotated[str, Choice("Exact", "PathPrefix", "RegularExpression")] = "PathPrefix"
    value: Annotated[str, BeforeValidator(bounded(0, 1024))] = "/"

    @model_validator(mode="after")
    def _is_path(self) -> PathMatchSpec:
        if self.type == "RegularExpression":
            check_regex(self.value)
            return self
        if not self.value.startswith("/"):
            raise refuse(f"{shown(self.value)} is not an absolute path", "Begin it with '/'.", at=("value",))
        wrong = next((part for part in _FORBIDDEN if part in self.value), "")
        wrong = wrong or next((part for part in ("/..", "/.") if self.value.endswith(part)), "")
        if wrong or not _PATH.fullmatch(self.value):
            what = f" ({wrong!r})" if wrong else ""
            raise refuse(f"{shown(self.value)} is not the path of a request{what}", "", at=("value",))
        return self

    def lower(self) -> StringMatch:
        """The comparison; a prefix means whole segments of the path, and a slash at its end means nothing."""
        if self.type == "Exact":
            return StringMatch(MatchKind.EXACT, self.value)
        if self.type == "RegularExpression":
            return StringMatch(MatchKind.REGEX, self.value)
        return StringMatch(MatchKind.SEGMENTS, self.value if self.value == "/" else self.value.removesuffix("/"))


class HeaderMatchSpec(Spec):
    """HTTPHeaderMatch."""

    type: MatchType = "Exact"
    name: HeaderName
    value: HeaderValue

    @model_validator(mode="after")
    def _is_pattern(self) -> HeaderMatchSpec:
        _pattern(self.type, self.value)
        return self


class GrpcHeaderMatchSpec(HeaderMatchSpec):
    """GRPCHeaderMatch."""

    value: Annotated[str, BeforeValidator(bounded(1, 4096))]


class QueryMatchSpec(HeaderMatchSpec):
    """HTTPQueryParamMatch."""

    value: Annotated[str, BeforeValidator(bounded(1, 1024))]


def conditions(specs: Iterable[HeaderMatchSpec], *, fold: bool) -> tuple[tuple[str, StringMatch], ...]:
    """The comparisons sorted by name; of several with equivalent names the first counts (`fold`: without regard to
    case)."""
    found: dict[str, StringMatch] = {}
    for item in specs:
        kind = MatchKind.EXACT if item.type == "Exact" else MatchKind.REGEX
        found.setdefault(item.name.lower() if fold else item.name, StringMatch(kind, item.value))
    return tuple(sorted(found.items()))


def _unique(what: str) -> AfterValidator:
    return AfterValidator(distinct(lambda item: item.name, what))


class HttpRouteMatchSpec(Spec):
    """HTTPRouteMatch."""

    path: PathMatchSpec | None = None
    headers: Annotated[list[HeaderMatchSpec], Field(max_length=16), _unique("header")] = []
    query_params: Annotated[list[QueryMatchSpec], Field(max_length=16), _unique("parameter")] = []
    method: Annotated[str, Choice(*METHODS)] | None = None

    def lower(self) -> HttpMatch:
        return HttpMatch(
            uri=(self.path or PathMatchSpec()).lower(),
            method=StringMatch(MatchKind.EXACT, self.method) if self.method else None,
            headers=conditions(self.headers, fold=True),
            query_params=conditions(self.query_params, fold=False),
        )


class GrpcMethodSpec(Spec):
    """GRPCMethodMatch."""

    type: MatchType = "Exact"
    service: Annotated[str, BeforeValidator(bounded(0, 1024))] | None = None
    method: Annotated[str, BeforeValidator(bounded(0, 1024))] | None = None

    @model_validator(mode="after")
    def _named(self) -> GrpcMethodSpec:
        if self.service is None and self.method is None:
            raise refuse("a method match needs a service or a method", "Add one of them.", at=("service",))
        for field, value, name in (("service", self.service, _SERVICE), ("method", self.method, _METHOD)):
            if value is None:
                continue
            if self.type == "RegularExpression":
                check_regex(value)
            elif not name.fullmatch(value):
                raise refuse(f"{shown(value)} is not the name of a gRPC {field}", "", at=(field,))
        return self

    def lower(self) -> StringMatch:
        """The comparison with the path /service/method."""
        exact = self.type == "Exact"
        if self.service is None:
            return StringMatch(MatchKind.REGEX, f"/[^/]+/{self.method}")
        if self.method is None:
            text = f"/{self.service}/"
            return StringMatch(MatchKind.PREFIX, text) if exact else StringMatch(MatchKind.REGEX, f"{text}.+")
        return StringMatch(MatchKind.EXACT if exact else MatchKind.REGEX, f"/{self.service}/{self.method}")


class GrpcRouteMatchSpec(Spec):
    """GRPCRouteMatch."""

    method: GrpcMethodSpec | None = None
    headers: Annotated[list[GrpcHeaderMatchSpec], Field(max_length=16), _unique("header")] = []

    def lower(self) -> HttpMatch:
        uri = self.method.lower() if self.method else None
        return HttpMatch(uri=uri, headers=conditions(self.headers, fold=True))


class CookieSpec(Spec):
    """CookieConfig."""

    lifetime_type: Annotated[str, Choice("Permanent", "Session")] = "Session"


class SessionPersistenceSpec(Spec):
    """SessionPersistence."""

    session_name: Annotated[str, BeforeValidator(bounded(0, 128))] = ""
    absolute_timeout: Span | None = None
    type: Annotated[str, Choice("Cookie", "Header")] = "Cookie"
    cookie_config: CookieSpec | None = None

    @model_validator(mode="after")
    def _fitting(self) -> SessionPersistenceSpec:
        cookie = self.cookie_config
        if cookie is not None and self.type != "Cookie":
            raise refuse("cookieConfig is for type Cookie only", "Remove it.", at=("cookieConfig",))
        if cookie is not None and cookie.lifetime_type == "Permanent" and self.absolute_timeout is None:
            raise refuse("a permanent cookie needs absoluteTimeout", "Add it.", at=("absoluteTimeout",))
        return self


def match_count_findings(rules: Sequence[Sequence[object]]) -> Iterator[Finding]:
    """All rules together may have 128 matches."""
    total = sum(len(matches) for matches in rules)
    if total > MAX_MATCHES:
        message = f"the rules have {total} matches together; the limit is {MAX_MATCHES}"
        yield Finding(("spec", "rules"), message, "Write several routes.")


def unusable_findings(filters: Sequence[str], path: Path) -> Iterator[Finding]:
    """Filters that nothing here can do: the whole route is not brought into force (Istio's rule)."""
    for at, kind in enumerate(filters):
        if not kind:
            continue
        message = f"a filter of type {kind} is not supported: the whole route is left out"
        yield Finding((*path, at, "type"), message, "Remove it.", NOT_SUPPORTED, Severity.WARNING)
