"""What the filters before the router decide about a request: policies, authorizers, tokens, faults.

Called by `proxy`, in the order of the chain. What cannot be known without a running mesh (an authorizer's answer, the
dice of a fault) is said as a step and taken as passed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from headrace.envoy.trace.matchers import percent_of, text_matches
from headrace.envoy.trace.rbac import matching
from headrace.envoy.trace.request import Data, Refusal, Request, Step

NETWORK_RBAC, HTTP_RBAC = "envoy.filters.network.rbac", "envoy.filters.http.rbac"
_FAULT = "envoy.filters.http.fault"
_FORBIDDEN = 403


def passed(filters: Sequence[Data], request: Request, route: Data) -> tuple[list[Step], Refusal | None]:
    """The steps of these filters, and the refusal with which one of them ended the request."""
    steps: list[Step] = []
    matched: dict[str, str] = {}
    for item in filters:
        name, config = item["name"], item.get("typed_config", {})
        if name in (NETWORK_RBAC, HTTP_RBAC):
            refusal = _rbac(config, request, steps, matched)
            if refusal is not None:
                return steps, refusal
        elif name in ("envoy.filters.http.ext_authz", "envoy.filters.network.ext_authz"):
            steps += _authorizer(config, matched)
        elif name == "envoy.filters.http.jwt_authn":
            steps.append(_token(config, request))
        elif name == _FAULT:
            steps += _fault(config, route)
    return steps, None


def _rbac(config: Data, request: Request, steps: list[Step], matched: dict[str, str]) -> Refusal | None:
    shadow = config.get("shadow_rules")
    if shadow is not None:
        policy = matching(shadow, request)
        if policy is not None:
            matched[config.get("shadow_rules_stat_prefix", "")] = policy
            if not config.get("shadow_rules_stat_prefix", "").startswith("istio_ext_authz"):
                steps.append(Step("dry run", policy, "it would decide, but only counts", policy))
    rules = config.get("rules")
    if rules is None:
        return None
    action, policy = rules.get("action", "ALLOW"), matching(rules, request)
    status = _FORBIDDEN if request.is_http else 0
    if action == "LOG":
        if policy is not None:
            steps.append(Step("audit", policy, "its rule matches: noted, never refused", policy))
        return None
    if action == "DENY":
        if policy is None:
            steps.append(Step("authorization", "DENY", f"none of {_count(rules)} matches"))
            return None
        return Refusal("denied", "a DENY policy matches", status, policy)
    if policy is None:
        return Refusal("not-allowed", f"ALLOW policies are in force and none of {_count(rules)} matches", status)
    steps.append(Step("authorization", "ALLOW", "its rule matches", policy))
    return None


def _count(rules: Data) -> str:
    number = len(rules.get("policies", {}))
    return f"{number} rule{'' if number == 1 else 's'}"


def _authorizer(config: Data, matched: Mapping[str, str]) -> Iterator[Step]:
    """An authorizer is asked where a CUSTOM rule matched."""
    condition = config.get("filter_enabled_metadata")
    for policy in matched.values():
        if condition is None or text_matches(condition.get("value", {}).get("string_match", {}), policy):
            service = config.get("http_service", {}).get("server_uri", {}).get("cluster", "")
            service = service or config.get("grpc_service", {}).get("envoy_grpc", {}).get("cluster_name", "")
            yield Step("authorizer", service, "a CUSTOM rule matches: it is asked, and may refuse", policy)


def _token(config: Data, request: Request) -> Step:
    issuers = ", ".join(sorted({item.get("issuer", "any") for item in config.get("providers", {}).values()}))
    if request.claims is None:
        return Step("token", "none", f"tokens of {issuers} are verified; a request without one passes")
    return Step("token", str(request.claims.get("iss", "unnamed issuer")), f"taken as valid; verified for {issuers}")


def _fault(config: Data, route: Data) -> Iterator[Step]:
    own = route.get("typed_per_filter_config", {}).get(_FAULT, config)
    if "delay" in own:
        percent = percent_of(own["delay"].get("percentage", {}))
        yield Step("fault", "delay", f"{percent:g}% of requests wait {own['delay'].get('fixed_delay', '?')}")
    if "abort" in own:
        percent = percent_of(own["abort"].get("percentage", {}))
        status = own["abort"].get("http_status") or f"gRPC {own['abort'].get('grpc_status', '?')}"
        yield Step("fault", "abort", f"{percent:g}% of requests are answered {status}")
