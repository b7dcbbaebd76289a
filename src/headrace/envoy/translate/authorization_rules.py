"""One rule of an AuthorizationPolicy as a policy of Envoy's RBAC filters.

Called by `authorization`. On TCP, Istio's rule for what connections have not: an ALLOW rule that needs it is left out
(it would allow too much), in any other rule the attribute alone is left out (it refuses too much, never too little).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from envoy.config.rbac.v3 import rbac_pb2

from headrace.envoy.translate import authorization_values as values
from headrace.envoy.translate.authorization_values import HttpOnly
from headrace.model.authorization import HOST, METHOD, PATH, Action, Attribute, Rule
from headrace.model.claims import claim_path
from headrace.model.mesh import MeshConfig

_HEADERS = "request.headers["
_CLAIMS = "request.auth.claims"
_FILTERS = "experimental.envoy.filters."
_LOCAL_TRUST_DOMAIN = "cluster.local"
"""Stands for the mesh's own trust domain in principals, whatever that is called (Istio's rule)."""

_PERMISSION_KEYS = (HOST, METHOD, PATH, "destination.ip", "destination.port", "connection.sni")


@dataclass(frozen=True, slots=True)
class RuleContext:
    """What a rule is translated for. `namespace` is the policy's own."""

    namespace: str
    mesh: MeshConfig
    action: Action
    tcp: bool


_One = Callable[[str], Any]
_All = Callable[[Sequence[str]], Any]


def rbac_policy(rule: Rule, context: RuleContext) -> Any | None:
    """The Policy; None for an ALLOW rule that no connection can satisfy."""
    principals = [item for item in rule.conditions if not _is_permission(item.key)]
    permissions = [item for item in rule.conditions if _is_permission(item.key)]
    try:
        return rbac_pb2.Policy(
            permissions=[_permission([*found, *permissions], context) for found in rule.operations or ((),)],
            principals=[_principal([*found, *principals], context) for found in rule.sources or ((),)],
        )
    except HttpOnly:
        return None


def never() -> Any:
    """A Policy that nothing matches: what a policy without rules is made of."""
    permission, principal = rbac_pb2.Permission(any=True), rbac_pb2.Principal(any=True)
    return rbac_pb2.Policy(
        permissions=[rbac_pb2.Permission(not_rule=permission)], principals=[rbac_pb2.Principal(not_id=principal)]
    )


def _is_permission(key: str) -> bool:
    return key in _PERMISSION_KEYS or key.startswith(_FILTERS)


def _permission(attributes: Iterable[Attribute], context: RuleContext) -> Any:
    rules: list[Any] = []
    for item in attributes:
        for negated, texts in ((False, item.values), (True, item.not_values)):
            found = _checked(_permissions, item.key, texts, context)
            if not found:
                continue
            one = found[0]
            if not item.key.startswith(_FILTERS):
                one = rbac_pb2.Permission(or_rules=rbac_pb2.Permission.Set(rules=found))
            rules.append(rbac_pb2.Permission(not_rule=one) if negated else one)
    return rbac_pb2.Permission(and_rules=rbac_pb2.Permission.Set(rules=rules or [rbac_pb2.Permission(any=True)]))


def _principal(attributes: Iterable[Attribute], context: RuleContext) -> Any:
    ids: list[Any] = []
    for item in attributes:
        for negated, texts in ((False, item.values), (True, item.not_values)):
            found = _checked(_principals, item.key, texts, context)
            if not found:
                continue
            one = found[0] if item.key.startswith("request.auth.") else values.any_principal(found)
            ids.append(rbac_pb2.Principal(not_id=one) if negated else one)
    return rbac_pb2.Principal(and_ids=rbac_pb2.Principal.Set(ids=ids or [rbac_pb2.Principal(any=True)]))


def _checked(
    build: Callable[[str, Sequence[str], RuleContext], list[Any]], key: str, texts: Sequence[str], context: RuleContext
) -> list[Any]:
    """What `build` makes of the values. An attribute of HTTP on TCP is left out, but of an ALLOW rule."""
    if not texts:
        return []
    try:
        return build(key, texts, context)
    except HttpOnly:
        if context.action is Action.ALLOW:
            raise
        return []


def _permissions(key: str, texts: Sequence[str], context: RuleContext) -> list[Any]:
    one = rbac_pb2.Permission
    if key in (HOST, METHOD, PATH) and context.tcp:
        raise HttpOnly(key)
    if key == HOST:
        return [one(header=values.header_matcher(HOST, text, ignore_case=True)) for text in texts]
    if key == METHOD:
        return [one(header=values.header_matcher(METHOD, text)) for text in texts]
    if key == PATH:
        return [values.path_is(text) for text in texts]
    if key == "destination.ip":
        return [one(destination_ip=values.cidr(text)) for text in texts]
    if key == "destination.port":
        return [one(destination_port=int(text)) for text in texts]
    if key == "connection.sni":
        return [one(requested_server_name=values.text_matcher(text)) for text in texts]
    return [values.filter_metadata(key.removeprefix(_FILTERS), texts)]


def _principals(key: str, texts: Sequence[str], context: RuleContext) -> list[Any]:
    one = rbac_pb2.Principal
    if key.startswith(("request.auth.", _HEADERS)) and context.tcp:
        raise HttpOnly(key)
    if key == "source.principal":
        return [values.principal_of(text) for text in in_trust_domains(texts, context.mesh)]
    if key == "source.namespace":
        return [values.namespace_of(text) for text in texts]
    if key == "source.serviceAccount":
        return [values.account_of(text, context.namespace) for text in texts]
    if key == "source.trustDomain":
        return [values.trust_domain_of(text) for text in _with_aliases(texts, context.mesh)]
    if key == "source.ip":
        return [one(direct_remote_ip=values.cidr(text)) for text in texts]
    if key == "remote.ip":
        return [one(remote_ip=values.cidr(text)) for text in texts]
    if key == "request.auth.principal":
        return [values.request_principals(texts)]
    if key == "request.auth.audiences":
        return [values.claims(("aud",), texts)]
    if key == "request.auth.presenter":
        return [values.claims(("azp",), texts)]
    if key.startswith(_CLAIMS):
        return [values.claims(claim_path(key.removeprefix(_CLAIMS)), texts)]
    if key.startswith(_HEADERS):
        name = key.removeprefix(_HEADERS).removesuffix("]")
        return [one(header=values.header_matcher(name, text)) for text in texts]
    raise ValueError(f"no attribute is called {key!r}")


def in_trust_domains(principals: Sequence[str], mesh: MeshConfig) -> list[str]:
    """Principals with a trust domain of the mesh's (or `cluster.local`, which stands for it), in each of its trust
    domains; others as they are. A trust domain with `*` before stays where it covers one of the mesh's."""
    own = (mesh.trust_domain, *mesh.trust_domain_aliases)
    found: dict[str, None] = {}
    for principal in principals:
        domain, _, rest = principal.partition("/")
        if principal.count("/") != 4 or domain == "*":
            found[principal] = None
            continue
        if domain != _LOCAL_TRUST_DOMAIN and not any(_fits(domain, item) for item in own):
            found[principal] = None
            continue
        for item in own:
            covered = domain.startswith("*") and item.endswith(domain[1:])
            found[principal if covered else f"{item}/{rest}"] = None
    return list(found)


def _fits(one: str, other: str) -> bool:
    """Whether two trust domains, either with `*` before or behind, can be the same."""
    if one == other or "*" in (one, other):
        return True
    for wild, text in ((one, other), (other, one)):
        if wild.endswith("*") and text.startswith(wild[:-1]):
            return True
        if wild.startswith("*") and text.endswith(wild[1:]):
            return True
    return False


def _with_aliases(domains: Sequence[str], mesh: MeshConfig) -> list[str]:
    own = (mesh.trust_domain, *mesh.trust_domain_aliases)
    return list(dict.fromkeys(item for domain in domains for item in (own if domain in own else (domain,))))
