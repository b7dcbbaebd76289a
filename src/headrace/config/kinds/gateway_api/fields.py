"""What the Gateway API's kinds have in common: names, references to parents and backends, selectors, durations.

Used by every file of this package. Patterns are those of the CRDs; a field without one takes any text, as there.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Annotated, Any, TypeVar

import re2
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from headrace.config.documents import Path
from headrace.config.fields import Text, parse_duration, shown, text_of
from headrace.config.schema import NO_EFFECT, Finding, Spec, refuse
from headrace.model.gateway_api import BackendRef, LabelSelector, ObjectRef, ParentRef
from headrace.model.policy import GATEWAY_GROUP
from headrace.model.problem import Severity

_DNS = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_PLAIN_DNS = "Use a-z, 0-9, '-' and '.', beginning and ending with a letter or digit."
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
URL_PATH = r"(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|[%][0-9a-fA-F]{2})+"
"""RE2 pattern of what a path of a request may hold."""
_DURATION = re2.compile(r"([0-9]{1,5}(h|m|s|ms)){1,4}")

T = TypeVar("T")


def pattern(regex: str, longest: int, what: str, remedy: str = "") -> Callable[[Any], str]:
    """A validator of texts of 1 to `longest` characters that the whole of `regex` matches (`what`: what it then is).
    RE2 matches in linear time, whatever a document says."""
    compiled = re2.compile(regex)

    def check(value: Any) -> str:
        text = text_of(value, what)
        if len(text) > longest:
            raise refuse(f"is {len(text)} characters long; the limit is {longest}")
        try:
            fits = compiled.fullmatch(text) is not None
        except UnicodeError:
            fits = False
        if not fits:
            raise refuse(f"{shown(text)} is not {what}", remedy)
        return text

    return check


def bounded(low: int, high: int) -> Callable[[Any], str]:
    """A validator of any text of `low` to `high` characters."""

    def check(value: Any) -> str:
        text = text_of(value, "a text")
        if not low <= len(text) <= high:
            raise refuse(f"must have {low} to {high} characters" if low else f"must have at most {high} characters")
        return text

    return check


def number(low: int, high: int) -> Callable[[Any], int]:
    """A validator of whole numbers; unlike Istio's kinds these take none that is written as text."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise refuse(f"{shown(value)} is not a whole number", "Write it without quotes.")
        if not low <= value <= high:
            raise refuse(f"{shown(value)} is out of range", f"Use a whole number from {low} to {high}.")
        return value

    return check


def distinct(key: Callable[[Any], Hashable], what: str) -> Callable[[list[T]], list[T]]:
    """A validator of lists whose items differ in `key`."""

    def check(items: list[T]) -> list[T]:
        seen: set[Hashable] = set()
        for at, item in enumerate(items):
            found = key(item)
            if found in seen:
                raise refuse(f"{what} {shown(found)} stands in the list twice", "Remove one of them.", at=(at,))
            seen.add(found)
        return items

    return check


def _span(value: Any) -> float:
    if not isinstance(value, str) or not _DURATION.fullmatch(value):
        raise refuse(f"{shown(value)} is not a duration", "Write whole numbers with h, m, s or ms, such as 1500ms.")
    return parse_duration(value)


Group = Annotated[str, BeforeValidator(pattern(f"|{_DNS}", 253, "an API group", _PLAIN_DNS))]
KindName = Annotated[str, BeforeValidator(pattern(r"[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?", 63, "a kind"))]
ObjectName = Annotated[str, BeforeValidator(bounded(1, 253))]
NamespaceName = Annotated[str, BeforeValidator(pattern(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", 63, "a namespace"))]
SectionName = Annotated[str, BeforeValidator(pattern(_DNS, 253, "a section's name", _PLAIN_DNS))]
Hostname = Annotated[
    str, BeforeValidator(pattern(rf"(\*\.)?{_DNS}", 253, "a host name", "A wildcard is a whole first label: *.a.b."))
]
PreciseHostname = Annotated[str, BeforeValidator(pattern(_DNS, 253, "a full host name", _PLAIN_DNS))]
HeaderName = Annotated[
    str, BeforeValidator(pattern(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+", 256, "a header name", "Use letters, digits and '-'."))
]
HeaderValue = Annotated[
    str,
    BeforeValidator(
        pattern(r"[!-~]+([\t ]?[!-~]+)*", 4096, "a header value", "Use visible characters, single spaces between.")
    ),
]
Span = Annotated[float, BeforeValidator(_span)]
"""Seconds of a Gateway API duration (GEP-2257)."""
Weight = Annotated[int, BeforeValidator(number(0, 1_000_000))]
Port = Annotated[int, BeforeValidator(number(1, 65535))]


class ParentSpec(Spec):
    """ParentReference."""

    group: Group = GATEWAY_GROUP
    kind: KindName = "Gateway"
    name: ObjectName
    namespace: NamespaceName | None = None
    section_name: SectionName | None = None
    port: Port | None = None

    def lower(self) -> ParentRef:
        return ParentRef(
            self.group, self.kind, self.name, self.namespace or "", self.section_name or "", self.port or 0
        )


def _parents(refs: list[ParentSpec]) -> list[ParentSpec]:
    """Two references to one parent must say what tells them apart, by the same fields."""
    seen: dict[tuple[str, str, str, str], list[ParentSpec]] = {}
    for at, ref in enumerate(refs):
        others = seen.setdefault((ref.group, ref.kind, ref.name, ref.namespace or ""), [])
        for other in others:
            written = [(item.section_name is not None, item.port is not None) for item in (ref, other)]
            if written[0] != written[1]:
                message = f"{ref.kind} {shown(ref.name)} is named twice, and not both times with sectionName or port"
                raise refuse(message, "Write sectionName (or port) in both.", at=(at,))
            if (ref.section_name, ref.port) == (other.section_name, other.port):
                message = f"{ref.kind} {shown(ref.name)} is named twice with the same sectionName and port"
                raise refuse(message, "Remove one of them.", at=(at,))
        others.append(ref)
    return refs


Parents = Annotated[list[ParentSpec], Field(max_length=32), AfterValidator(_parents)]
Hostnames = Annotated[list[Hostname], Field(max_length=16)]


class ObjectRefSpec(Spec):
    """LocalObjectReference: an object of the document's own namespace."""

    group: Group
    kind: KindName
    name: ObjectName

    def lower(self) -> ObjectRef:
        return ObjectRef(self.group, self.kind, self.name)


class FarObjectRefSpec(ObjectRefSpec):
    """ObjectReference."""

    namespace: NamespaceName | None = None

    def lower(self) -> ObjectRef:
        return ObjectRef(self.group, self.kind, self.name, self.namespace or "")


class SecretRefSpec(Spec):
    """SecretObjectReference."""

    group: Group = ""
    kind: KindName = "Secret"
    name: ObjectName
    namespace: NamespaceName | None = None

    def lower(self) -> ObjectRef:
        return ObjectRef(self.group, self.kind, self.name, self.namespace or "")


class BackendObjectSpec(Spec):
    """BackendObjectReference."""

    group: Group = ""
    kind: KindName = "Service"
    name: ObjectName
    namespace: NamespaceName | None = None
    port: Port | None = None

    @model_validator(mode="after")
    def _has_port(self) -> BackendObjectSpec:
        if (self.group, self.kind) == ("", "Service") and self.port is None:
            raise refuse("a Service needs a port here", "Add port: the number of one of its ports.", at=("port",))
        return self

    def lower(self) -> BackendRef:
        ref = ObjectRef(self.group, self.kind, self.name, self.namespace or "")
        return BackendRef(ref, self.port or 0)


class BackendSpec(BackendObjectSpec):
    """BackendRef, as TCPRoute and TLSRoute have it."""

    weight: Weight = 1

    def lower(self) -> BackendRef:
        ref = ObjectRef(self.group, self.kind, self.name, self.namespace or "")
        return BackendRef(ref, self.port or 0, self.weight)


class RequirementSpec(Spec):
    """LabelSelectorRequirement."""

    key: Text
    operator: Text
    values: list[Text] = []


class SelectorSpec(Spec):
    """meta/v1 LabelSelector."""

    match_labels: dict[str, Text] = {}
    match_expressions: list[RequirementSpec] = []

    def lower(self) -> LabelSelector:
        return LabelSelector(
            tuple(sorted(self.match_labels.items())),
            tuple((item.key, item.operator, tuple(item.values)) for item in self.match_expressions),
        )


def selector_findings(selector: SelectorSpec | None, path: Path) -> Iterator[Finding]:
    """An operator that there is not selects nothing, as on a cluster."""
    for at, item in enumerate(selector.match_expressions if selector else ()):
        if item.operator not in ("In", "NotIn", "Exists", "DoesNotExist"):
            message = f"{shown(item.operator)} is no operator: the selector selects nothing"
            remedy = "Use In, NotIn, Exists or DoesNotExist."
            place: Path = (*path, "matchExpressions", at, "operator")
            yield Finding(place, message, remedy, NO_EFFECT, Severity.WARNING)


def rule_name_findings(names: Sequence[str | None]) -> Iterator[Finding]:
    """Two rules of one route may not have one name."""
    for at, name in enumerate(names):
        if name is not None and name in names[:at]:
            path: Path = ("spec", "rules", at, "name")
            yield Finding(path, f"another rule is called {shown(name)} too", "Give each rule its own name.")


def default_gateway_findings(scope: str | None, field: str) -> Iterator[Finding]:
    """Default Gateways (an experiment of the Gateway API) do nothing here, as in Istio."""
    if scope is not None:
        message = f"{field} has no effect: there are no default Gateways"
        yield Finding(("spec", field), message, "Name the Gateways in parentRefs.", NO_EFFECT, Severity.WARNING)


def lowered_parents(refs: Iterable[ParentSpec]) -> tuple[ParentRef, ...]:
    """The references, in the order of the document."""
    return tuple(ref.lower() for ref in refs)
