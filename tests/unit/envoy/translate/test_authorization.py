"""Rules of AuthorizationPolicies as Envoy gets them: trust domains, what a connection has not, names, order, keys."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicNumbers
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2
from tests.unit.envoy.translate.samples import meta

from headrace.envoy.guards import Guard
from headrace.envoy.translate.authorization import http_filters, network_filters, policy_name
from headrace.envoy.translate.authorization_rules import RuleContext, in_trust_domains, rbac_policy
from headrace.envoy.translate.authorization_values import text_matcher
from headrace.envoy.translate.guard_filters import http_guards
from headrace.envoy.translate.jwt_authn import NOBODYS_KEY
from headrace.model.authorization import METHOD, Action, Attribute, AuthorizationPolicy, Authorizer, Rule
from headrace.model.mesh import MeshConfig
from headrace.model.policy import PolicyScope
from headrace.model.request_authentication import JwtRule

MESH = MeshConfig(trust_domain="new", trust_domain_aliases=("old", "my-td"))
GET = Rule(operations=((Attribute(METHOD, ("GET",)),),))
FROM_WEB = (Attribute("source.principal", ("cluster.local/ns/a/sa/web",)),)


def policy(name: str, action: Action, *rules: Rule, dry_run: bool = False, provider: str = "") -> AuthorizationPolicy:
    found = meta("security.istio.io/AuthorizationPolicy", name)
    return AuthorizationPolicy(found, PolicyScope(), action, rules, provider, dry_run)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("new/ns/a/sa/b", ["new/ns/a/sa/b", "old/ns/a/sa/b", "my-td/ns/a/sa/b"]),
        ("old/ns/a/sa/b", ["new/ns/a/sa/b", "old/ns/a/sa/b", "my-td/ns/a/sa/b"]),
        ("cluster.local/ns/a/sa/b", ["new/ns/a/sa/b", "old/ns/a/sa/b", "my-td/ns/a/sa/b"]),
        ("*-td/ns/a/sa/b", ["new/ns/a/sa/b", "old/ns/a/sa/b", "*-td/ns/a/sa/b"]),
        ("*/ns/a/sa/b", ["*/ns/a/sa/b"]),
        ("other/ns/a/sa/b", ["other/ns/a/sa/b"]),
        ("new/ns/a", ["new/ns/a"]),
        ("*", ["*"]),
    ],
)
def test_principals_hold_in_every_trust_domain_of_the_mesh(written: str, meant: list[str]) -> None:
    assert in_trust_domains([written], MESH) == meant


@pytest.mark.parametrize(
    ("value", "prefix", "kind", "text"),
    [
        ("a.b", "", "exact", "a.b"),
        ("a*", "", "prefix", "a"),
        ("*a", "", "suffix", "a"),
        ("*", "p://", "safe_regex", ".+"),
        ("a", "p://", "exact", "p://a"),
        ("*/a.b", "p://", "safe_regex", "p://.*/a\\.b"),
    ],
)
def test_values_with_a_star(value: str, prefix: str, kind: str, text: str) -> None:
    matcher = text_matcher(value, prefix)
    assert matcher.WhichOneof("match_pattern") == kind
    found = getattr(matcher, kind)
    assert (found.regex if kind == "safe_regex" else found) == text


def translated(rule: Rule, action: Action, *, tcp: bool) -> Any:
    return rbac_policy(rule, RuleContext("default", MESH, action, tcp))


def test_on_a_connection_an_allow_rule_that_names_http_is_left_out() -> None:
    assert translated(GET, Action.ALLOW, tcp=False) is not None
    assert translated(GET, Action.ALLOW, tcp=True) is None
    mixed = Rule((FROM_WEB,), GET.operations)
    assert translated(mixed, Action.ALLOW, tcp=True) is None


@pytest.mark.parametrize("action", [Action.DENY, Action.AUDIT, Action.CUSTOM])
def test_on_a_connection_other_rules_lose_only_what_is_http(action: Action) -> None:
    mixed = translated(Rule((FROM_WEB,), GET.operations), action, tcp=True)
    assert mixed.permissions[0].and_rules.rules[0].any
    assert len(mixed.principals[0].and_ids.ids[0].or_ids.ids) == 3, "the principal still counts"


def test_a_rule_is_named_as_istio_does() -> None:
    assert policy_name(policy("p", Action.DENY), 2) == "ns[default]-policy[p]-rule[2]"
    asked = policy("p", Action.CUSTOM, provider="x")
    assert policy_name(asked, 0) == "istio-ext-authz-x-ns[default]-policy[p]-rule[0]"


def test_order_of_the_filters() -> None:
    policies = (
        policy("allow", Action.ALLOW, GET),
        policy("deny", Action.DENY, GET),
        policy("audit", Action.AUDIT, GET),
        policy("ask", Action.CUSTOM, GET, provider="x"),
    )
    authorizer = Authorizer("x", "s", 80)
    guard = Guard(policies, (JwtRule("i"),), ((authorizer, "outbound|80||s"),))
    filters = http_guards(guard, MESH)
    kinds = [item.name.rpartition(".")[2] for item in filters]
    assert kinds == ["rbac", "ext_authz", "jwt_authn", "rbac", "rbac", "rbac"]
    actions = []
    for item in filters[3:]:
        rbac = rbac_pb2.RBAC()
        assert item.typed_config.Unpack(rbac)
        actions.append(rbac.rules.Action.Name(rbac.rules.action))
    assert actions == ["LOG", "DENY", "ALLOW"]


def test_without_policies_there_is_no_filter() -> None:
    assert http_guards(Guard(), MESH) == ()
    assert http_filters(Guard(), MESH) == network_filters(Guard(), MESH) == []


def test_an_allow_policy_that_no_connection_can_satisfy_refuses_every_one() -> None:
    (item,) = network_filters(Guard((policy("p", Action.ALLOW, GET),)), MESH)
    rbac = network_rbac_pb2.RBAC()
    assert item.typed_config.Unpack(rbac)
    assert rbac.HasField("rules") and not rbac.rules.policies


def test_a_dry_run_beside_a_live_policy_is_only_a_shadow() -> None:
    guard = Guard((policy("live", Action.DENY, GET), policy("dry", Action.DENY, Rule(), dry_run=True)))
    (item,) = http_filters(guard, MESH)
    rbac = rbac_pb2.RBAC()
    assert item.typed_config.Unpack(rbac)
    assert list(rbac.rules.policies) == ["ns[default]-policy[live]-rule[0]"]
    assert list(rbac.shadow_rules.policies) == ["ns[default]-policy[dry]-rule[0]"]
    assert rbac.shadow_rules_stat_prefix == "istio_dry_run_deny_"


def test_nobodys_key_is_what_it_says() -> None:
    """Its x is a hash, so nobody can have chosen the point by its private key; and it is a key that Envoy takes."""
    (key,) = json.loads(NOBODYS_KEY)["keys"]
    x, y = (base64.urlsafe_b64decode(key[name] + "=") for name in ("x", "y"))
    assert x == hashlib.sha256(b"headrace: nobody has this key 3").digest()
    EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), SECP256R1()).public_key()
