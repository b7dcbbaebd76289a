"""Names as Istio's own validation reads them: hosts and wildcards, gateways, exportTo, selectors, header values.

Shared by the files of Istio's kinds. The rules are those of istio/pkg/config/validation; they differ in places from the
general ones of `config.fields` (upper-case letters are allowed, an all-numeric top-level domain is not).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated

from pydantic import BeforeValidator

from headrace.config.documents import Path
from headrace.config.fields import check_regex, parse_duration, shown, text_of
from headrace.config.schema import NO_EFFECT, Finding, Spec, refuse
from headrace.model.claims import routing_claim
from headrace.model.problem import Severity

SCHEMA_WARNING = "IST0133"
"""Istio's SchemaWarning: valid, but hardly what was meant."""
MAX_ISTIO_PATTERN = 1024
"""Longest regular expression that Istio takes, in characters."""

_LABEL = re.compile(r"[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?")
_WILDCARD_LABEL = re.compile(r"\*|(?:\*-?)?[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?")
_NUMERIC = re.compile(r"[-+]?[0-9]+")
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~A-Za-z0-9]+")
_PSEUDO_HEADERS = frozenset((":method", ":scheme", ":authority", ":path", ":status"))
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_HEADER_VALUE = re.compile(r"(?:[^%]|%%|%[^%(]+%|%[^%(]*\((?:\\.|[^)\\])+\) *%)*", re.DOTALL)


def is_label(text: str) -> bool:
    """A DNS label in either case, at most 63 characters (Istio's IsDNS1123Label)."""
    return len(text) <= 63 and _LABEL.fullmatch(text) is not None


def is_address(text: str) -> bool:
    """An IPv4 or IPv6 address, without brackets or prefix length."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _why_not_labels(name: str) -> str:
    labels = name.split(".")
    if _NUMERIC.fullmatch(labels[-1]):
        return f"its last part {shown(labels[-1])} may not be a number"
    if labels[-1] == "" and len(labels) > 1:
        labels.pop()
    for label in labels:
        if not is_label(label):
            return f"its part {shown(label)} is not a DNS label"
    return ""


def why_not_fqdn(name: str) -> str:
    """Why `name` is no host name without wildcard; empty where it is one."""
    if not name:
        return "it is empty"
    return "it is longer than 255 characters" if len(name) > 255 else _why_not_labels(name)


def why_not_wildcard(name: str) -> str:
    """Why `name` is no host name, also with a wildcard in its first label; empty where it is one."""
    if not name:
        return "it is empty"
    if len(name) > 255:
        return "it is longer than 255 characters"
    first, dot, rest = name.partition(".")
    if len(first) > 63 or not _WILDCARD_LABEL.fullmatch(first):
        return f"its part {shown(first)} is not a DNS label or wildcard"
    return _why_not_labels(rest) if dot else ""


def host_problem(name: str, why: str) -> tuple[str, str]:
    """Message and remedy for a host name that is refused."""
    return f"{shown(name)} is not a host name: {why}", "Use letters, digits, '-' and dots, as in chat.default."


def _fqdn(value: object) -> str:
    text = text_of(value, "a host name")
    if why := why_not_fqdn(text):
        raise refuse(*host_problem(text, why))
    return text


def _wildcard(value: object) -> str:
    text = text_of(value, "a host name")
    if why := why_not_wildcard(text):
        raise refuse(*host_problem(text, why))
    return text


def _label(value: object) -> str:
    text = text_of(value, "a name")
    if not is_label(text):
        raise refuse(f"{shown(text)} is not a DNS label", "Use 1-63 letters, digits and '-', not first or last.")
    return text


def _subnet(value: object) -> str:
    text = text_of(value, "an IP address or CIDR block")
    try:
        address, slash, length = text.partition("/")
        if slash and not (length.isascii() and length.isdecimal() and length == str(int(length))):
            raise ValueError(address)  # a netmask or 08, which Python would take
        if slash:
            ipaddress.ip_network(text, strict=False)
        else:
            ipaddress.ip_address(text)
    except ValueError:
        raise refuse(f"{shown(text)} is not an IP address or CIDR block", "Write 10.0.0.1 or 10.0.0.0/8.") from None
    return text


def _pattern(value: object) -> str:
    text = text_of(value, "a regular expression")
    if len(text) > MAX_ISTIO_PATTERN:
        raise refuse(f"a pattern of {len(text)} characters is too long; Istio's limit is {MAX_ISTIO_PATTERN}")
    return check_regex(text)


def check_timespan(value: object) -> float:
    """Seconds of a duration of at least 1 ms in whole milliseconds; anything else is refused."""
    seconds = parse_duration(value)
    if seconds < 0.001:
        raise refuse(
            f"{shown(value)} is too short: a duration is at least 1ms",
            "Leave the field out for no limit, or write a longer duration, such as 500ms or 10s.",
        )
    if abs(seconds * 1000 - round(seconds * 1000)) > 1e-6:
        raise refuse(f"{shown(value)} is finer than a millisecond", "Use whole milliseconds, such as 1ms or 1.5s.")
    return seconds


Fqdn = Annotated[str, BeforeValidator(_fqdn)]
WildcardName = Annotated[str, BeforeValidator(_wildcard)]
Label = Annotated[str, BeforeValidator(_label)]
Subnet = Annotated[str, BeforeValidator(_subnet)]
Pattern = Annotated[str, BeforeValidator(_pattern)]
PatternOrAny = Annotated[str, BeforeValidator(lambda value: value if value == "*" else _pattern(value))]
"""A pattern, or Istio's `*` for any value, which is no pattern."""
Timespan = Annotated[float, BeforeValidator(check_timespan)]
"""Seconds: at least a millisecond, in whole milliseconds (Istio's ValidateDuration)."""


def set_fields(spec: Spec, *names: str) -> list[str]:
    """Those of the named fields (Python names) that the document sets."""
    return [name for name in names if name in spec.model_fields_set and getattr(spec, name) is not None]


def spelled(spec: Spec, name: str) -> str:
    """A field's name as documents spell it."""
    return type(spec).model_fields[name].alias or name


def at_most_one(spec: Spec, *names: str) -> None:
    """Refuse where more than one of these fields is set (a protobuf oneof)."""
    found = set_fields(spec, *names)
    if len(found) > 1:
        both = " and ".join(spelled(spec, name) for name in found)
        raise refuse(f"{both} exclude each other", "Keep one of them.", at=(spelled(spec, found[1]),))


def overlap(one: str, other: str) -> bool:
    """Whether two host patterns share a host, by Istio's rule (host.Name.Matches)."""
    if one.startswith("*") and other.startswith("*"):
        short, long = sorted((one[1:], other[1:]), key=len)
        return long.endswith(short)
    if one.startswith("*"):
        return other.endswith(one[1:])
    return one.endswith(other[1:]) if other.startswith("*") else one == other


def subset_of(one: str, other: str) -> bool:
    """Whether pattern `other` holds all of `one` (host.Name.SubsetOf)."""
    if one.startswith("*"):
        return other.startswith("*") and len(one) >= len(other) and one[1:].endswith(other[1:])
    return one.endswith(other[1:]) if other.startswith("*") else one == other


def warning(path: Path, message: str, remedy: str = "") -> Finding:
    """A finding that Istio calls a SchemaWarning."""
    return Finding(path, message, remedy, SCHEMA_WARNING, Severity.WARNING)


def no_effect(path: Path, why: str, remedy: str = "Take it out.") -> Finding:
    """HR0002 for a field that does nothing where it stands."""
    field = next(part for part in reversed(path) if isinstance(part, str))
    return Finding(path, f"{field} has no effect here: {why}", remedy, NO_EFFECT, Severity.WARNING)


def gateway_findings(names: Iterable[str], path: Path) -> Iterator[Finding]:
    """Judge references to gateways: `name`, `namespace/name`, or the old form `name.namespace...` (a warning)."""
    for at, name in enumerate(names):
        namespace, slash, own = name.partition("/")
        if slash:
            if not is_label(namespace) or not is_label(own):
                yield Finding((*path, at), f"{shown(name)} is not a gateway's name", "Write namespace/name, or name.")
        elif why := why_not_fqdn(name):
            yield Finding(
                (*path, at), f"{shown(name)} is not a gateway's name: {why}", "Write namespace/name, or name."
            )
        elif "." in name:
            first, second = name.split(".")[:2]
            yield warning((*path, at), f"{shown(name)} is the old form of a gateway's name", f"Write {second}/{first}.")


def gateway_key(name: str) -> str:
    """The old form `name.namespace.svc...` as `namespace/name`; other forms as they are."""
    if "/" in name or "." not in name:
        return name
    first, second = name.split(".")[:2]
    return f"{second}/{first}"


def export_findings(scopes: list[str], namespace: str, *, private: bool = False) -> Iterator[Finding]:
    """Judge exportTo: `*`, `.` or namespaces, `~` only where `private` (services), each once, `*` and `~` alone."""
    path: Path = ("spec", "exportTo")
    known: set[str] = set()
    for at, scope in enumerate(scopes):
        name = namespace if scope == "." else scope
        if name in known:
            yield Finding((*path, at), f"{shown(scope)} stands twice in exportTo", "Take one of them out.")
        elif scope == "~" and not private:
            yield Finding((*path, at), "'~' (nobody) is not allowed here", "Use '.', '*' or namespaces.")
        elif scope not in ("*", "~", ".") and not is_label(scope):
            yield Finding((*path, at), f"{shown(scope)} is not a namespace", "Use '.', '*' or namespaces.")
        else:
            known.add(name)
    if len(scopes) > 1:
        for alone in ("*", "~"):
            if alone in known:
                yield Finding(path, f"{alone!r} must stand alone in exportTo", "Keep it, or keep the namespaces.")


def selector_findings(labels: Mapping[str, str], path: Path) -> Iterator[Finding]:
    """Judge the labels of a workload selector: no empty key, no wildcard; none at all is a warning."""
    for name, value in labels.items():
        if not name:
            yield Finding(path, "a label needs a name")
        elif "*" in name or "*" in value:
            yield Finding((*path, name), f"{shown(f'{name}={value}')}: selectors have no wildcards")
        elif len(value) > 63:
            yield Finding((*path, name), f"{shown(value)} is longer than 63 characters")
    if not labels:
        yield warning(path[:-1], "a selector without labels selects every workload", "Take it out, or give it labels.")


def match_header_name(name: str, field: str) -> None:
    """Refuse a name that no header match can have: letters, digits, `-` ..., pseudo headers, JWT claims."""
    if name not in _PSEUDO_HEADERS and not is_claim(name) and not _HEADER_NAME.fullmatch(name):
        raise refuse(f"{shown(name)} is not a header name", "Use letters, digits and '-'.", at=(field, name))


def is_claim(name: str) -> bool:
    """Whether a header match's name is Istio's JWT claim form: `@request.auth.claims.group`, `...claims[a][b]`."""
    return bool(routing_claim(name))


def is_authority(name: str) -> bool:
    """Whether the header is the request's host."""
    return name.lower() in (":authority", "host")


def check_header_value(value: str, at: Path) -> None:
    """Refuse a value that Envoy cannot format: a control character, or a lone `%` (`%%` is one percent sign)."""
    if _CONTROL.search(value):
        raise refuse("a header value may have no control characters", at=at)
    if not _HEADER_VALUE.fullmatch(value):
        raise refuse(
            f"{shown(value)} has an unfinished %VARIABLE%", "Write %% for a percent sign, or close the variable.", at=at
        )


def cors_header_name(name: str) -> bool:
    """Whether a CORS header list may have the name (`*` is allowed)."""
    return name == "*" or _HEADER_NAME.fullmatch(name) is not None
