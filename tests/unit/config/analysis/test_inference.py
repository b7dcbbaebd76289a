"""HR0101: inference routes without a timeout. "Never trust default timeouts"."""

from __future__ import annotations

import pytest

from headrace.model.problem import Severity


def service(name: str = "chat", port: int = 8000) -> str:
    return f"""
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: {port}}}]}}
"""


def workload(name: str, app: str, engine: str = "") -> str:
    rest = f", engine: {engine}" if engine else ""
    return f"""
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {{name: {name}}}
spec: {{command: [run], labels: {{app: {app}}}, ports: [{{name: http, port: 8000}}]{rest}}}
"""


def rule(destination: str = "host: chat", rest: str = "match: [{uri: {prefix: /v1/chat/completions}}]") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: rule}}
spec:
  hosts: [chat]
  http:
  - route:
    - destination: {{{destination}}}
    {rest}
"""


def codes(problems):
    return [(problem.code, problem.field) for problem in problems]


WARNED = [("HR0101", "spec.http[0]")]


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ("match: [{uri: {prefix: /v1/chat/completions}}]", WARNED),
        ("match: [{uri: {exact: /v1/embeddings}}]", WARNED),
        ("match: [{uri: {regex: '/v1/(chat/)?completions'}}]", []),
        ("match: [{uri: {regex: '.*/v1/completions'}}]", WARNED),
        ("match: [{uri: {prefix: /api/generate}}]", WARNED),
        ("match: [{uri: {prefix: /healthz}}]", []),
        ("timeout: 300s\n    match: [{uri: {prefix: /v1/chat/completions}}]", []),
    ],
)
def test_paths_of_model_apis(check, match, expected):
    found = check(service(), rule(rest=match))
    assert codes(found) == expected
    assert all(
        problem.severity is Severity.WARNING and "Never trust default timeouts" in problem.remedy for problem in found
    )


def test_the_line_is_that_of_the_route(check):
    text = rule()
    (problem,) = check(text, service())
    assert text.strip("\n").splitlines()[problem.line - 1].strip() == "- route:"


@pytest.mark.parametrize("name", ["vllm", "my-llm", "ai-inference-service", "model-b"])
def test_names_of_services(check, name):
    assert codes(check(service(name), rule(f"host: {name}", "name: a"))) == WARNED


def test_port_of_ollama(check):
    assert codes(check(service("web", 11434), rule("host: web, port: {number: 11434}", "name: a"))) == WARNED


def test_an_engine_brings_its_own_timeout(check):
    assert check(service(), workload("a", "chat", "vllm"), rule()) == []
    assert codes(check(service(), workload("a", "chat"), rule())) == WARNED
    assert codes(check(service(), workload("a", "chat", "vllm"), workload("b", "chat"), rule())) == WARNED


def test_a_policy_brings_its_own_timeout(check):
    policy = """
    apiVersion: headrace.dev/v1alpha1
    kind: InferencePolicy
    metadata: {name: chat}
    spec: {targetRefs: [{kind: Service, name: chat}], timeouts: {firstToken: 30s, total: 300s}}
    """
    assert check(service(), policy, rule()) == []
    assert codes(check(service(), policy.replace(", total: 300s", ""), rule())) == WARNED


def test_other_routes_are_left_alone(check):
    assert check(service("web"), rule("host: web", "name: a")) == []
    redirect = """
    apiVersion: networking.istio.io/v1
    kind: VirtualService
    metadata: {name: rule}
    spec: {hosts: [llm], http: [{match: [{uri: {prefix: /v1/completions}}], redirect: {uri: /}}]}
    """
    assert check(redirect) == []
