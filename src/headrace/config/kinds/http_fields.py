"""Parts of HTTP routes that stand alone: string matches, header operations, destinations, percentages, CORS, faults.

Each model carries Istio's own rules; `lower_...` turns it into `headrace.model.traffic`. Used by `http_route`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import model_validator

from headrace.config.fields import Bool, Choice, HttpStatus, Int32, Number, Port, Text, shown
from headrace.config.kinds.istio_names import (
    Pattern,
    PatternOrAny,
    Timespan,
    WildcardName,
    at_most_one,
    check_header_value,
    cors_header_name,
    is_authority,
    is_label,
)
from headrace.config.schema import Spec, refuse
from headrace.model.names import resolve_host
from headrace.model.traffic import (
    Cors,
    Destination,
    Fault,
    HeaderOps,
    Headers,
    MatchKind,
    StringMatch,
)

_CORS_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*")
LARGEST_STATUS = 599
"""The largest status that Envoy sends."""
GRPC_STATUS = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
"""Names of gRPC status codes; a name's place is its number."""


class UriMatchSpec(Spec):
    """StringMatch of a path, where an empty prefix is allowed."""

    exact: Text | None = None
    prefix: Text | None = None
    regex: Pattern | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> UriMatchSpec:
        at_most_one(self, "exact", "prefix", "regex")
        return self


class TextMatchSpec(UriMatchSpec):
    """StringMatch of anything else: no empty prefix."""

    @model_validator(mode="after")
    def _prefix_has_text(self) -> TextMatchSpec:
        if self.prefix == "":
            raise refuse("an empty prefix matches everything", "Write {} to match any value.", at=("prefix",))
        return self


class AbsentMatchSpec(Spec):
    """StringMatch of `withoutHeaders`, where the regex `*` means any value."""

    exact: Text | None = None
    prefix: Text | None = None
    regex: PatternOrAny | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> AbsentMatchSpec:
        at_most_one(self, "exact", "prefix", "regex")
        if self.prefix == "":
            raise refuse("an empty prefix matches everything", "Write {} to match any value.", at=("prefix",))
        return self


class OriginMatchSpec(UriMatchSpec):
    """StringMatch of a CORS origin: some text is required."""

    @model_validator(mode="after")
    def _has_text(self) -> OriginMatchSpec:
        if not (self.exact or self.prefix or self.regex):
            raise refuse("an allowed origin needs a text", "Write exact, prefix or regex.")
        return self


def lower_match(spec: UriMatchSpec | AbsentMatchSpec) -> StringMatch:
    """The comparison; PRESENT where none is written (`{}`), or the regex `*`."""
    if spec.exact is not None:
        return StringMatch(MatchKind.EXACT, spec.exact)
    if spec.prefix is not None:
        return StringMatch(MatchKind.PREFIX, spec.prefix)
    if spec.regex is None or spec.regex == "*":
        return StringMatch(MatchKind.PRESENT)
    return StringMatch(MatchKind.REGEX, spec.regex)


class HeaderOperationsSpec(Spec):
    """Headers.HeaderOperations."""

    set: dict[Text, Text] = {}
    add: dict[Text, Text] = {}
    remove: list[Text] = []


class HeadersSpec(Spec):
    """Headers; the request's host may be set, other pseudo headers may not."""

    request: HeaderOperationsSpec | None = None
    response: HeaderOperationsSpec | None = None

    @model_validator(mode="after")
    def _names_and_values(self) -> HeadersSpec:
        for side, operations in (("request", self.request), ("response", self.response)):
            if operations is None:
                continue
            for verb, values in (("set", operations.set), ("add", operations.add)):
                for name, value in values.items():
                    if not (side == "request" and is_authority(name)):
                        _check_operation(name, (side, verb, name))
                    check_header_value(value, (side, verb, name))
            for at, name in enumerate(operations.remove):
                _check_operation(name, (side, "remove", at))
        return self

    def authorities(self) -> list[str]:
        """Every value that the request's host is set to."""
        if self.request is None:
            return []
        pairs = [*self.request.set.items(), *self.request.add.items()]
        return [value for name, value in pairs if is_authority(name)]


def _check_operation(name: str, at: tuple[str | int, ...]) -> None:
    if not name:
        raise refuse("a header needs a name", at=at[:-1])
    if name.startswith(":") or name.lower() == "host":
        raise refuse(f"header {shown(name)} may not be changed here", "Only a request's Host may be set.", at=at)


def _lower_operations(spec: HeaderOperationsSpec | None) -> HeaderOps:
    if spec is None:
        return HeaderOps()
    return HeaderOps(_pairs(spec.set), _pairs(spec.add), tuple(sorted(spec.remove)))


def _pairs(values: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(values.items()))


def lower_headers(spec: HeadersSpec | None) -> Headers:
    """Header operations, sorted by name."""
    if spec is None:
        return Headers()
    return Headers(_lower_operations(spec.request), _lower_operations(spec.response))


class PortSelectorSpec(Spec):
    """PortSelector: a port's number."""

    number: Port


class DestinationSpec(Spec):
    """Destination: a host of the mesh, perhaps one subset and one port of it."""

    host: WildcardName
    subset: Text = ""
    port: PortSelectorSpec | None = None

    @model_validator(mode="after")
    def _names(self) -> DestinationSpec:
        if self.host == "*":
            raise refuse("'*' is not a host that requests can be sent to", "Write one service's name.", at=("host",))
        if self.subset:
            check_subset_name(self.subset, ("subset",))
        return self


def check_subset_name(name: str, at: tuple[str | int, ...]) -> None:
    """Refuse a name that a subset cannot have."""
    if not is_label(name):
        raise refuse(f"{shown(name)} is not a subset's name", "Use 1-63 letters, digits and '-'.", at=at)


def lower_destination(spec: DestinationSpec, namespace: str) -> Destination:
    """The destination with its full host name."""
    return Destination(resolve_host(spec.host, namespace), spec.subset, spec.port.number if spec.port else 0)


class PercentSpec(Spec):
    """Percent: 0 to 100; `{}` is 0."""

    value: Number = 0.0


def check_percent(spec: PercentSpec | None, at: tuple[str | int, ...], least: float = 0.0) -> None:
    """Refuse a percentage outside 0-100, or one between 0 and `least`."""
    if spec is not None and not (spec.value == 0 or least <= spec.value <= 100):
        bounds = f"Use 0, or a number from {least:g} to 100." if least else "Use a number from 0 to 100."
        raise refuse(f"{spec.value:g} is not a percentage", bounds, at=(*at, "value"))


class CorsSpec(Spec):
    """CorsPolicy."""

    allow_origin: list[Text] = []
    allow_origins: list[OriginMatchSpec] | None = None
    allow_methods: list[Annotated[str, Choice(*_CORS_METHODS)]] = []
    allow_headers: list[Text] = []
    expose_headers: list[Text] = []
    max_age: Timespan | None = None
    allow_credentials: Bool | None = None
    unmatched_preflights: Annotated[str, Choice("UNSPECIFIED", "FORWARD", "IGNORE", numbered=True)] = "UNSPECIFIED"

    @model_validator(mode="after")
    def _names(self) -> CorsSpec:
        for field, names in (("allowHeaders", self.allow_headers), ("exposeHeaders", self.expose_headers)):
            for at, name in enumerate(names):
                if not cors_header_name(name):
                    raise refuse(f"{shown(name)} is not a header name", "Use letters, digits and '-'.", at=(field, at))
        if self.max_age is not None and self.max_age != int(self.max_age):
            raise refuse("maxAge has whole seconds only", "Round it to seconds.", at=("maxAge",))
        return self


def lower_cors(spec: CorsSpec) -> Cors:
    """The policy; the old allowOrigin counts where allowOrigins is not written."""
    if spec.allow_origins is not None:
        origins = tuple(lower_match(origin) for origin in spec.allow_origins)
    else:
        origins = tuple(StringMatch(MatchKind.EXACT, origin) for origin in spec.allow_origin)
    return Cors(
        allow_origins=origins,
        allow_methods=tuple(spec.allow_methods),
        allow_headers=tuple(spec.allow_headers),
        expose_headers=tuple(spec.expose_headers),
        max_age=spec.max_age,
        allow_credentials=spec.allow_credentials,
        unmatched_preflights="" if spec.unmatched_preflights == "UNSPECIFIED" else spec.unmatched_preflights,
    )


class DelaySpec(Spec):
    """HTTPFaultInjection.Delay."""

    percent: Int32 = 0
    fixed_delay: Timespan | None = None
    exponential_delay: Timespan | None = None
    percentage: PercentSpec | None = None

    @model_validator(mode="after")
    def _supported(self) -> DelaySpec:
        if self.exponential_delay is not None:
            raise refuse("exponentialDelay is not supported", "Use fixedDelay.", at=("exponentialDelay",))
        check_percent(self.percentage, ("percentage",), 0.0001)
        return self


def sent_status(status: int | None) -> int | None:
    """The status that Envoy sends for one that is written."""
    return None if status is None else min(status, LARGEST_STATUS)


class AbortSpec(Spec):
    """HTTPFaultInjection.Abort."""

    http_status: HttpStatus | None = None
    grpc_status: Annotated[str, Choice(*GRPC_STATUS)] | None = None
    http2_error: Text | None = None
    percentage: PercentSpec | None = None

    @model_validator(mode="after")
    def _supported(self) -> AbortSpec:
        at_most_one(self, "http_status", "grpc_status", "http2_error")
        if self.http2_error is not None:
            raise refuse("http2Error is not supported", "Use httpStatus or grpcStatus.", at=("http2Error",))
        check_percent(self.percentage, ("percentage",), 0.0001)
        return self


class FaultSpec(Spec):
    """HTTPFaultInjection: a delay, an abort, or both."""

    delay: DelaySpec | None = None
    abort: AbortSpec | None = None

    @model_validator(mode="after")
    def _something(self) -> FaultSpec:
        if self.delay is None and self.abort is None:
            raise refuse("a fault needs a delay or an abort", "Add one, or take fault out.")
        return self


def lower_fault(spec: FaultSpec) -> Fault | None:
    """The fault; parts whose percentage is 0 or missing do nothing and are left out."""
    delay = abort = 0.0
    if spec.delay and spec.delay.fixed_delay is not None:
        percent = spec.delay.percentage.value if spec.delay.percentage else float(spec.delay.percent)
        delay = min(100.0, max(0.0, percent))
    status = grpc = None
    if spec.abort and spec.abort.percentage and spec.abort.percentage.value:
        status, name = sent_status(spec.abort.http_status), spec.abort.grpc_status
        grpc = GRPC_STATUS.index(name) if name is not None else None
        abort = spec.abort.percentage.value if status is not None or grpc is not None else 0.0
    if not delay and not abort:
        return None
    return Fault(
        delay=spec.delay.fixed_delay if spec.delay and delay else None,
        delay_percent=delay,
        abort_status=status,
        abort_grpc_status=grpc,
        abort_percent=abort,
    )
