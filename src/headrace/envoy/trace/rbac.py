"""Envoy's RBAC engine: whether a policy's permissions and principals hold for a request.

Called by `filters`. Rule: envoy.config.rbac.v3.RBAC; a policy holds where one of its permissions and one of its
principals do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.envoy.trace.matchers import full_match, header_matches, in_range, metadata_matches, text_matches
from headrace.envoy.trace.request import Data, Request

JWT_AUTHN = "envoy.filters.http.jwt_authn"
"""The filter whose metadata holds the claims of a valid token, under `payload`."""


def matching(rules: Data, request: Request) -> str | None:
    """The first policy by name that holds (Envoy keeps them sorted); None where none does."""
    for name in sorted(rules.get("policies", {})):
        policy = rules["policies"][name]
        if any(_permitted(item, request) for item in policy.get("permissions", [])) and any(
            _is(item, request) for item in policy.get("principals", [])
        ):
            return str(name)
    return None


def _permitted(permission: Data, request: Request) -> bool:
    kind, value = _only(permission)
    if kind == "and_rules":
        return all(_permitted(item, request) for item in value.get("rules", []))
    if kind == "or_rules":
        return any(_permitted(item, request) for item in value.get("rules", []))
    if kind == "not_rule":
        return not _permitted(value, request)
    if kind == "any":
        return True
    if kind == "header":
        return request.is_http and header_matches(value, request)
    if kind == "url_path":
        return request.is_http and text_matches(value["path"], request.path.partition("?")[0])
    if kind == "destination_ip":
        return in_range(value, request.address)
    if kind == "destination_port":
        return int(value) == request.port
    if kind == "requested_server_name":
        return text_matches(value, request.sni)
    if kind == "metadata":
        return metadata_matches(value, metadata(request))
    if kind == "uri_template":
        return _template(str(value["typed_config"].get("path_template", "")), request.path.partition("?")[0])
    return False


def _is(principal: Data, request: Request) -> bool:
    kind, value = _only(principal)
    if kind == "and_ids":
        return all(_is(item, request) for item in value.get("ids", []))
    if kind == "or_ids":
        return any(_is(item, request) for item in value.get("ids", []))
    if kind == "not_id":
        return not _is(value, request)
    if kind == "any":
        return True
    if kind == "authenticated":
        if not request.identity:
            return False
        return text_matches(value["principal_name"], request.identity) if "principal_name" in value else True
    if kind in ("direct_remote_ip", "remote_ip", "source_ip"):
        return in_range(value, request.source)
    if kind == "header":
        return request.is_http and header_matches(value, request)
    if kind == "metadata":
        return metadata_matches(value, metadata(request))
    return False


def metadata(request: Request) -> Mapping[str, Any]:
    """The dynamic metadata that can be known: the claims of the token."""
    return {JWT_AUTHN: {"payload": request.claims}} if request.claims is not None else {}


def _only(message: Data) -> tuple[str, Any]:
    """The one field that a permission or principal has."""
    return next(iter(message.items()), ("", None))


def _template(template: str, path: str) -> bool:
    """A path template: `*` is one segment, `**` any number of them."""
    pattern = "".join("/" + {"*": "[^/]+", "**": ".*"}.get(part, _literal(part)) for part in template.split("/")[1:])
    return full_match(pattern, path)


def _literal(text: str) -> str:
    return "".join(char if char.isalnum() else f"\\{char}" for char in text)
