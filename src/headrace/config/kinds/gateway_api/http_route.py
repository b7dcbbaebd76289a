"""`gateway.networking.k8s.io HTTPRoute`: where requests go and what is done to them on the way.

Lowered to `model.gateway_api.Route`: everything that needs no other document becomes part of a route of
`model.traffic` at once; parents and backends stay references.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from headrace.config.documents import Document, Path
from headrace.config.fields import Choice
from headrace.config.kinds.gateway_api.fields import (
    BackendSpec,
    Hostnames,
    Parents,
    SectionName,
    Span,
    default_gateway_findings,
    distinct,
    lowered_parents,
    number,
    rule_name_findings,
)
from headrace.config.kinds.gateway_api.filters import (
    QUOTED,
    HttpFilters,
    HttpFilterSpec,
    PathModifierSpec,
    RedirectFilterSpec,
    RewriteFilterSpec,
    is_header_filter,
    is_rule_filter,
    lower_filter_headers,
    unusable_filter,
)
from headrace.config.kinds.gateway_api.http_matches import (
    HttpRouteMatchSpec,
    SessionPersistenceSpec,
    match_count_findings,
    unusable_findings,
)
from headrace.config.schema import Finding, Kind, Spec, refuse
from headrace.model.gateway_api import BackendRef, Route, RouteRule
from headrace.model.policy import GATEWAY_GROUP
from headrace.model.resource import Metadata
from headrace.model.traffic import HttpRoute, Redirect, Retries, Rewrite

_RETRY_ON = ("connect-failure", "refused-stream", "unavailable", "cancelled")
"""What a rule with `retry` retries beside the codes that it names (Istio's choice)."""
_DEFAULT_ATTEMPTS = 2


class HttpBackendSpec(BackendSpec):
    """HTTPBackendRef."""

    filters: HttpFilters = []

    def lower(self) -> BackendRef:
        base = super().lower()
        unusable = unusable_filter(self.filters, is_header_filter)
        return BackendRef(base.ref, base.port, base.weight, lower_filter_headers(self.filters), unusable)


class TimeoutsSpec(Spec):
    """HTTPRouteTimeouts."""

    request: Span | None = None
    backend_request: Span | None = None

    @model_validator(mode="after")
    def _nested(self) -> TimeoutsSpec:
        if self.request and self.backend_request is not None and self.backend_request > self.request:
            message = "one attempt (backendRequest) may not take longer than the request"
            raise refuse(message, "Make it shorter, or request longer.", at=("backendRequest",))
        return self


class RetrySpec(Spec):
    """HTTPRouteRetry."""

    codes: Annotated[
        list[Annotated[int, BeforeValidator(number(400, 599))]], AfterValidator(distinct(int, "code"))
    ] = []
    attempts: Annotated[int, BeforeValidator(number(1, 2**31 - 1))] = _DEFAULT_ATTEMPTS
    backoff: Span | None = None


class HttpRuleSpec(Spec):
    """HTTPRouteRule."""

    name: SectionName | None = None
    matches: Annotated[list[HttpRouteMatchSpec], Field(max_length=64)] = []
    filters: HttpFilters = []
    backend_refs: Annotated[list[HttpBackendSpec], Field(max_length=16)] = []
    timeouts: TimeoutsSpec | None = None
    retry: RetrySpec | None = None
    session_persistence: SessionPersistenceSpec | None = None

    @model_validator(mode="after")
    def _fitting(self) -> HttpRuleSpec:
        for at, item in enumerate(self.filters):
            if item.request_redirect is not None and self.backend_refs:
                message = "a rule that redirects sends nothing to backends"
                raise refuse(message, "Remove backendRefs or the filter.", at=("filters", at, "type"))
        every: list[tuple[Path, HttpFilterSpec]] = [(("filters", at), item) for at, item in enumerate(self.filters)]
        for outer, backend in enumerate(self.backend_refs):
            every += [(("backendRefs", outer, "filters", at), item) for at, item in enumerate(backend.filters)]
        for place, item in every:
            if _replaces_prefix(item) and not self._one_prefix:
                message = "replacePrefixMatch needs exactly one match, and that of type PathPrefix"
                raise refuse(message, "Split the rule, or use ReplaceFullPath.", at=place)
        return self

    @property
    def _one_prefix(self) -> bool:
        """Whether there is one prefix to replace; a rule without matches has the prefix '/'."""
        if not self.matches:
            return True
        path = self.matches[0].path
        return len(self.matches) == 1 and (path is None or path.type == "PathPrefix")

    @property
    def prefix(self) -> str:
        """The prefix that replacePrefixMatch replaces."""
        return self.matches[0].lower().uri.value if self.matches else "/"  # type: ignore[union-attr]


def _replaces_prefix(item: HttpFilterSpec) -> bool:
    paths = [found.path for found in (item.request_redirect, item.url_rewrite) if found is not None]
    return any(path is not None and path.replace_prefix_match is not None for path in paths)


class HttpRouteApiSpec(Spec):
    """HTTPRouteSpec."""

    parent_refs: Parents = []
    use_default_gateways: Annotated[str, Choice("All", "None")] | None = None
    hostnames: Hostnames = []
    rules: Annotated[list[HttpRuleSpec], Field(min_length=1, max_length=16)] = [HttpRuleSpec()]


def _check(spec: HttpRouteApiSpec, document: Document) -> Iterator[Finding]:
    yield from match_count_findings([rule.matches for rule in spec.rules])
    yield from rule_name_findings([rule.name for rule in spec.rules])
    yield from default_gateway_findings(spec.use_default_gateways, "useDefaultGateways")
    for at, rule in enumerate(spec.rules):
        path: Path = ("spec", "rules", at)
        yield from unusable_findings(
            ["" if is_rule_filter(item.type) else item.type for item in rule.filters], (*path, "filters")
        )
        for place, backend in enumerate(rule.backend_refs):
            kinds = ["" if is_header_filter(item.type) else item.type for item in backend.filters]
            yield from unusable_findings(kinds, (*path, "backendRefs", place, "filters"))


def _lower(meta: Metadata, spec: HttpRouteApiSpec, document: Document) -> Route:
    return Route(
        meta=meta,
        parents=lowered_parents(spec.parent_refs),
        hostnames=tuple(spec.hostnames),
        rules=tuple(
            _rule(rule, f"{meta.namespace}.{meta.name}.{at}", document.locate(("spec", "rules", at))[1])
            for at, rule in enumerate(spec.rules)
        ),
    )


def _rule(spec: HttpRuleSpec, name: str, line: int) -> RouteRule:
    redirect = next((item.request_redirect for item in spec.filters if item.request_redirect), None)
    rewrite = next((item.url_rewrite for item in spec.filters if item.url_rewrite), None)
    cors = next((item.cors for item in spec.filters if item.cors), None)
    timeout, retries = _limits(spec)
    action = HttpRoute(
        name=spec.name or name,
        redirect=_redirect(redirect, spec.prefix) if redirect else None,
        rewrite=_rewrite(rewrite, spec.prefix) if rewrite else None,
        cors=cors.lower() if cors else None,
        headers=lower_filter_headers(spec.filters),
        timeout=timeout,
        retries=retries,
        line=line,
    )
    return RouteRule(
        backends=tuple(ref.lower() for ref in spec.backend_refs),
        matches=tuple(match.lower() for match in spec.matches),
        action=action,
        mirrors=tuple(item.request_mirror.lower() for item in spec.filters if item.request_mirror),
        unusable=unusable_filter(spec.filters, is_rule_filter),
    )


def _limits(spec: HttpRuleSpec) -> tuple[float | None, Retries | None]:
    """Timeout and retries. Without retries there is one attempt, so its time is the request's."""
    times = spec.timeouts or TimeoutsSpec()
    if spec.retry is None:
        return (times.backend_request or times.request, None)
    on = ",".join((*_RETRY_ON, *map(str, spec.retry.codes)))
    retries = Retries(spec.retry.attempts, times.backend_request or None, on, backoff=spec.retry.backoff or None)
    return times.request, retries


def _replaced(path: PathModifierSpec, prefix: str) -> tuple[str, str]:
    """(plain text, '') that takes the place of the prefix, or (RE2 pattern, substitution) where none can.

    Envoy puts the text where the prefix was: to take the prefix away, its slash must go too; in place of '/' a text
    needs one of its own.
    """
    text = (path.replace_prefix_match or "").removesuffix("/")
    if prefix == "/":
        return f"{text}/", ""
    return (text, "") if text else (f"^{prefix.translate(QUOTED)}(/?)(.*)", r"/\2")


def _redirect(spec: RedirectFilterSpec, prefix: str) -> Redirect:
    derive = "FROM_PROTOCOL_DEFAULT" if spec.scheme else "FROM_REQUEST_PORT"
    text, substitution = (
        _replaced(spec.path, prefix) if spec.path and spec.path.replace_prefix_match is not None else ("", "")
    )
    return Redirect(
        uri=(spec.path.replace_full_path or "") if spec.path else "",
        authority=spec.hostname or "",
        port=spec.port or 0,
        derive_port="" if spec.port else derive,
        scheme=spec.scheme or "",
        code=spec.status_code,
        prefix_rewrite="" if substitution else text,
        regex_match=text if substitution else "",
        regex_rewrite=substitution,
    )


def _rewrite(spec: RewriteFilterSpec, prefix: str) -> Rewrite | None:
    authority = spec.hostname or ""
    if spec.path is None:
        return Rewrite(authority=authority) if authority else None
    if spec.path.replace_full_path is not None:
        return Rewrite("", authority, "/.*", spec.path.replace_full_path.replace("\\", r"\\"))
    text, substitution = _replaced(spec.path, prefix)
    return Rewrite("", authority, text, substitution) if substitution else Rewrite(text, authority)


KIND = Kind(
    group=GATEWAY_GROUP,
    versions=("v1", "v1beta1"),
    name="HTTPRoute",
    model=HttpRouteApiSpec,
    lower=_lower,
    check=_check,
    untranslated=("spec.rules[].sessionPersistence",),
)
