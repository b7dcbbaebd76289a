"""Filters of HTTPRoute and GRPCRoute rules and backends: what they may say, and what they do to a route.

Used by `http_route` and `grpc_route`. A filter's type names the one field that it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from headrace.config.fields import Bool, Choice, Text
from headrace.config.kinds.gateway_api.fields import (
    METHODS,
    URL_PATH,
    BackendObjectSpec,
    HeaderName,
    HeaderValue,
    ObjectRefSpec,
    Port,
    PreciseHostname,
    bounded,
    distinct,
    number,
    pattern,
)
from headrace.config.schema import Spec, refuse
from headrace.model.gateway_api import MirrorRef
from headrace.model.traffic import Cors, HeaderOps, Headers, MatchKind, StringMatch

_ONCE = ("CORS", "RequestHeaderModifier", "ResponseHeaderModifier", "RequestRedirect", "URLRewrite")
_POSITIVE = BeforeValidator(number(1, 2**31 - 1))
_ORIGIN = r"\*|https?://((\*\.)?([a-zA-Z0-9\-]+\.)*[a-zA-Z0-9-]+|\*)(:[0-9]{1,5})?"
_ANY_ORIGIN = r"^[a-zA-Z][a-zA-Z0-9+.-]*://[^/\s?#]+$"
"""What an Origin header looks like (RFC 6454): '*' allows no other text."""
QUOTED = str.maketrans({char: f"\\{char}" for char in "\\.+*?()|[]{}^$"})
"""`text.translate(QUOTED)` is the RE2 pattern that matches just `text`."""
PathText = Annotated[str, BeforeValidator(bounded(0, 1024))]
ExternalPath = pattern(URL_PATH, 1024, "a path")


class HeaderSpec(Spec):
    """HTTPHeader."""

    name: HeaderName
    value: HeaderValue


HeaderList = Annotated[
    list[HeaderSpec], Field(max_length=16), AfterValidator(distinct(lambda item: item.name, "header"))
]


class HeaderFilterSpec(Spec):
    """HTTPHeaderFilter."""

    set: HeaderList = []
    add: HeaderList = []
    remove: Annotated[list[Text], Field(max_length=16), AfterValidator(distinct(str, "header"))] = []

    def lower(self) -> HeaderOps:
        return HeaderOps(_pairs(self.set), _pairs(self.add), tuple(self.remove))


def _pairs(headers: Iterable[HeaderSpec]) -> tuple[tuple[str, str], ...]:
    """The headers sorted by name; of several with equivalent names the first (the API's rule)."""
    found: dict[str, str] = {}
    for header in headers:
        found.setdefault(header.name.lower(), header.value)
    return tuple(sorted(found.items()))


class PathModifierSpec(Spec):
    """HTTPPathModifier."""

    type: Annotated[str, Choice("ReplaceFullPath", "ReplacePrefixMatch")]
    replace_full_path: PathText | None = None
    replace_prefix_match: PathText | None = None

    @model_validator(mode="after")
    def _one(self) -> PathModifierSpec:
        written = {"ReplaceFullPath": self.replace_full_path, "ReplacePrefixMatch": self.replace_prefix_match}
        for kind, value in written.items():
            field = kind[0].lower() + kind[1:]
            if (kind == self.type) != (value is not None):
                needs = "needs" if value is None else "has no"
                raise refuse(f"a path of type {self.type} {needs} {field}", "Let type and field agree.", at=(field,))
        return self


class RedirectFilterSpec(Spec):
    """HTTPRequestRedirectFilter."""

    scheme: Annotated[str, Choice("http", "https")] | None = None
    hostname: PreciseHostname | None = None
    path: PathModifierSpec | None = None
    port: Port | None = None
    status_code: Annotated[int, BeforeValidator(number(301, 308))] = 302

    @model_validator(mode="after")
    def _known_code(self) -> RedirectFilterSpec:
        if self.status_code not in (301, 302, 303, 307, 308):
            message = f"{self.status_code} is no redirection"
            raise refuse(message, "Use 301, 302, 303, 307 or 308.", at=("statusCode",))
        return self


class RewriteFilterSpec(Spec):
    """HTTPURLRewriteFilter."""

    hostname: PreciseHostname | None = None
    path: PathModifierSpec | None = None


class FractionSpec(Spec):
    """Fraction."""

    numerator: Annotated[int, BeforeValidator(number(0, 2**31 - 1))]
    denominator: Annotated[int, _POSITIVE] = 100

    @model_validator(mode="after")
    def _part(self) -> FractionSpec:
        if self.numerator > self.denominator:
            raise refuse("a fraction may not be more than the whole", "Make numerator smaller.", at=("numerator",))
        return self


class MirrorFilterSpec(Spec):
    """HTTPRequestMirrorFilter."""

    backend_ref: BackendObjectSpec
    percent: Annotated[int, BeforeValidator(number(0, 100))] | None = None
    fraction: FractionSpec | None = None

    @model_validator(mode="after")
    def _one(self) -> MirrorFilterSpec:
        if self.percent is not None and self.fraction is not None:
            raise refuse("percent and fraction exclude each other", "Keep one of them.", at=("fraction",))
        return self

    def lower(self) -> MirrorRef:
        percent = 100.0 if self.percent is None else float(self.percent)
        if self.fraction is not None:
            percent = 100.0 * self.fraction.numerator / self.fraction.denominator
        return MirrorRef(self.backend_ref.lower(), percent)


def _alone(items: list[str]) -> list[str]:
    if "*" in items and len(items) > 1:
        raise refuse("'*' stands for everything and must stand alone", "Remove it, or the others.")
    return items


Origin = Annotated[str, BeforeValidator(pattern(_ORIGIN, 253, "an origin", "Write https://host or '*'."))]


class CorsFilterSpec(Spec):
    """HTTPCORSFilter."""

    allow_origins: Annotated[
        list[Origin], Field(max_length=64), AfterValidator(distinct(str, "origin")), AfterValidator(_alone)
    ] = []
    allow_credentials: Bool | None = None
    allow_methods: Annotated[
        list[Annotated[str, Choice(*METHODS, "*")]], AfterValidator(distinct(str, "method")), AfterValidator(_alone)
    ] = []
    allow_headers: Annotated[
        list[HeaderName], Field(max_length=64), AfterValidator(distinct(str, "header")), AfterValidator(_alone)
    ] = []
    expose_headers: Annotated[list[HeaderName], Field(max_length=64), AfterValidator(distinct(str, "header"))] = []
    max_age: Annotated[int, _POSITIVE] = 5

    def lower(self) -> Cors:
        return Cors(
            allow_origins=tuple(_origin(text) for text in self.allow_origins),
            allow_methods=tuple(self.allow_methods),
            allow_headers=tuple(self.allow_headers),
            expose_headers=tuple(self.expose_headers),
            max_age=float(self.max_age),
            allow_credentials=True if self.allow_credentials else None,
            unmatched_preflights="IGNORE",
        )


def _origin(text: str) -> StringMatch:
    if text == "*":
        return StringMatch(MatchKind.REGEX, _ANY_ORIGIN)
    if "*" not in text:
        return StringMatch(MatchKind.EXACT, text)
    if text.count("*") == 1 and text.endswith("*"):
        return StringMatch(MatchKind.PREFIX, text[:-1])
    return StringMatch(MatchKind.REGEX, f"^{'.*'.join(part.translate(QUOTED) for part in text.split('*'))}$")


class ExternalGrpcSpec(Spec):
    """GRPCAuthConfig."""

    allowed_headers: Annotated[list[Text], Field(max_length=64)] = []


class ExternalHttpSpec(ExternalGrpcSpec):
    """HTTPAuthConfig."""

    path: Annotated[str, BeforeValidator(ExternalPath)] | None = None
    allowed_response_headers: Annotated[list[Text], Field(max_length=64)] = []


class ForwardBodySpec(Spec):
    """ForwardBodyConfig."""

    max_size: Annotated[int, BeforeValidator(number(-(2**63), 2**63 - 1))] = 0


class ExternalAuthSpec(Spec):
    """HTTPExternalAuthFilter."""

    protocol: Annotated[str, Choice("HTTP", "GRPC")]
    backend_ref: BackendObjectSpec
    grpc: ExternalGrpcSpec | None = None
    http: ExternalHttpSpec | None = None
    forward_body: ForwardBodySpec | None = None

    @model_validator(mode="after")
    def _one(self) -> ExternalAuthSpec:
        for field, value in (("grpc", self.grpc), ("http", self.http)):
            if (field.upper() == self.protocol) != (value is not None):
                needs = "needs" if value is None else "has no"
                raise refuse(f"protocol {self.protocol} {needs} {field}", "Let both agree.", at=(field,))
        return self


class GrpcFilterSpec(Spec):
    """GRPCRouteFilter."""

    type: Annotated[str, Choice("RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror", "ExtensionRef")]
    request_header_modifier: HeaderFilterSpec | None = None
    response_header_modifier: HeaderFilterSpec | None = None
    request_mirror: MirrorFilterSpec | None = None
    extension_ref: ObjectRefSpec | None = None

    @model_validator(mode="after")
    def _one(self) -> GrpcFilterSpec:
        for field, info in type(self).model_fields.items():
            if field == "type":
                continue
            name, written = str(info.alias), getattr(self, field) is not None
            if (_TYPE_OF[field] == self.type) != written:
                needs = "has no" if written else "needs"
                raise refuse(f"a filter of type {self.type} {needs} {name}", "Let type and field agree.", at=(name,))
        return self


class HttpFilterSpec(GrpcFilterSpec):
    """HTTPRouteFilter."""

    type: Annotated[
        str,
        Choice(
            "RequestHeaderModifier",
            "ResponseHeaderModifier",
            "RequestMirror",
            "RequestRedirect",
            "URLRewrite",
            "ExtensionRef",
            "CORS",
            "ExternalAuth",
        ),
    ]
    request_redirect: RedirectFilterSpec | None = None
    url_rewrite: RewriteFilterSpec | None = None
    cors: CorsFilterSpec | None = None
    external_auth: ExternalAuthSpec | None = None


_TYPE_OF = {
    "request_header_modifier": "RequestHeaderModifier",
    "response_header_modifier": "ResponseHeaderModifier",
    "request_mirror": "RequestMirror",
    "request_redirect": "RequestRedirect",
    "url_rewrite": "URLRewrite",
    "extension_ref": "ExtensionRef",
    "cors": "CORS",
    "external_auth": "ExternalAuth",
}


def _once(filters: list[Any]) -> list[Any]:
    """Only mirrors and extensions may stand in a list twice; a redirection leaves nothing to rewrite."""
    kinds = [item.type for item in filters]
    for at, kind in enumerate(kinds):
        if kind in _ONCE and kind in kinds[:at]:
            raise refuse(f"a second filter of type {kind}", "Write both in one filter.", at=(at, "type"))
    if "RequestRedirect" in kinds and "URLRewrite" in kinds:
        message = "RequestRedirect and URLRewrite exclude each other"
        raise refuse(message, "Keep one of them.", at=(kinds.index("URLRewrite"), "type"))
    return filters


HttpFilters = Annotated[list[HttpFilterSpec], Field(max_length=16), AfterValidator(_once)]
GrpcFilters = Annotated[list[GrpcFilterSpec], Field(max_length=16), AfterValidator(_once)]


def lower_filter_headers(filters: Sequence[GrpcFilterSpec]) -> Headers:
    """What the filters do to headers."""
    request, response = HeaderOps(), HeaderOps()
    for item in filters:
        if item.request_header_modifier is not None:
            request = item.request_header_modifier.lower()
        elif item.response_header_modifier is not None:
            response = item.response_header_modifier.lower()
    return Headers(request, response)


def unusable_filter(filters: Sequence[GrpcFilterSpec], usable: Callable[[str], bool]) -> str:
    """The type of the first filter that cannot be used there ('' none)."""
    return next((item.type for item in filters if not usable(item.type)), "")


def is_header_filter(kind: str) -> bool:
    """Whether a filter of this type only changes headers: the ones that a backend may have here."""
    return kind.endswith("HeaderModifier")


def is_rule_filter(kind: str) -> bool:
    """Whether a rule here may have a filter of this type."""
    return kind not in ("ExtensionRef", "ExternalAuth")
