"""Model servers in namespaces of their own are asked there, and what they say reaches the sidecars, which are users of
their own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.e2e.conftest import StartMesh
from tests.e2e.netns_rig import as_app, get, needs_netns, place_of, service, workload
from tests.e2e.running import RunningMesh, until

from headrace.envoy.module import check_module

_MODULE = check_module()
pytestmark = [
    needs_netns,
    pytest.mark.skipif(not _MODULE.usable, reason=_MODULE.problem or "the native module is usable"),
]
_SERVERS = """
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {name: llm}
spec:
  replicas: 2
  command: [headrace, model-server, --model, llm]
  engine: vllm
  labels: {app: llm}
  ports: [{name: http, port: 8000}]
  readinessProbe: {httpGet: {path: /health}, periodSeconds: 2}
  terminationGracePeriodSeconds: 3
"""
_LIAR, _HONEST = "default/llm-0", "default/llm-1"


@pytest.fixture(scope="module")
def mesh(start_mesh: StartMesh) -> RunningMesh:
    documents = {"llm.yaml": service("llm", 80, 8000, "http") + "---" + _SERVERS, "client.yaml": workload("client")}
    return start_mesh(documents, "--capture", "netns")


def served(mesh: RunningMesh, replica: str) -> int:
    """Answers that the simulated server has finished, asked inside its namespace."""
    done = as_app(mesh, replica, "curl", "-sS", "-m", "5", "http://127.0.0.1:8000/metrics")
    found = re.search(r"^vllm:request_success_total\{.*\} (\d+)", done.stdout, re.MULTILINE)
    assert found, done
    return int(found[1])


def asked(mesh: RunningMesh, count: int = 10) -> dict[str, int]:
    """Which replicas answered so many requests of the client."""
    before = {replica: served(mesh, replica) for replica in (_LIAR, _HONEST)}
    for number in range(count):
        body = f'{{"messages": [{{"role": "user", "content": "go {number}"}}], "max_tokens": 1}}'
        options = ("-H", "content-type: application/json", "-d", body)
        status, _ = get(mesh, "default/client-0", "http://llm/v1/chat/completions", *options)
        assert status == 200
    return {replica: served(mesh, replica) - before[replica] for replica in before}


def test_what_a_server_in_a_namespace_says_steers_its_callers_sidecar(mesh: RunningMesh) -> None:
    until(lambda: mesh.row(_LIAR).get("engine_metrics", {}).get("waiting") == 0, "its metrics are read", 30.0)
    environment = Path(f"/proc/{mesh.row('default/client-0')['proxy_pid']}/environ").read_bytes().split(b"\0")
    path = next(item for item in environment if item.startswith(b"HEADRACE_ENGINE_LOADS=")).split(b"=", 1)[1]
    owner = place_of(mesh, "default/client-0").proxy_user
    until(lambda: Path(path.decode()).stat().st_uid == owner, "the sidecar has a copy of its own")
    lie = ("-X", "PUT", "-d", '{"claimed_waiting": 40}', "http://127.0.0.1:8000/faults")
    assert as_app(mesh, _LIAR, "curl", "-sS", "-m", "5", *lie).returncode == 0
    until(lambda: asked(mesh) == {_LIAR: 0, _HONEST: 10}, "the sidecar keeps away", 30.0)
