"""HR0102 to HR0106: InferencePolicies without their target, two for one target, overflow that leads nowhere; HR0002."""

from __future__ import annotations

import pytest
from tests.unit.config.analysis.conftest import Check

from headrace.model.problem import Problem

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: chat}
spec: {selector: {app: chat}, ports: [{name: http, port: 8000}]}
"""
POOL = """
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {name: chat}
spec: {selector: {matchLabels: {app: chat}}, targetPorts: [{number: 8000}]}
"""
TO_SERVICE = "{kind: Service, name: chat}"
TO_POOL = "{group: inference.networking.k8s.io, kind: InferencePool, name: chat}"


def policy(name: str, target: str = TO_SERVICE, namespace: str = "default") -> str:
    return f"""
apiVersion: headrace.dev/v1alpha1
kind: InferencePolicy
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{targetRefs: [{target}]}}
"""


def found(problems: list[Problem]) -> list[tuple[str, str, str]]:
    return [(item.code, item.name, item.field) for item in problems if item.code.startswith("HR01")]


def test_a_policy_for_what_is_there_is_fine(check: Check) -> None:
    assert found(check(SERVICE, POOL, policy("one"), policy("two", TO_POOL))) == []


def test_a_policy_without_its_target(check: Check) -> None:
    assert found(check(SERVICE, policy("one", TO_POOL))) == [("HR0102", "one", "spec.targetRefs[0].name")]
    assert found(check(POOL, policy("one"))) == [("HR0102", "one", "spec.targetRefs[0].name")]


def test_a_policy_is_for_its_own_namespace(check: Check) -> None:
    assert found(check(SERVICE, policy("one", namespace="other"))) == [("HR0102", "one", "spec.targetRefs[0].name")]


def test_the_younger_of_two_is_named(check: Check) -> None:
    assert found(check(SERVICE, policy("b-second"), policy("a-first"))) == [
        ("HR0103", "b-second", "spec.targetRefs[0]")
    ]


def test_a_route_may_lead_to_a_pool(check: Check) -> None:
    rule = """
    apiVersion: networking.istio.io/v1
    kind: VirtualService
    metadata: {name: rule}
    spec:
      hosts: [ask.example]
      http:
      - route: [{destination: {host: chat.default.inference.local}}]
        timeout: 300s
    """
    assert [item.code for item in check(POOL, rule)] == []


def redirecting(name: str, to: str, more: str = "", target: str = TO_SERVICE) -> str:
    backend = f"{{kind: Service, name: {to}{more}}}"
    return policy(name, target).replace(
        "]}", f"], admission: {{concurrency: 1, overflow: {{action: Redirect, backend: {backend}}}}}}}"
    )


SPARE = SERVICE.replace("{name: chat}", "{name: spare}")
FIELD = "spec.admission.overflow.backend"


def test_a_redirect_to_what_is_there_is_fine(check: Check) -> None:
    pool = redirecting("two", "chat", "", TO_POOL)
    assert found(check(SERVICE, SPARE, POOL, redirecting("one", "spare"), pool)) == []


@pytest.mark.parametrize(
    ("to", "more", "field"),
    [
        ("missing", "", "name"),
        ("spare", ", port: 9999", "port"),
        ("spare", ", subset: v2", "subset"),
    ],
)
def test_a_redirect_to_nothing(check: Check, to: str, more: str, field: str) -> None:
    assert found(check(SERVICE, SPARE, redirecting("one", to, more))) == [("HR0104", "one", f"{FIELD}.{field}")]


def test_a_redirect_to_a_subset_of_a_rule(check: Check) -> None:
    rule = """
    apiVersion: networking.istio.io/v1
    kind: DestinationRule
    metadata: {name: spare}
    spec: {host: spare, subsets: [{name: v2, labels: {version: v2}}]}
    """
    assert found(check(SERVICE, SPARE, rule, redirecting("one", "spare", ", subset: v2"))) == []


def test_a_redirect_that_cannot_know_the_port(check: Check) -> None:
    two = SPARE.replace("[{name: http, port: 8000}]", "[{name: http, port: 81}, {name: http-2, port: 82}]")
    assert found(check(SERVICE, two, redirecting("one", "spare"))) == [("HR0104", "one", f"{FIELD}.name")]
    assert found(check(SERVICE, two, redirecting("one", "spare", ", port: 82"))) == []


def test_a_redirect_to_itself(check: Check) -> None:
    assert found(check(SERVICE, redirecting("one", "chat"))) == [("HR0105", "one", f"{FIELD}.name")]


def test_redirects_in_a_circle(check: Check) -> None:
    back = redirecting("back", "chat", "", "{kind: Service, name: spare}")
    assert sorted(found(check(SERVICE, SPARE, redirecting("one", "spare"), back))) == [
        ("HR0106", "back", f"{FIELD}.name"),
        ("HR0106", "one", f"{FIELD}.name"),
    ]


def test_a_load_balancer_that_a_policy_replaces(check: Check) -> None:
    rule = """
    apiVersion: networking.istio.io/v1
    kind: DestinationRule
    metadata: {name: chat}
    spec:
      host: chat
      trafficPolicy:
        loadBalancer: {simple: ROUND_ROBIN}
        portLevelSettings: [{port: {number: 8000}, loadBalancer: {simple: RANDOM}}]
      subsets:
      - {name: v1, labels: {app: chat}}
      - {name: v2, labels: {app: chat}, trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x}}}}
    """
    said = [(item.code, item.kind, item.field) for item in check(SERVICE, rule, policy("one"))]
    assert sorted(item for item in said if item[0] == "HR0002") == [
        ("HR0002", "DestinationRule", "spec.subsets[1].trafficPolicy.loadBalancer"),
        ("HR0002", "DestinationRule", "spec.trafficPolicy.loadBalancer"),
        ("HR0002", "DestinationRule", "spec.trafficPolicy.portLevelSettings[0].loadBalancer"),
    ]
    assert not [item for item in check(SERVICE, rule) if item.code == "HR0002"]
