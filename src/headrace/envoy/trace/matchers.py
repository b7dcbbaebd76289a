"""Envoy's matchers of text, headers, query parameters, metadata and addresses.

Called by `routes` and `rbac`. Rules: envoy.type.matcher.v3, envoy.config.route.v3.HeaderMatcher.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

import re2

from headrace.envoy.trace.request import Data, Request

_PERCENT = {"HUNDRED": 100, "TEN_THOUSAND": 10_000, "MILLION": 1_000_000}


@lru_cache(maxsize=512)
def _pattern(text: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    return re2.compile(text, options)


def full_match(regex: str, text: str) -> bool:
    """Whether the whole text fits an RE2 pattern."""
    return _pattern(regex).fullmatch(text) is not None


def text_matches(matcher: Data, text: str) -> bool:
    """StringMatcher."""
    if "safe_regex" in matcher:
        return full_match(matcher["safe_regex"].get("regex", ""), text)
    low = bool(matcher.get("ignore_case"))
    given = text.lower() if low else text
    tests: dict[str, Callable[[str, str], bool]] = {
        "exact": str.__eq__,
        "prefix": str.startswith,
        "suffix": str.endswith,
        "contains": str.__contains__,
    }
    for name, test in tests.items():
        if name in matcher:
            wanted = str(matcher[name])
            return test(given, wanted.lower() if low else wanted)
    return False


def header_matches(matcher: Data, request: Request) -> bool:
    """HeaderMatcher, with its inversion and the treatment of missing headers."""
    value = request.header(matcher["name"])
    inverted = bool(matcher.get("invert_match"))
    if "present_match" in matcher:
        return ((value is not None) == bool(matcher["present_match"])) != inverted
    if value is None:
        if not matcher.get("treat_missing_header_as_empty"):
            return False
        value = ""
    return _value_fits(matcher, value) != inverted


def _value_fits(matcher: Data, value: str) -> bool:
    if "string_match" in matcher:
        return text_matches(matcher["string_match"], value)
    if "range_match" in matcher:
        bounds = matcher["range_match"]
        try:
            return int(bounds.get("start", 0)) <= int(value) < int(bounds.get("end", 0))
        except ValueError:
            return False
    old = {"exact_match": "exact", "prefix_match": "prefix", "suffix_match": "suffix", "contains_match": "contains"}
    for name, word in old.items():
        if name in matcher:
            return text_matches({word: matcher[name]}, value)
    if "safe_regex_match" in matcher:
        return full_match(matcher["safe_regex_match"].get("regex", ""), value)
    return True


def query_matches(matcher: Data, request: Request) -> bool:
    """QueryParameterMatcher; the first of several of one name counts."""
    pairs = parse_qsl(request.path.partition("?")[2], keep_blank_values=True)
    value = next((value for name, value in pairs if name == matcher["name"]), None)
    if "present_match" in matcher:
        return (value is not None) == bool(matcher["present_match"])
    if value is None:
        return False
    return text_matches(matcher.get("string_match", {}), value) if "string_match" in matcher else True


def in_range(block: Data, address: str) -> bool:
    """CidrRange."""
    try:
        network = ipaddress.ip_network(f"{block['address_prefix']}/{block.get('prefix_len', 0)}", strict=False)
        return ipaddress.ip_address(address) in network
    except ValueError:
        return False


def metadata_matches(matcher: Data, metadata: Mapping[str, Any]) -> bool:
    """MetadataMatcher over dynamic metadata by filter name."""
    value: Any = metadata.get(matcher.get("filter", ""), {})
    for segment in matcher.get("path", []):
        value = value.get(segment["key"]) if isinstance(value, Mapping) else None
    return _holds(matcher.get("value", {}), value) != bool(matcher.get("invert"))


def _holds(matcher: Data, value: Any) -> bool:
    """ValueMatcher."""
    if "or_match" in matcher:
        return any(_holds(item, value) for item in matcher["or_match"].get("value_matchers", []))
    if "string_match" in matcher:
        return isinstance(value, str) and text_matches(matcher["string_match"], value)
    if "list_match" in matcher:
        one = matcher["list_match"].get("one_of", {})
        return isinstance(value, list) and any(_holds(one, item) for item in value)
    if "present_match" in matcher:
        return (value is not None) == bool(matcher["present_match"])
    if "bool_match" in matcher:
        return value is matcher["bool_match"]
    return "null_match" in matcher and value is None


def percent_of(fraction: Data) -> float:
    """A FractionalPercent in percent."""
    return 100 * float(fraction.get("numerator", 0)) / _PERCENT[fraction.get("denominator", "HUNDRED")]
