"""One attribute of an authorization rule as Envoy matches it: principals (who) and permissions (what).

Called by `authorization_rules`. The forms are Istio's: `*` alone asks for any value, before or behind for a suffix or a
prefix; hosts are compared without regard to case, everything else exactly; a path is compared without its query.
`HttpOnly` is raised for what a TCP connection has not.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

from envoy.config.core.v3 import address_pb2, extension_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.path.match.uri_template.v3 import uri_template_match_pb2
from envoy.type.matcher.v3 import metadata_pb2, path_pb2, regex_pb2, string_pb2, value_pb2

from headrace.envoy.translate.jwt_claims import claim_matcher
from headrace.envoy.translate.messages import packed, uint32

_SPIFFE = "spiffe://"
_SPECIAL = frozenset(r"\.+*?()|[]{}^$")


class HttpOnly(Exception):
    """The attribute belongs to requests, and the rule is for connections."""


def quoted(text: str) -> str:
    """The text as an RE2 pattern that matches nothing but it."""
    return "".join(f"\\{char}" if char in _SPECIAL else char for char in text)


def pattern(regex: str) -> Any:
    """A StringMatcher of an RE2 pattern, which must match the whole text."""
    return string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=regex))


def text_matcher(value: str, prefix: str = "", *, ignore_case: bool = False) -> Any:
    """A StringMatcher of a value with `*`; `prefix` stands before what is written."""
    if value == "*":
        return pattern(".+")
    if value.startswith("*"):
        if prefix:
            return pattern(f"{prefix}.*{quoted(value[1:])}")
        return string_pb2.StringMatcher(suffix=value[1:], ignore_case=ignore_case)
    if value.endswith("*"):
        return string_pb2.StringMatcher(prefix=prefix + value[:-1], ignore_case=ignore_case)
    return string_pb2.StringMatcher(exact=prefix + value, ignore_case=ignore_case)


def header_matcher(name: str, value: str, *, ignore_case: bool = False) -> Any:
    """A HeaderMatcher of a value with `*`; `*` alone asks whether there is such a header."""
    if value == "*":
        return route_components_pb2.HeaderMatcher(name=name, present_match=True)
    return route_components_pb2.HeaderMatcher(name=name, string_match=text_matcher(value, ignore_case=ignore_case))


def cidr(value: str) -> Any:
    """A range of addresses; a single address is a range of one."""
    address, _, bits = value.partition("/")
    length = int(bits) if bits else ipaddress.ip_address(address).max_prefixlen
    return address_pb2.CidrRange(address_prefix=str(ipaddress.ip_address(address)), prefix_len=uint32(length))


def peer(name: Any) -> Any:
    """A principal: the caller's identity, as its verified certificate says, fits the StringMatcher."""
    return rbac_pb2.Principal(authenticated=rbac_pb2.Principal.Authenticated(principal_name=name))


def principal_of(value: str) -> Any:
    """`trust-domain/ns/namespace/sa/account`."""
    return peer(text_matcher(value, _SPIFFE))


def namespace_of(value: str) -> Any:
    """A namespace of the caller's identity."""
    words = ".*".join(quoted(part) for part in value.split("*"))
    return peer(pattern(f".*/ns/{words}/.*"))


def account_of(value: str, own: str) -> Any:
    """`account` of the policy's namespace `own`, or `namespace/account`."""
    namespace, slash, account = value.partition("/")
    if not slash:
        namespace, account = own, value
    return peer(pattern(f"spiffe://.+/ns/{quoted(namespace)}/(.+/|)sa/{quoted(account)}(/.+)?"))


def trust_domain_of(value: str) -> Any:
    """A trust domain of the caller's identity."""
    if value == "*":
        return peer(string_pb2.StringMatcher(prefix=_SPIFFE))
    if "*" not in value:
        return peer(string_pb2.StringMatcher(prefix=f"{_SPIFFE}{value}/"))
    before, _, behind = value.partition("*")
    return peer(pattern(f"{_SPIFFE}{quoted(before)}[^/]*{quoted(behind)}/.*"))


def request_principals(values: Sequence[str]) -> Any:
    """`issuer/subject` of the verified token; the last '/' divides them, since an issuer may be a URL."""
    found = []
    for value in values:
        issuer, subject = _issuer_and_subject(value)
        both = [
            rbac_pb2.Principal(metadata=claim_matcher(("iss",), (issuer,), in_list=False)),
            rbac_pb2.Principal(metadata=claim_matcher(("sub",), (subject,), in_list=False)),
        ]
        found.append(rbac_pb2.Principal(and_ids=rbac_pb2.Principal.Set(ids=both)))
    return found[0] if len(found) == 1 else any_principal(found)


def _issuer_and_subject(value: str) -> tuple[Any, Any]:
    issuer, slash, subject = value.rpartition("/")
    exact = string_pb2.StringMatcher
    if value == "*":
        return pattern(".+"), pattern(".+")
    if not slash:
        if value.startswith("*"):
            return pattern(".+"), text_matcher(value)
        return (text_matcher(value), pattern(".+")) if value.endswith("*") else (exact(exact=value), exact(exact=""))
    if value.startswith("*"):
        return text_matcher(issuer), exact(exact=subject)
    return exact(exact=issuer), text_matcher(subject) if value.endswith("*") else exact(exact=subject)


def claims(path: Sequence[str], values: Sequence[str]) -> Any:
    """A claim of the verified token, a text or a list of texts, is one of these."""
    return rbac_pb2.Principal(metadata=claim_matcher(path, [text_matcher(value) for value in values]))


def path_is(value: str) -> Any:
    """A path, or a template of one."""
    if "{*}" in value or "{**}" in value:
        template = value.replace("{*}", "*").replace("{**}", "**")
        config = packed(uri_template_match_pb2.UriTemplateMatchConfig(path_template=template))
        extension = extension_pb2.TypedExtensionConfig(name="uri-template", typed_config=config)
        return rbac_pb2.Permission(uri_template=extension)
    return rbac_pb2.Permission(url_path=path_pb2.PathMatcher(path=text_matcher(value)))


def filter_metadata(rest: str, values: Sequence[str]) -> Any:
    """`filter[key]` of Envoy's dynamic metadata; a value in brackets is one item of a list."""
    name, _, key = rest.removesuffix("]").partition("[")
    matchers = []
    for value in values:
        if value.startswith("[") and value.endswith("]"):
            item = value_pb2.ValueMatcher(string_match=text_matcher(value.strip("[]")))
            matchers.append(value_pb2.ValueMatcher(list_match=value_pb2.ListMatcher(one_of=item)))
        else:
            matchers.append(value_pb2.ValueMatcher(string_match=text_matcher(value)))
    one = matchers[0]
    if len(matchers) > 1:
        one = value_pb2.ValueMatcher(or_match=value_pb2.OrMatcher(value_matchers=matchers))
    segment = metadata_pb2.MetadataMatcher.PathSegment(key=key)
    matcher = metadata_pb2.MetadataMatcher(filter=f"envoy.filters.{name}", path=[segment], value=one)
    return rbac_pb2.Permission(metadata=matcher)


def any_principal(found: Sequence[Any]) -> Any:
    return rbac_pb2.Principal(or_ids=rbac_pb2.Principal.Set(ids=found))
