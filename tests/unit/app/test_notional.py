"""Questions about documents alone: what would run counts as running."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import Any

import pytest

from headrace.app import offline
from headrace.app.cli import main
from headrace.app.notional import NOTIONAL

CALLED = """\
apiVersion: v1
kind: Service
metadata: {name: chat}
spec: {selector: {app: chat}, ports: [{name: http, port: 80, targetPort: 8000}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: chat-old}
spec:
  selector: {matchLabels: {app: chat}}
  template: {metadata: {labels: {app: chat, version: v1}}, spec: {containers: [{name: c}]}}
---
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {name: chat-new}
spec: {command: [serve], replicas: 9, labels: {app: chat, version: v2}, ports: [{name: http, port: 8000}]}
---
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {name: web}
spec: {command: [ask]}
"""
POD = """---
apiVersion: v1
kind: Pod
metadata: {name: chat-old-1, labels: {app: chat, version: v1, pod-template-hash: a}}
spec: {containers: [{name: c}]}
status: {podIP: 10.0.0.1}
"""


def addresses(tmp_path: Path, text: str, *, as_running: bool = True) -> list[tuple[str, str]]:
    (tmp_path / "mesh.yaml").write_text(text)
    snapshot = offline.load([tmp_path], as_running=as_running).snapshot
    found = snapshot.endpoints.get(("default", "chat.default.svc.cluster.local"), ())
    return sorted((item.workload, item.address) for item in found)


def test_deployments_and_workloads_have_endpoints_of_nobody(tmp_path: Path) -> None:
    found = addresses(tmp_path, CALLED)
    assert [name for name, _ in found] == ["chat-new"] * 3 + ["chat-old"], "of nine replicas three are enough"
    assert len({address for _, address in found}) == 4
    assert all(ipaddress.IPv4Address(address) in NOTIONAL for _, address in found)
    assert addresses(tmp_path, "---\n".join(reversed(CALLED.split("---\n")))) == found, "in whatever order"


def test_a_described_pod_is_the_deployment_s(tmp_path: Path) -> None:
    old = [pair for pair in addresses(tmp_path, CALLED + POD) if pair[0].startswith("chat-old")]
    assert old == [("chat-old-1", "10.0.0.1")]


def test_translation_invents_nothing(tmp_path: Path) -> None:
    assert addresses(tmp_path, CALLED, as_running=False) == []


def test_trace_of_documents_that_do_not_run_reaches_the_workload(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mesh.yaml").write_text(CALLED)
    with pytest.raises(SystemExit) as ended:
        main(["trace", "--from", "web", "--to", "http://chat/v1/models", "-o", "json", str(tmp_path)])
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert ended.value.code in (0, None)
    callees = [callee for place in answer["destinations"] for callee in place["callees"]]
    assert {callee["proxy"] for callee in callees} == {"sidecar/default/chat-old", "sidecar/default/chat-new"}
    assert all(callee["delivered"] == "inbound|8000||" for callee in callees)
