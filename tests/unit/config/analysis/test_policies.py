"""IST0101, IST0127, IST0149, HR0121 and HR0122: policies without what they are for."""

from __future__ import annotations

import pytest
from tests.unit.config.analysis.conftest import Check

from headrace.model.problem import Problem

CODES = ("IST0101", "IST0127", "IST0149", "HR0121", "HR0122")
WORKLOAD = """
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {name: chat, namespace: shop}
spec: {command: [run], labels: {app: chat}}
"""
GATEWAY = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: front, namespace: shop}
spec: {selector: {istio: door}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]}
"""
ROUTE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: by-claim, namespace: shop}
spec:
  hosts: [chat.example]
  gateways: [front]
  http:
  - match: [{headers: {"@request.auth.claims.group": {exact: a}}}]
    redirect: {uri: /}
"""


def policy(spec: str, namespace: str = "shop", kind: str = "AuthorizationPolicy") -> str:
    head = f"apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: p, namespace: {namespace}}}\n"
    return f"{head}spec: {{{spec}}}"


def found(problems: list[Problem]) -> list[tuple[str, str]]:
    return [(item.code, item.field) for item in problems if item.code in CODES]


@pytest.mark.parametrize(
    ("spec", "namespace", "field"),
    [
        ("selector: {matchLabels: {app: chat}}", "shop", ""),
        ("selector: {matchLabels: {app: chat}}", "istio-system", ""),
        ("selector: {matchLabels: {istio: door}}", "istio-system", ""),
        ("", "shop", ""),
        ("", "istio-system", ""),
        ("selector: {matchLabels: {app: chatt}}", "shop", "spec.selector"),
        ("selector: {matchLabels: {app: chatt}}", "istio-system", "spec.selector"),
        ("selector: {matchLabels: {app: chat}}", "other", "spec.selector"),
        ("", "other", "spec"),
        ("targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: x}]", "other", ""),
    ],
)
def test_a_policy_selects_somebody(check: Check, spec: str, namespace: str, field: str) -> None:
    wanted = [("IST0127", field)] if field else []
    assert found(check(WORKLOAD, GATEWAY, policy(spec, namespace))) == wanted


def test_namespaces_are_there(check: Check) -> None:
    rules = "rules: [{from: [{source: {namespaces: [shop, 'sh*', '*op', lost], notNamespaces: ['lost*', '*']}}]}]"
    assert found(check(WORKLOAD, policy(rules))) == [
        ("IST0101", "spec.rules[0].from[0].source.namespaces[3]"),
        ("IST0101", "spec.rules[0].from[0].source.notNamespaces[0]"),
    ]
    declared = "apiVersion: v1\nkind: Namespace\nmetadata: {name: lost}"
    assert found(check(WORKLOAD, declared, policy(rules))) == []


def test_an_authorizer_is_there(check: Check) -> None:
    custom = policy("action: CUSTOM, provider: {name: asker}, rules: [{}]")
    mesh = """
    apiVersion: headrace.dev/v1alpha1
    kind: MeshConfig
    metadata: {name: mesh}
    spec:
      extensionProviders:
      - {name: asker, envoyExtAuthzGrpc: {service: asker.shop.svc.cluster.local, port: 90}}
    """
    service = """
    apiVersion: v1
    kind: Service
    metadata: {name: asker, namespace: shop}
    spec: {selector: {app: asker}, ports: [{name: grpc, port: 90}]}
    """
    missing = [("HR0121", "spec.provider.name")]
    assert found(check(WORKLOAD, custom)) == missing
    assert found(check(WORKLOAD, custom, service)) == missing
    assert found(check(WORKLOAD, custom, mesh)) == missing
    assert found(check(WORKLOAD, custom, mesh, service.replace("port: 90", "port: 91"))) == missing
    assert found(check(WORKLOAD, custom, mesh, service)) == []


@pytest.mark.parametrize(
    ("hosts", "places"),
    [
        ("[a.example]", [0]),
        ("[a.example, 'a.example:*']", []),
        ("[a.example, '*']", []),
        ("['a.example:80']", []),
        ("['*.example']", [0]),
        ("['a.*']", []),
    ],
)
def test_denied_hosts_have_their_ports(check: Check, hosts: str, places: list[int]) -> None:
    rules = f"rules: [{{to: [{{operation: {{hosts: {hosts}, ports: ['80']}}}}]}}]"
    field = "spec.rules[0].to[0].operation.hosts"
    assert found(check(WORKLOAD, policy(f"action: DENY, {rules}"))) == [("HR0122", f"{field}[{at}]") for at in places]
    assert found(check(WORKLOAD, policy(rules))) == [], "allowing one host alone is safe"


def test_routes_by_claim_need_verified_tokens(check: Check) -> None:
    missing = [("IST0149", "spec.http")]
    assert found(check(WORKLOAD, GATEWAY, ROUTE)) == missing
    tokens = "jwtRules: [{issuer: i, jwksUri: 'https://i.example/k'}]"
    kind = "RequestAuthentication"
    for namespace, spec, wanted in (
        ("istio-system", tokens, []),
        ("istio-system", "selector: {matchLabels: {istio: door}}, " + tokens, []),
        ("istio-system", "selector: {matchLabels: {istio: other}}, " + tokens, missing),
        ("other", tokens, missing),
    ):
        assert found(check(WORKLOAD, GATEWAY, ROUTE, policy(spec, namespace, kind))) == wanted
