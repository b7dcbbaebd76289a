"""HTTPRoute: one rule of a VirtualService, its matches and its actions, and how it becomes a model route.

Used by `virtual_service`. Rules are those of istio/pkg/config/validation/virtualservice.go.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from http import HTTPStatus
from typing import Annotated

from pydantic import BeforeValidator, model_validator

from headrace.config.documents import Path
from headrace.config.fields import Bool, Choice, Count, HttpStatus, LabelMap, Text, UInt32, Weight, shown
from headrace.config.kinds.http_fields import (
    LARGEST_STATUS,
    AbsentMatchSpec,
    CorsSpec,
    DestinationSpec,
    FaultSpec,
    HeadersSpec,
    PercentSpec,
    TextMatchSpec,
    UriMatchSpec,
    check_percent,
)
from headrace.config.kinds.istio_names import (
    Pattern,
    Timespan,
    at_most_one,
    gateway_findings,
    is_label,
    match_header_name,
    set_fields,
    spelled,
    warning,
)
from headrace.config.schema import NO_EFFECT, Finding, Spec, refuse
from headrace.model.problem import Severity

Content = bytes
"""The built-in type, under a name that BodySpec's field `bytes` does not hide."""
MAX_BODY = 1024 * 1024
"""Largest body of a direct response, in bytes (Istio's bound)."""
LARGE_BODY = 100 * 1024
"""Size of a direct response's body from which Istio warns."""
ENVOY_REDIRECTS = (301, 302, 303, 307, 308)
"""Redirect codes that Envoy can send."""
RETRY_ON = frozenset(
    (
        "5xx",
        "gateway-error",
        "reset",
        "reset-before-request",
        "connect-failure",
        "retriable-4xx",
        "refused-stream",
        "retriable-status-codes",
        "retriable-headers",
        "envoy-ratelimited",
        "http3-post-connect-failure",
        "cancelled",
        "deadline-exceeded",
        "internal",
        "resource-exhausted",
        "unavailable",
    )
)
"""Envoy's conditions to retry on, HTTP and gRPC."""
_STATUS_CODES = frozenset(str(status.value) for status in HTTPStatus)


class HttpMatchSpec(Spec):
    """HTTPMatchRequest."""

    name: Text = ""
    uri: UriMatchSpec | None = None
    scheme: TextMatchSpec | None = None
    method: TextMatchSpec | None = None
    authority: TextMatchSpec | None = None
    headers: dict[Text, TextMatchSpec] = {}
    without_headers: dict[Text, AbsentMatchSpec] = {}
    query_params: dict[Text, TextMatchSpec] = {}
    port: UInt32 = 0
    source_labels: LabelMap = {}
    source_namespace: Text = ""
    gateways: list[Text] = []
    ignore_uri_case: Bool = False
    stat_prefix: Text = ""

    @model_validator(mode="after")
    def _names(self) -> HttpMatchSpec:
        for field, names in (("headers", self.headers), ("withoutHeaders", self.without_headers)):
            for name in names:
                match_header_name(name, field)
        if self.port > 65535:
            raise refuse(f"{self.port} is not a port", "Use a number from 1 to 65535.", at=("port",))
        if self.source_namespace and not is_label(self.source_namespace):
            at = ("sourceNamespace",)
            raise refuse(f"{shown(self.source_namespace)} is not a namespace", "Write one namespace's name.", at=at)
        return self


class HttpRouteDestinationSpec(Spec):
    """HTTPRouteDestination."""

    destination: DestinationSpec
    weight: Weight = 0
    headers: HeadersSpec | None = None


class RedirectSpec(Spec):
    """HTTPRedirect."""

    uri: Text = ""
    authority: Text = ""
    port: UInt32 | None = None
    derive_port: Annotated[str, Choice("FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT", numbered=True)] | None = None
    scheme: Annotated[str, Choice("", "http", "https")] = ""
    redirect_code: UInt32 = 0
    prefix_rewrite: Text = ""

    @model_validator(mode="after")
    def _somewhere(self) -> RedirectSpec:
        at_most_one(self, "port", "derive_port")
        if self.uri and self.prefix_rewrite:
            raise refuse("uri and prefixRewrite exclude each other", "Keep one of them.", at=("prefixRewrite",))
        target = self.uri or self.prefix_rewrite or self.authority or self.scheme
        if not target and self.port is None and self.derive_port is None:
            raise refuse("a redirect must change something", "Add uri, prefixRewrite, authority, scheme or port.")
        if self.redirect_code and not 300 <= self.redirect_code <= 399:
            at = ("redirectCode",)
            raise refuse(f"{self.redirect_code} is not a redirect code", "Use 301, 302, 303, 307 or 308.", at=at)
        if self.port is not None and self.port > 65535:
            raise refuse(f"{self.port} is not a port", "Use a number from 1 to 65535.", at=("port",))
        return self


def _body_text(value: object) -> str:
    if not isinstance(value, str):
        raise refuse("must be text")
    return value


class BodySpec(Spec):
    """HTTPBody; `bytes` is base64."""

    string: Annotated[str, BeforeValidator(_body_text)] | None = None
    bytes: Annotated[str, BeforeValidator(_body_text)] | None = None

    @model_validator(mode="after")
    def _content(self) -> BodySpec:
        at_most_one(self, "string", "bytes")
        try:
            size = len(self.content())
        except (binascii.Error, ValueError):
            raise refuse("is not base64", "Encode the body with base64, or use string.", at=("bytes",)) from None
        if size > MAX_BODY:
            raise refuse(f"a body of {size} bytes is too large", f"Keep it below {MAX_BODY} bytes.")
        return self

    def content(self) -> Content:
        """The body's bytes."""
        if self.string is not None:
            return self.string.encode()
        text = (self.bytes or "").replace("-", "+").replace("_", "/")
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


class DirectResponseSpec(Spec):
    """HTTPDirectResponse."""

    status: HttpStatus
    body: BodySpec | None = None


class RegexRewriteSpec(Spec):
    """RegexRewrite."""

    match: Pattern
    rewrite: Text

    @model_validator(mode="after")
    def _filled(self) -> RegexRewriteSpec:
        if not self.rewrite:
            raise refuse("must not be empty", "Write what the match becomes.", at=("rewrite",))
        return self


class RewriteSpec(Spec):
    """HTTPRewrite."""

    uri: Text = ""
    authority: Text = ""
    uri_regex_rewrite: RegexRewriteSpec | None = None

    @model_validator(mode="after")
    def _something(self) -> RewriteSpec:
        if self.uri and self.uri_regex_rewrite:
            raise refuse("uri and uriRegexRewrite exclude each other", "Keep one of them.", at=("uriRegexRewrite",))
        if not (self.uri or self.authority or self.uri_regex_rewrite):
            raise refuse("a rewrite must change something", "Add uri, uriRegexRewrite or authority.")
        return self


class RetrySpec(Spec):
    """HTTPRetry; `attempts: 0` turns retries off."""

    attempts: Count = 0
    per_try_timeout: Timespan | None = None
    retry_on: Text = ""
    retry_remote_localities: Bool | None = None
    retry_ignore_previous_hosts: Bool | None = None
    backoff: Timespan | None = None

    @model_validator(mode="after")
    def _consistent(self) -> RetrySpec:
        extra = set_fields(self, "per_try_timeout", "retry_remote_localities") + (["retry_on"] if self.retry_on else [])
        if self.attempts == 0 and extra:
            field = spelled(self, extra[0])
            raise refuse(f"attempts 0 turns retries off, so {field} means nothing", "Set attempts.", at=(field,))
        for word in self.retry_on.split(",") if self.retry_on else ():
            if word not in RETRY_ON and word not in _STATUS_CODES:
                remedy = "Use Envoy's conditions (5xx, reset, connect-failure ...) or status codes, commas between."
                raise refuse(f"{shown(word)} is not a condition to retry on", remedy, at=("retryOn",))
        return self


class MirrorSpec(Spec):
    """HTTPMirrorPolicy."""

    destination: DestinationSpec
    percentage: PercentSpec | None = None

    @model_validator(mode="after")
    def _percent(self) -> MirrorSpec:
        check_percent(self.percentage, ("percentage",))
        return self


class DelegateSpec(Spec):
    """Delegate: another VirtualService that holds the routes."""

    name: Text = ""
    namespace: Text = ""


class HttpRouteSpec(Spec):
    """HTTPRoute."""

    name: Text = ""
    match: list[HttpMatchSpec] = []
    route: list[HttpRouteDestinationSpec] | None = None
    redirect: RedirectSpec | None = None
    direct_response: DirectResponseSpec | None = None
    delegate: DelegateSpec | None = None
    rewrite: RewriteSpec | None = None
    timeout: Timespan | None = None
    retries: RetrySpec | None = None
    fault: FaultSpec | None = None
    mirror: DestinationSpec | None = None
    mirrors: list[MirrorSpec] = []
    mirror_percent: UInt32 | None = None
    mirror_percentage: PercentSpec | None = None
    cors_policy: CorsSpec | None = None
    headers: HeadersSpec | None = None

    @model_validator(mode="after")
    def _one_action(self) -> HttpRouteSpec:
        if self.delegate is not None:
            if found := set_fields(self, "redirect", "route"):
                raise refuse(f"delegate and {found[0]} exclude each other", "Keep one of them.", at=(found[0],))
            return self
        action = next((name for name in ("redirect", "direct_response") if getattr(self, name) is not None), "")
        others = ("route", "fault", "rewrite", "direct_response")
        for other in others if action else ():
            if other != action and getattr(self, other):
                names = f"{spelled(self, other)} and {spelled(self, action)}"
                raise refuse(f"{names} exclude each other", "Keep one of them.", at=(spelled(self, other),))
        if not action and not self.route:
            raise refuse("a route must do something", "Add route, redirect or directResponse.", at=("route",))
        return self

    @model_validator(mode="after")
    def _consistent(self) -> HttpRouteSpec:
        check_percent(self.mirror_percentage, ("mirrorPercentage",))
        if self.mirror is not None and self.mirrors:
            raise refuse("mirror and mirrors exclude each other", "Put all of them into mirrors.", at=("mirror",))
        if (self.mirror_percent or 0) > 100:
            raise refuse(f"{self.mirror_percent} is not a percentage", "Use 0 to 100.", at=("mirrorPercent",))
        destinations = self.route or []
        if len(destinations) > 1 and not sum(destination.weight for destination in destinations):
            raise refuse("the weights add up to 0", "Give at least one destination a weight.", at=("route",))
        hosts = self.headers.authorities() if self.headers else []
        if self.rewrite and self.rewrite.authority:
            hosts = [self.rewrite.authority, *hosts]
        if len(hosts) > 1:
            raise refuse(f"the request's host is set {len(hosts)} times", "Keep one.", at=("headers", "request"))
        if self.redirect and self.redirect.prefix_rewrite:
            for at, match in enumerate(self.match):
                if match.uri is not None and match.uri.prefix is None:
                    message = "prefixRewrite needs a match by prefix"
                    raise refuse(message, "Use uri.prefix in every match of this route.", at=("match", at, "uri"))
        return self


def route_findings(spec: HttpRouteSpec, path: Path) -> Iterator[Finding]:
    """What stands beyond one route's schema: gateways, and what Istio only warns of."""
    for at, match in enumerate(spec.match):
        yield from gateway_findings(match.gateways, (*path, "match", at, "gateways"))
    if spec.mirror_percent is not None:
        yield warning((*path, "mirrorPercent"), "mirrorPercent is deprecated", "Use mirrorPercentage.")
    if spec.fault and spec.fault.abort and spec.fault.abort.http_status is None and not spec.fault.abort.grpc_status:
        yield warning((*path, "fault", "abort"), "an abort without a status does nothing", "Add httpStatus.")
    for name in ("delay", "abort"):
        part = getattr(spec.fault, name, None)
        if part is not None and part.percentage is None and not getattr(part, "percent", 0):
            message = f"{name} without a percentage does nothing"
            remedy = "Add percentage.value."
            yield Finding((*path, "fault", name), message, remedy, NO_EFFECT, Severity.WARNING)
    yield from _status_findings(spec, path)
    body = spec.direct_response.body if spec.direct_response else None
    if body is not None and len(body.content()) > LARGE_BODY:
        yield warning((*path, "directResponse", "body"), "a large body slows the control plane", "Serve it instead.")
    code = spec.redirect.redirect_code if spec.redirect else 0
    if code and code not in ENVOY_REDIRECTS:
        message = f"Envoy cannot redirect with {code}: 301 is sent"
        remedy = "Use 301, 302, 303, 307 or 308."
        yield Finding((*path, "redirect", "redirectCode"), message, remedy, NO_EFFECT, Severity.WARNING)


def _status_findings(spec: HttpRouteSpec, path: Path) -> Iterator[Finding]:
    abort = spec.fault.abort if spec.fault else None
    written = (
        (("directResponse", "status"), spec.direct_response.status if spec.direct_response else 0),
        (("fault", "abort", "httpStatus"), abort.http_status if abort else 0),
    )
    for field, status in written:
        if (status or 0) > LARGEST_STATUS:
            message = f"Envoy cannot answer with {status}: {LARGEST_STATUS} is sent"
            yield Finding((*path, *field), message, "Use a status from 200 to 599.", NO_EFFECT, Severity.WARNING)
