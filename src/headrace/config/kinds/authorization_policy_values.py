"""What the values of AuthorizationPolicy rules may be: addresses, ports, accounts, paths with templates, `when` keys.

Used by `authorization_policy`. The rules are Istio's (istio/pkg/config/security); where Envoy refuses more than Istio
does, Envoy's rule holds, because a listener that Envoy refuses takes every other policy of the workload with it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence

from headrace.config.documents import Path
from headrace.config.fields import shown
from headrace.config.schema import Finding
from headrace.model.claims import claim_path

MAX_ACCOUNTS = 16
MAX_ACCOUNT = 320
"""Longest `namespace/serviceAccount`, in characters."""
HEADER_KEY = "request.headers"
CLAIM_KEY = "request.auth.claims"
FILTER_KEY = "experimental.envoy.filters."

_PREFIX_LENGTH = re.compile(r"0|[1-9][0-9]{0,2}")
_LITERAL = re.compile(r"[a-zA-Z0-9-._~%!$&'()+,;:@=]+")
_HEADER_NAME = re.compile(r":?[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}")
_TEMPLATES = ("{*}", "{**}")
_PORT = re.compile(r"[0-9]{1,5}")

Why = Callable[[str], str]
"""Why a text is not a value of its kind; empty where it is one."""


def why_not_block(text: str) -> str:
    """An IP address, or a CIDR block with the number of its bits."""
    address, slash, bits = text.partition("/")
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "it is not an IP address or CIDR block"
    if "%" in address:
        return "an address with a zone cannot be matched"
    if slash and (not _PREFIX_LENGTH.fullmatch(bits) or int(bits) > parsed.max_prefixlen):
        return f"the number behind the '/' must be from 0 to {parsed.max_prefixlen}"
    return ""


def why_not_port(text: str) -> str:
    """A port number as text."""
    return "" if _PORT.fullmatch(text) and int(text) <= 65535 else "it is not a port from 0 to 65535"


def why_not_account(text: str) -> str:
    """`serviceAccount` or `namespace/serviceAccount`."""
    if len(text) > MAX_ACCOUNT:
        return f"it is longer than {MAX_ACCOUNT} characters"
    if "*" in text:
        return "wildcards are not allowed here"
    if text.count("/") > 1 or text.startswith("/") or text.endswith("/"):
        return "it is neither serviceAccount nor namespace/serviceAccount"
    return ""


def why_not_wildcard(text: str) -> str:
    """A text with at most one `*`, before or behind."""
    if text.count("*") > 1:
        return "it has more than one '*'"
    return "" if "*" not in text[1:-1] else "'*' may only stand at the start or the end"


def why_not_trust_domain(text: str) -> str:
    """A trust domain, with a `*` before or behind."""
    return why_not_wildcard(text) or ("a trust domain has no '/'" if "/" in text else "")


def why_not_path(text: str) -> str:
    """A path: with templates, `{*}` for one segment and `{**}`, which must be the last one, for any number."""
    has_template = any(template in text for template in _TEMPLATES)
    if has_template and not text.startswith("/"):
        return "a path with {*} or {**} must begin with '/'"
    ended = False
    for segment in text.strip("/").split("/"):
        if segment in _TEMPLATES:
            if ended:
                return "{**} must be the last template"
            ended = segment == "{**}"
        elif "{" in segment or "}" in segment:
            return "'{' and '}' only make templates, {*} and {**}, that fill a whole segment"
        elif has_template and not _LITERAL.fullmatch(segment):
            return f"its segment {shown(segment)} cannot stand beside a template"
    return ""


def anything(text: str) -> str:
    """Every text that is not empty."""
    return ""


def value_findings(values: Sequence[str], why: Why, path: Path) -> Iterator[Finding]:
    """Judge a list of values."""
    if why is why_not_account and len(values) > MAX_ACCOUNTS:
        yield Finding(path, f"has more than {MAX_ACCOUNTS} items", "Write several sources, or several rules.")
    for at, value in enumerate(values):
        if not value:
            yield Finding((*path, at), "an empty value is not allowed", "Take it out, or write '*' for any value.")
        elif reason := why(value):
            yield Finding((*path, at), f"{shown(value)}: {reason}", "Correct the value, or take it out.")


_WHEN: dict[str, Why] = {
    "source.ip": why_not_block,
    "remote.ip": why_not_block,
    "source.namespace": anything,
    "source.serviceAccount": why_not_account,
    "source.principal": anything,
    "source.trustDomain": why_not_wildcard,
    "request.auth.principal": anything,
    "request.auth.audiences": anything,
    "request.auth.presenter": anything,
    "destination.ip": why_not_block,
    "destination.port": why_not_port,
    "connection.sni": anything,
}
_REPLACED = {
    "destination.namespace": "Put the policy into that namespace.",
    "destination.name": "Use a selector.",
    "destination.user": "Use a selector.",
}


def judge_key(key: str) -> tuple[Why, str, str]:
    """How the values of a `when` key are judged; message and remedy where there is no such key."""
    if key in _WHEN:
        return _WHEN[key], "", ""
    if key in _REPLACED:
        return anything, f"{key} is no attribute any more", _REPLACED[key]
    if key.startswith("destination.labels"):
        return anything, "destination.labels is no attribute any more", "Use a selector."
    for prefix, right in ((HEADER_KEY, _is_header), (CLAIM_KEY, _is_claim), (FILTER_KEY, _is_metadata)):
        if key.startswith(prefix):
            if right(key.removeprefix(prefix)):
                return anything, "", ""
            example = {HEADER_KEY: "[x-tenant]", CLAIM_KEY: "[groups]", FILTER_KEY: "http.jwt_authn[key]"}[prefix]
            return anything, f"{shown(key)} is not of the form a[b]", f"Write {prefix}{example}."
    known = ", ".join([*_WHEN, f"{HEADER_KEY}[name]", f"{CLAIM_KEY}[name]", f"{FILTER_KEY}filter[key]"])
    return anything, f"unknown attribute {shown(key)}", f"Known ones are {known}."


def _is_header(rest: str) -> bool:
    return rest.startswith("[") and rest.endswith("]") and _HEADER_NAME.fullmatch(rest[1:-1]) is not None


def _is_claim(rest: str) -> bool:
    """`[name]` or `[outer][inner]`; a name that has brackets itself stands alone."""
    if not (rest.startswith("[") and rest.endswith("]") and len(rest) > 2):
        return False
    return all(claim_path(rest))


def _is_metadata(rest: str) -> bool:
    name, bracket, key = rest.partition("[")
    return bool(name and bracket and key.endswith("]") and len(key) > 1)
