"""The field types of documents: what a duration, a host, a port or a pattern is, and how it is refused.

Used by every file in `config.kinds`. Numbers follow protobuf's JSON (an integer may be written as text: "80").
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Annotated, Any

import re2
from pydantic import BeforeValidator, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from headrace.config.schema import refuse

MAX_TEXT = 64 * 1024
"""Longest single text field, in characters."""
MAX_PATTERN = 4096
"""Longest regular expression, in characters."""

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_HOST_LABEL = re.compile(r"[a-zA-Z0-9_]([-a-zA-Z0-9_]{0,61}[a-zA-Z0-9_])?")
_HEADER = re.compile(r":?[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}")
_LABEL_NAME = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)")
_DURATION = re.compile(r"([-+]?)((?:[0-9]{1,15}(?:\.[0-9]*)?|\.[0-9]+)(?:ns|us|µs|μs|ms|s|m|h))+")
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST_DURATION = 315_576_000_000.0  # 10,000 years, protobuf's bound


def shown(value: Any) -> str:
    """A value in a message: quoted, one line, at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def text_of(value: Any, what: str) -> str:
    """`value` where it is a text; refused otherwise, with what was expected."""
    if not isinstance(value, str):
        raise refuse(f"{shown(value)} is not {what}", "Write it as text; quote it if YAML takes it for a number.")
    if len(value) > MAX_TEXT:
        raise refuse(f"is {len(value)} characters long; the limit is {MAX_TEXT}")
    return value


def whole(low: int, high: int) -> Callable[[Any], int]:
    """A validator of protobuf integers between `low` and `high`: numbers, numbers as text, 80.0."""

    def check(value: Any) -> int:
        number = value
        if isinstance(value, str):
            number = int(value) if re.fullmatch(r"-?[0-9]{1,20}", value) else value
        elif isinstance(value, float) and value.is_integer():
            number = int(value)
        if isinstance(number, bool) or not isinstance(number, int):
            raise refuse(f"{shown(value)} is not a whole number")
        if not low <= number <= high:
            raise refuse(f"{shown(value)} is out of range", f"Use a whole number from {low} to {high}.")
        return number

    return check


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise refuse(f"{shown(value)} is neither true nor false")
    return value


def number(low: float = -math.inf, high: float = math.inf) -> Callable[[Any], float]:
    """A validator of protobuf doubles between `low` and `high`."""

    def check(value: Any) -> float:
        result = value
        if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,300}(\.[0-9]{1,300})?([eE][-+]?[0-9]{1,3})?", value):
            result = float(value)
        if isinstance(result, bool) or not isinstance(result, int | float) or not math.isfinite(result):
            raise refuse(f"{shown(value)} is not a number")
        if not low <= result <= high:
            bounds = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
            raise refuse(f"{shown(value)} is out of range", f"Use a number {bounds}.")
        return float(result)

    return check


def parse_duration(value: Any) -> float:
    """Seconds of a Go or protobuf duration: `1.5s`, `10ms`, `1h2m`, `0`."""
    text = value if isinstance(value, str) else ""
    if value == "0":
        return 0.0
    if len(text) > 100 or not _DURATION.fullmatch(text):
        raise refuse(f"{shown(value)} is not a duration", "Write a number with its unit, such as 1.5s, 10ms or 1h.")
    total = math.fsum(float(amount) * _UNITS[unit] for amount, unit in _DURATION_PART.findall(text))
    if total > _LONGEST_DURATION:
        raise refuse(f"{shown(value)} is too long a duration")
    return round(-total if text.startswith("-") else total, 9)


def duration(low: float = 0.0, high: float = math.inf) -> Callable[[Any], float]:
    """A validator of durations from `low` to `high` seconds."""

    def check(value: Any) -> float:
        seconds = parse_duration(value)
        if seconds < low:
            raise refuse(f"{shown(value)} is too short", f"Use at least {_seconds(low)}.")
        if seconds > high:
            raise refuse(f"{shown(value)} is too long", f"Use at most {_seconds(high)}.")
        return seconds

    return check


def _seconds(value: float) -> str:
    return f"{value * 1000:g}ms" if 0 < value < 1 else f"{value:g}s"


def is_dns_label(text: str) -> bool:
    """RFC 1123: 1-63 of a-z, 0-9 and '-', beginning and ending with a letter or digit."""
    return _DNS_LABEL.fullmatch(text) is not None


def is_dns_name(text: str) -> bool:
    """RFC 1123 subdomain in lower case: labels with dots between, at most 253 characters."""
    return 0 < len(text) <= 253 and all(is_dns_label(label) for label in text.split("."))


def _is_host(text: str) -> bool:
    labels = text.removesuffix(".").split(".")
    return 0 < len(text) <= 255 and all(_HOST_LABEL.fullmatch(label) for label in labels)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _host(value: Any) -> str:
    text = text_of(value, "a host name")
    if "*" in text:
        raise refuse(f"{shown(text)}: a wildcard is not allowed here", "Write one full host name.")
    if not _is_host(text):
        raise refuse(f"{shown(text)} is not a host name", "Use letters, digits, '-' and dots, as in chat.default.")
    return text


def _dns_label(value: Any) -> str:
    text = text_of(value, "a name")
    if not is_dns_label(text):
        raise refuse(f"{shown(text)} is not a DNS label", "Use 1-63 of a-z, 0-9 and '-', not first or last.")
    return text


def _dns_name(value: Any) -> str:
    text = text_of(value, "a name")
    if not is_dns_name(text):
        raise refuse(f"{shown(text)} is not a DNS name", "Use a-z, 0-9, '-' and dots, at most 253 characters.")
    return text


def check_regex(value: Any) -> str:
    """A pattern that RE2 (Envoy's engine) can compile."""
    text = text_of(value, "a regular expression")
    if not text:
        raise refuse("an empty regular expression matches nothing but the empty text", "Write a pattern.")
    if len(text) > MAX_PATTERN:
        raise refuse(f"a pattern of {len(text)} characters is too long; the limit is {MAX_PATTERN}")
    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(text, options)
    except (re2.error, UnicodeError) as error:
        reason = error.args[0] if error.args else ""
        reason = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise refuse(
            f"{shown(text)} is not a regular expression of RE2: {reason}",
            "RE2 has no look-around and no back-references.",
        ) from None
    return text


def _address(value: Any) -> str:
    text = text_of(value, "an IP address")
    if not _is_address(text):
        raise refuse(f"{shown(text)} is not an IP address")
    return text


def _cidr(value: Any) -> str:
    text = text_of(value, "an IP address or CIDR block")
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise refuse(f"{shown(text)} is not an IP address or CIDR block", "Write 10.0.0.1 or 10.0.0.0/8.") from None
    return text


def is_header_name(text: str) -> bool:
    """Whether a request can have a header of this name."""
    return _HEADER.fullmatch(text) is not None


def _header(value: Any) -> str:
    text = text_of(value, "a header name")
    if not is_header_name(text):
        raise refuse(f"{shown(text)} is not a header name", "Use letters, digits and '-'.")
    return text


def _header_value(value: Any) -> str:
    text = text_of(value, "a header value")
    if any(char in text for char in "\r\n\0"):
        raise refuse("a header value may have no line break")
    return text


def is_label_key(text: str) -> bool:
    """Kubernetes' qualified name: an optional DNS prefix and '/', then at most 63 characters."""
    prefix, slash, name = text.rpartition("/")
    return (not slash or is_dns_name(prefix)) and _LABEL_NAME.fullmatch(name) is not None


def is_label_value(text: str) -> bool:
    """Empty, or at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit."""
    return not text or _LABEL_NAME.fullmatch(text) is not None


def _label_key(value: Any) -> str:
    text = text_of(value, "a label key")
    if not is_label_key(text):
        raise refuse(f"{shown(text)} is not a label key", "Use at most 63 letters, digits, '-', '_' and '.'.")
    return text


def _label_value(value: Any) -> str:
    text = text_of(value, "a label value")
    if not is_label_value(text):
        raise refuse(f"{shown(text)} is not a label value", "Use at most 63 letters, digits, '-', '_' and '.'.")
    return text


def _plain(value: Any) -> str:
    return text_of(value, "a text")


def _filled(value: Any) -> str:
    text = text_of(value, "a text")
    if not text:
        raise refuse("must not be empty")
    return text


class EnumOf:
    """Annotation of an enum field: a member's name as Istio writes it, or its protobuf number.

    `Annotated[LbPolicy, EnumOf(LbPolicy, {0: "UNSPECIFIED", ...}, {"LEAST_CONN": "LEAST_REQUEST"})]`; `aliases` are
    names that Istio accepts beside the members' own.
    """

    def __init__(
        self, members: type[Enum], numbers: Mapping[int, str] | None = None, aliases: Mapping[str, str] | None = None
    ) -> None:
        self._by_name: dict[str, Enum] = {str(member.value): member for member in members}
        self._by_name |= {name: self._by_name[target] for name, target in (aliases or {}).items()}
        self._by_number = {number: self._by_name[name] for number, name in (numbers or {}).items()}

    def _read(self, value: Any) -> Enum:
        if isinstance(value, int) and not isinstance(value, bool) and value in self._by_number:
            return self._by_number[value]
        if isinstance(value, str) and value in self._by_name:
            return self._by_name[value]
        raise refuse(f"{shown(value)} is not one of its values", f"Use one of {', '.join(self._by_name)}.")

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._read)


class Choice(EnumOf):
    """`EnumOf` for a field that stays text: `Annotated[str, Choice("HTTP", "GRPC")]`; numbered in order from 0
    where `numbered` is set (protobuf enums whose numbers have no gaps)."""

    def __init__(self, *names: str, numbered: bool = False) -> None:
        self._names = names
        self._numbers = dict(enumerate(names)) if numbered else {}

    def _read(self, value: Any) -> Any:
        if isinstance(value, str) and value in self._names:
            return value
        if isinstance(value, int) and not isinstance(value, bool) and value in self._numbers:
            return self._numbers[value]
        raise refuse(f"{shown(value)} is not one of its values", f"Use one of {', '.join(self._names)}.")


Text = Annotated[str, BeforeValidator(_plain)]
NonEmpty = Annotated[str, BeforeValidator(_filled)]
Bool = Annotated[bool, BeforeValidator(_boolean)]
Int32 = Annotated[int, BeforeValidator(whole(-(2**31), 2**31 - 1))]
UInt32 = Annotated[int, BeforeValidator(whole(0, 2**32 - 1))]
Int64 = Annotated[int, BeforeValidator(whole(-(2**63), 2**63 - 1))]
UInt64 = Annotated[int, BeforeValidator(whole(0, 2**64 - 1))]
Count = Annotated[int, BeforeValidator(whole(0, 2**31 - 1))]
"""An int32 that may not be negative."""
Port = Annotated[int, BeforeValidator(whole(1, 65535))]
Weight = Annotated[int, BeforeValidator(whole(0, 2**31 - 1))]
HttpStatus = Annotated[int, BeforeValidator(whole(200, 600))]
"""A status to answer with, within Istio's bounds; Envoy can send 599 at most."""
Number = Annotated[float, BeforeValidator(number())]
Percent = Annotated[float, BeforeValidator(number(0.0, 100.0))]
IntPercent = Annotated[int, BeforeValidator(whole(0, 100))]
Duration = Annotated[float, BeforeValidator(duration())]
"""Seconds, 0 allowed."""
AnyDuration = Annotated[float, BeforeValidator(parse_duration)]
"""Seconds, also less than 0, where Istio does not look at them."""
Host = Annotated[str, BeforeValidator(_host)]
DnsLabel = Annotated[str, BeforeValidator(_dns_label)]
DnsName = Annotated[str, BeforeValidator(_dns_name)]
Address = Annotated[str, BeforeValidator(_address)]
Cidr = Annotated[str, BeforeValidator(_cidr)]
HeaderName = Annotated[str, BeforeValidator(_header)]
HeaderValue = Annotated[str, BeforeValidator(_header_value)]
LabelKey = Annotated[str, BeforeValidator(_label_key)]
LabelValue = Annotated[str, BeforeValidator(_label_value)]
LabelMap = dict[LabelKey, LabelValue]
