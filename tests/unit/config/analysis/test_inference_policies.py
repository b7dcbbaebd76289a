"""HR0102 and HR0103: InferencePolicies without their target, and two for one target."""

from __future__ import annotations

from tests.unit.config.analysis.conftest import Check

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


def found(problems: list) -> list[tuple[str, str, str]]:
    return [(item.code, item.name, item.field) for item in problems if item.code.startswith("HR01")]


def test_a_policy_for_what_is_there_is_fine(check: Check) -> None:
    assert found(check(SERVICE, POOL, policy("one"), policy("two", TO_POOL))) == []


def test_a_policy_without_its_target(check: Check) -> None:
    assert found(check(SERVICE, policy("one", TO_POOL))) == [("HR0102", "one", "spec.targetRefs[0].name")]
    assert found(check(POOL, policy("one"))) == [("HR0102", "one", "spec.targetRefs[0].name")]


def test_a_policy_is_for_its_own_namespace(check: Check) -> None:
    assert found(check(SERVICE, policy("one", namespace="other"))) == [("HR0102", "one", "spec.targetRefs[0].name")]


def test_the_younger_of_two_is_named(check: Check) -> None:
    assert found(check(SERVICE, policy("b-first"), policy("a-second"))) == [
        ("HR0103", "a-second", "spec.targetRefs[0]")
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
