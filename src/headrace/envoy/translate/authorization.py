"""The filters that enforce a workload's AuthorizationPolicies, on requests and on connections.

Called by `guard_filters`. Istio's order: CUSTOM (an authorizer is asked), then the token (`jwt_authn`), AUDIT, DENY,
ALLOW. With ALLOW policies, what none of them allows is refused; a dry-run policy is evaluated as shadow rules. Policies
in Envoy are called `ns[NAMESPACE]-policy[NAME]-rule[NUMBER]`, which Envoy writes into response_code_details and
connection_termination_details of what it refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2
from google.protobuf.message import Message

from headrace.envoy.guards import Guard
from headrace.envoy.translate.authorization_rules import RuleContext, never, rbac_policy
from headrace.envoy.translate.authorizers import (
    HTTP_AUTHORIZER,
    MATCH_PREFIX,
    NETWORK_AUTHORIZER,
    SHADOW_PREFIX,
    http_authorizer,
    network_authorizer,
)
from headrace.envoy.translate.messages import http_filter, packed
from headrace.model.authorization import Action, AuthorizationPolicy
from headrace.model.mesh import MeshConfig

HTTP_RBAC = "envoy.filters.http.rbac"
NETWORK_RBAC = "envoy.filters.network.rbac"
TCP_STAT_PREFIX = "tcp."
_SHADOW_STATS = {Action.ALLOW: "istio_dry_run_allow_", Action.DENY: "istio_dry_run_deny_"}
_BAD_AUTHORIZER = "-deny-due-to-bad-CUSTOM-action"
_ENFORCED = (Action.AUDIT, Action.DENY, Action.ALLOW)
_IN_ENVOY = {
    Action.ALLOW: rbac_pb2.RBAC.ALLOW,
    Action.DENY: rbac_pb2.RBAC.DENY,
    Action.AUDIT: rbac_pb2.RBAC.LOG,
    Action.CUSTOM: rbac_pb2.RBAC.DENY,
}


def http_custom_filters(guard: Guard, mesh: MeshConfig) -> list[Any]:
    """For each authorizer that CUSTOM policies name: their rules as shadow rules, which refuse nothing, and the filter
    that asks it where one of them matched. Where the authorizer is not there, what they match is refused."""
    filters: list[Any] = []
    for provider, policies in _by_provider(guard):
        rules = _rules(policies, Action.CUSTOM, mesh, tcp=False)
        found = next((item for item in guard.authorizers if item[0].name == provider and item[1]), None)
        if found is None:
            filters.append(_http_rbac(http_rbac_pb2.RBAC(rules=_refusing(rules))))
            continue
        filters.append(_http_rbac(http_rbac_pb2.RBAC(shadow_rules=rules, shadow_rules_stat_prefix=SHADOW_PREFIX)))
        filters.append(http_filter(HTTP_AUTHORIZER, http_authorizer(*found, HTTP_RBAC)))
    return filters


def http_filters(guard: Guard, mesh: MeshConfig) -> list[Any]:
    """The AUDIT, DENY and ALLOW filters of a connection manager."""
    found = (_enforced(guard, action, mesh, tcp=False) for action in _ENFORCED)
    return [_http_rbac(http_rbac_pb2.RBAC(**fields)) for fields in found if fields]


def network_filters(guard: Guard, mesh: MeshConfig) -> list[Any]:
    """All filters of a chain without HTTP. Authorizers that speak HTTP cannot be asked about connections; CUSTOM
    policies of theirs do nothing there (Istio's rule)."""
    filters: list[Any] = []
    for provider, policies in _by_provider(guard):
        rules = _rules(policies, Action.CUSTOM, mesh, tcp=True)
        found = next((item for item in guard.authorizers if item[0].name == provider and item[1]), None)
        if found is None:
            filters.append(_network_rbac(network_rbac_pb2.RBAC(rules=_refusing(rules))))
        elif found[0].grpc:
            shadow = network_rbac_pb2.RBAC(shadow_rules=rules, shadow_rules_stat_prefix=SHADOW_PREFIX)
            filters.append(_network_rbac(shadow))
            filters.append(_network_filter(NETWORK_AUTHORIZER, network_authorizer(*found, NETWORK_RBAC)))
    for action in _ENFORCED:
        fields = _enforced(guard, action, mesh, tcp=True)
        if fields:
            filters.append(_network_rbac(network_rbac_pb2.RBAC(**fields)))
    return filters


def _by_provider(guard: Guard) -> Iterable[tuple[str, list[AuthorizationPolicy]]]:
    found: dict[str, list[AuthorizationPolicy]] = {}
    for policy in guard.authorization:
        if policy.action is Action.CUSTOM:
            found.setdefault(policy.provider, []).append(policy)
    return sorted(found.items(), key=lambda item: item[0])


def _enforced(guard: Guard, action: Action, mesh: MeshConfig, *, tcp: bool) -> dict[str, Any]:
    """The fields of an RBAC filter for one action; empty where no policy has it."""
    policies = [policy for policy in guard.authorization if policy.action is action]
    live = [policy for policy in policies if not policy.dry_run]
    shadow = [policy for policy in policies if policy.dry_run]
    fields: dict[str, Any] = {}
    if live:
        fields["rules"] = _rules(live, action, mesh, tcp=tcp)
    if shadow:
        fields["shadow_rules"] = _rules(shadow, action, mesh, tcp=tcp)
        fields["shadow_rules_stat_prefix"] = _SHADOW_STATS[action]
    return fields


def _rules(policies: Sequence[AuthorizationPolicy], action: Action, mesh: MeshConfig, *, tcp: bool) -> Any:
    rbac = rbac_pb2.RBAC(action=_IN_ENVOY[action])
    for policy in policies:
        context = RuleContext(policy.meta.namespace, mesh, action, tcp)
        for number, rule in enumerate(policy.rules):
            built = rbac_policy(rule, context)
            if built is not None:
                rbac.policies[policy_name(policy, number)].CopyFrom(built)
        if not policy.rules:
            rbac.policies[policy_name(policy, 0)].CopyFrom(never())
    return rbac


def policy_name(policy: AuthorizationPolicy, rule: int) -> str:
    """Istio's name of a rule in Envoy. Rules of CUSTOM policies begin with their authorizer, by which its filter knows
    that one of them matched."""
    name = f"ns[{policy.meta.namespace}]-policy[{policy.meta.name}]-rule[{rule}]"
    return f"{MATCH_PREFIX}-{policy.provider}-{name}" if policy.action is Action.CUSTOM else name


def _refusing(rules: Any) -> Any:
    """The same rules, enforced: nobody can be asked, so what they match is refused."""
    refused = rbac_pb2.RBAC(action=rbac_pb2.RBAC.DENY)
    for name in sorted(rules.policies):
        refused.policies[name + _BAD_AUTHORIZER].CopyFrom(rules.policies[name])
    return refused


def _http_rbac(config: Any) -> Any:
    return http_filter(HTTP_RBAC, config)


def _network_rbac(config: Any) -> Any:
    config.stat_prefix = TCP_STAT_PREFIX
    return _network_filter(NETWORK_RBAC, config)


def _network_filter(name: str, config: Message) -> Any:
    return listener_components_pb2.Filter(name=name, typed_config=packed(config))
