"""Controllers of Pods and WorkloadGroups: descriptions of workloads that somebody else runs."""

from __future__ import annotations

import pytest

from headrace.model.problem import Severity
from headrace.model.workload import StaticWorkload, WorkloadPort

POD = """
          metadata: {labels: {app: chat, version: v1}, annotations: {a: b}}
          spec:
            serviceAccountName: bot
            containers: [{name: web, image: x, ports: [{containerPort: 8000, name: http}], resources: {}}]
"""


def controller(kind: str, api: str, selector: str = "selector: {matchLabels: {app: chat}}") -> str:
    template = f"        template:{POD}"
    if kind == "CronJob":
        template = "        jobTemplate: {spec: {template: {spec: {containers: [{name: web}]}}}}"
    head = f"apiVersion: {api}\nkind: {kind}\nmetadata: {{name: chat-v1}}\nspec:\n"
    return f"{head}        {selector or 'replicas: 1'}\n{template}\n"


@pytest.mark.parametrize(
    ("kind", "api", "selector"),
    [
        ("Deployment", "apps/v1", "selector: {matchLabels: {app: chat}}"),
        ("StatefulSet", "apps/v1", "selector: {matchLabels: {app: chat}}"),
        ("DaemonSet", "apps/v1", "selector: {matchLabels: {app: chat}}"),
        ("ReplicaSet", "apps/v1", "selector: {matchLabels: {app: chat}}"),
        ("Job", "batch/v1", ""),
        ("ReplicationController", "v1", "selector: {app: chat}"),
    ],
)
def test_the_template_is_the_workload(judge, kind, api, selector):
    verdict = judge(controller(kind, api, selector))
    assert verdict.problems == ()
    workload = verdict.resource
    assert isinstance(workload, StaticWorkload)
    assert (workload.address, workload.service_account, workload.proxied) == ("", "bot", True)
    assert workload.labels == {"app": "chat", "version": "v1"}
    assert workload.ports == (WorkloadPort(8000, "http"),)


def test_a_cron_job_is_read_two_templates_deep(judge):
    workload = judge(controller("CronJob", "batch/v1", "")).resource
    assert (workload.service_account, workload.labels) == ("default", {})


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (controller("Deployment", "apps/v1", "selector: {matchLabels: {app: other}}"), "spec.selector.matchLabels.app"),
        (controller("Deployment", "apps/v1", ""), "spec.selector"),
        (controller("ReplicationController", "v1", "selector: {app: x}"), "spec.selector.app"),
        (controller("Deployment", "apps/v1").replace("bot", "Bot"), "spec.template.spec.serviceAccountName"),
        (controller("Job", "batch/v1", "").replace("name: web", "name: Web"), "spec.template.spec.containers[0].name"),
    ],
)
def test_what_kubernetes_refuses_is_refused(judge, text, field):
    verdict = judge(text)
    assert verdict.resource is None
    assert [problem.field for problem in verdict.problems] == [field]


def test_the_injection_annotation_of_the_template_counts(judge):
    text = controller("Deployment", "apps/v1").replace("{a: b}", '{sidecar.istio.io/inject: "false"}')
    assert not judge(text).resource.proxied


def group(spec: str) -> str:
    return f"apiVersion: networking.istio.io/v1\nkind: WorkloadGroup\nmetadata: {{name: vms}}\nspec: {{{spec}}}\n"


def test_a_workload_group_describes_its_machines_and_says_that_nobody_registers(judge):
    spec = (
        "metadata: {labels: {app: db, tier: a}}, "
        "template: {serviceAccount: db, network: n, locality: r/z, labels: {app: old}, ports: {tcp: 5432}}, "
        "probe: {tcpSocket: {port: 5432}}"
    )
    verdict = judge(group(spec))
    assert {(problem.code, problem.severity) for problem in verdict.problems} == {("HR0002", Severity.WARNING)}
    assert {problem.field for problem in verdict.problems} == {"spec.template", "spec.probe"}
    workload = verdict.resource
    assert (workload.labels, workload.service_account) == ({"app": "db", "tier": "a"}, "db")
    assert (workload.network, workload.locality, workload.address) == ("n", "r/z", "")


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ("metadata: {labels: {a: b}}", "spec.template"),
        ("template: {}, probe: {periodSeconds: 1}", "spec.probe"),
        ("template: {}, probe: {grpc: {port: 80}}", "spec.probe"),
        ("template: {}, probe: {httpGet: {port: 0}}", "spec.probe.httpGet.port"),
        ("template: {}, probe: {httpGet: {port: 80, scheme: http}}", "spec.probe.httpGet.scheme"),
        (
            "template: {}, probe: {httpGet: {port: 80, httpHeaders: [{name: a b}]}}",
            "spec.probe.httpGet.httpHeaders[0].name",
        ),
        ("template: {}, probe: {exec: {command: []}}", "spec.probe.exec.command"),
        ("template: {}, probe: {tcpSocket: {port: 80}, timeoutSeconds: -1}", "spec.probe.timeoutSeconds"),
        ("template: {}, metadata: {labels: {a: 'b c'}}", "spec.metadata.labels.a"),
        ("template: {ports: {a_b: 1}}", "spec.template.ports.a_b"),
        ("template: {address: 'unix://a'}", "spec.template.address"),
    ],
)
def test_a_workload_group_is_refused_as_istio_does(judge, spec, field):
    verdict = judge(group(spec))
    assert verdict.resource is None
    assert field in [problem.field for problem in verdict.problems if problem.severity is Severity.ERROR]
