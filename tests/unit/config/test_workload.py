"""`headrace.dev/v1alpha1 Workload`: Kubernetes' names and rules for a process on this machine."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest

from headrace.config.documents import read_text
from headrace.config.schema import Validated, validate
from headrace.model.workload import Engine, Probe, Workload, WorkloadPort, WorkloadRole

HEAD = "apiVersion: headrace.dev/v1alpha1\nkind: Workload\nmetadata: {name: chat, labels: {app: chat}}\nspec:\n"


def judge(spec: str, file: str = "/mesh/docs/a.yaml") -> Validated:
    (document,) = read_text(HEAD + textwrap.indent(textwrap.dedent(spec), "  "), file, "test").documents
    return validate(document)


def good(spec: str) -> Any:
    result = judge(spec)
    assert [problem.as_line() for problem in result.problems] == []
    return result.resource


def test_a_workload_in_full() -> None:
    workload = good(
        """\
        command: [python, -m, server]
        args: ["--port", "$(PORT)"]
        env:
        - {name: MODEL, value: tiny}
        directory: ../models
        ports:
        - {containerPort: 8000, name: http}
        - {port: 9000, appProtocol: grpc}
        labels: {version: v1, app: chat}
        serviceAccountName: chat
        replicas: 2
        engine: vllm
        readinessProbe:
          httpGet: {path: /health, port: http, httpHeaders: [{name: x-a, value: b}]}
          periodSeconds: 1
        livenessProbe: {tcpSocket: {port: 9000}, initialDelaySeconds: 3}
        startupProbe: {exec: {command: [test, -f, /ready]}, failureThreshold: 30}
        terminationGracePeriodSeconds: 5
        """
    )
    assert isinstance(workload, Workload)
    assert workload.command == ("python", "-m", "server", "--port", "$(PORT)")
    assert workload.env == (("MODEL", "tiny"),)
    assert workload.directory == "/mesh/models"
    assert workload.ports == (WorkloadPort(8000, "http", "HTTP"), WorkloadPort(9000, "", "GRPC"))
    assert list((workload.labels or {}).items()) == [("app", "chat"), ("version", "v1")]
    assert (workload.service_account, workload.replicas, workload.engine) == ("chat", 2, Engine.VLLM)
    assert workload.readiness == Probe(http_path="/health", http_headers=(("x-a", "b"),), port=8000, period=1.0)
    assert workload.liveness == Probe(tcp=True, port=9000, initial_delay=3.0)
    assert workload.startup == Probe(command=("test", "-f", "/ready"), failure_threshold=30)
    assert workload.grace_period == 5.0


def test_a_small_workload_has_kubernetes_defaults() -> None:
    workload = good("command: [server]\n")
    assert (workload.role, workload.replicas, workload.service_account) == (WorkloadRole.SIDECAR, 1, "default")
    assert workload.labels == {"app": "chat"}
    assert workload.directory == "/mesh/docs"
    assert workload.grace_period == 30.0
    assert workload.readiness is None


def test_a_gateway_is_a_proxy_alone() -> None:
    assert good("role: gateway\nlabels: {istio: ingressgateway}\n").role is WorkloadRole.GATEWAY
    result = judge("role: gateway\ncommand: [x]\n")
    assert [(item.code, item.field) for item in result.problems] == [("HR0002", "spec.command")]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ("replicas: 1", "spec.command"),
        ("command: []", "spec.command"),
        ("command: ['']", "spec.command[0]"),
        ("command: server", "spec.command"),
        ('command: ["a\\0b"]', "spec.command[0]"),
        ("command: [a]\nreplicas: -1", "spec.replicas"),
        ("command: [a]\nreplicas: 100000", "spec.replicas"),
        ("command: [a]\nengine: gpt", "spec.engine"),
        ("command: [a]\nrole: waypoint", "spec.role"),
        ("command: [a]\nports: [{name: http}]", "spec.ports[0].port"),
        ("command: [a]\nports: [{port: 1}, {port: 1}]", "spec.ports[1].port"),
        ("command: [a]\nports: [{port: 1, name: a}, {port: 2, name: a}]", "spec.ports[1].name"),
        ("command: [a]\nports: [{port: 1, protocol: UDP}]", "spec.ports[0].protocol"),
        ("command: [a]\nenv: [{name: A=B}]", "spec.env[0].name"),
        ("command: [a]\nenv: [{name: A, value: 5}]", "spec.env[0].value"),
        ("command: [a]\nenv: [{name: A}, {name: A}]", "spec.env[1].name"),
        ("command: [a]\nenv: {A: b}", "spec.env"),
        ("command: [a]\nlabels: {a: b c}", "spec.labels.a"),
        ("command: [a]\nreadinessProbe: {}", "spec.readinessProbe"),
        ("command: [a]\nreadinessProbe: {httpGet: {port: 1}, tcpSocket: {port: 1}}", "spec.readinessProbe"),
        ("command: [a]\nreadinessProbe: {httpGet: {port: web}}", "spec.readinessProbe.httpGet.port"),
        ("command: [a]\nreadinessProbe: {tcpSocket: {}}", "spec.readinessProbe.tcpSocket.port"),
        ("command: [a]\nreadinessProbe: {httpGet: {port: 1, scheme: HTTPS}}", "spec.readinessProbe.httpGet.scheme"),
        ("command: [a]\nreadinessProbe: {httpGet: {port: 1}, periodSeconds: 0}", "spec.readinessProbe.periodSeconds"),
        (
            "command: [a]\nlivenessProbe: {tcpSocket: {port: 1}, successThreshold: 2}",
            "spec.livenessProbe.successThreshold",
        ),
        ("command: [a]\nterminationGracePeriodSeconds: -1", "spec.terminationGracePeriodSeconds"),
        ("command: [a]\nimage: x", "spec.image"),
    ],
)
def test_workloads_that_are_refused(spec: str, field: str) -> None:
    result = judge(spec)
    assert result.resource is None
    assert [problem.field for problem in result.problems] == [field]
    assert result.problems[0].code == "IST0106"


def test_a_variables_value_is_never_shown() -> None:
    said = [problem.as_line() for problem in judge("command: [a]\nenv: [{name: A, value: 31337}]").problems]
    assert len(said) == 1
    assert "31337" not in said[0]
