"""Model servers that are busy with what the mesh did not send them: the gateway keeps away, as long as they say so."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e.conftest import StartMesh
from tests.e2e.load import Load, Target
from tests.e2e.running import RunningMesh, until

from headrace.envoy.module import check_module

_MODULE = check_module()
pytestmark = pytest.mark.skipif(not _MODULE.usable, reason=_MODULE.problem or "the native module is usable")

_DOCUMENTS = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: door}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: public}
spec:
  hosts: ["*"]
  gateways: [door]
  http: [{route: [{destination: {host: llm}}], timeout: 60s}]
---
apiVersion: v1
kind: Service
metadata: {name: llm}
spec:
  selector: {app: llm}
  ports: [{name: http, port: 80, targetPort: 8000}]
---
apiVersion: headrace.dev/v1alpha1
kind: InferencePolicy
metadata: {name: llm}
spec:
  targetRefs: [{kind: Service, name: llm}]
---
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {name: llm}
spec:
  replicas: 2
  command: [headrace, model-server, --model, llm, --slots, "2"]
  engine: vllm
  labels: {app: llm}
  ports: [{name: http, port: 8000}]
  readinessProbe: {httpGet: {path: /health}, periodSeconds: 2}
"""
_BUSY, _IDLE = "default/llm-0", "default/llm-1"


@pytest.fixture(scope="module")
def mesh(start_mesh: StartMesh) -> RunningMesh:
    return start_mesh({"mesh.yaml": _DOCUMENTS})


def metrics(mesh: RunningMesh, replica: str) -> dict[str, Any]:
    found = mesh.proxies()[replica].get("engine_metrics")
    return found if isinstance(found, dict) else {}


@contextlib.contextmanager
def direct_requests(mesh: RunningMesh, replica: str, count: int) -> Iterator[None]:
    """Long requests that no proxy sees; they end when the context does."""
    port = next(iter(mesh.proxies()[replica]["app_ports"].values()))
    over = threading.Event()
    body = json.dumps({"messages": [{"role": "user", "content": "go"}], "max_tokens": 50_000, "stream": True})

    def stream() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60.0)
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        over.wait(120.0)
        connection.close()

    threads = [threading.Thread(target=stream, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(10.0)


def served(mesh: RunningMesh, count: int = 12) -> dict[str, int]:
    """Which replicas answered so many requests through the gateway, sent one after the other."""
    answered = dict.fromkeys((_BUSY, _IDLE), 0)
    before = counts(mesh)
    for number in range(count):
        body = json.dumps({"messages": [{"role": "user", "content": f"{time.monotonic()} {number}"}], "max_tokens": 1})
        request = urllib.request.Request(f"{mesh.gateway()}/v1/chat/completions", body.encode())
        request.add_header("content-type", "application/json")
        with urllib.request.urlopen(request, timeout=3.0) as answer:
            assert answer.status == 200
    for replica, after in counts(mesh).items():
        answered[replica] = after - before[replica]
    return answered


def avoided(mesh: RunningMesh) -> bool:
    """Whether the gateway keeps away from the busy replica, which has no answer for anybody."""
    try:
        return served(mesh)[_BUSY] == 0
    except TimeoutError:
        return False


def kept_away(mesh: RunningMesh) -> bool:
    """Whether of twenty requests at most one went to the busy replica."""
    try:
        found = served(mesh, 20)
    except TimeoutError:
        return False
    return found[_BUSY] <= 1 and found[_IDLE] >= 19


def described(mesh: RunningMesh) -> dict[str, Any] | None:
    """What people are told of each replica's metrics, once it is fresh."""
    rows = mesh.run("describe", "workload", "llm", "-o", "json").json()["replicas"]
    shown = {row["proxy"]: row["engine_metrics"] for row in rows}
    return shown if shown[_BUSY]["age_s"] < 5 else None


def counts(mesh: RunningMesh) -> dict[str, int]:
    """Requests that Envoy beside each replica has let in."""
    return {
        replica: sum(
            value for name, value in mesh.stats(replica, "http.inbound_").items() if name.endswith(".downstream_rq_2xx")
        )
        for replica in (_BUSY, _IDLE)
    }


def both_serve(mesh: RunningMesh) -> bool:
    """Whether both replicas get requests that come at once."""
    before = counts(mesh)
    with Load(Target(mesh.gateway()), rate=40.0, tokens=20, long_every=1000) as load:
        load.run_on(20)
    assert load.tally.failed == 0, load.tally
    return all(after > before[replica] for replica, after in counts(mesh).items())


def test_a_replica_that_is_busy_with_requests_past_the_mesh_is_avoided_while_it_is(mesh: RunningMesh) -> None:
    until(lambda: metrics(mesh, _BUSY).get("waiting") == 0, "its metrics are read")
    with direct_requests(mesh, _BUSY, 10):
        until(lambda: metrics(mesh, _BUSY).get("waiting") == 8, "its queue is seen")
        until(lambda: avoided(mesh), "the gateway keeps away")
        # Now and then one request tries whether the busy one is still busy. On a machine that is so busy itself that
        # what was said gets too old, the gateway rightly forgets it, and learns of it again.
        until(lambda: kept_away(mesh), "the gateway keeps away from it for twenty requests", 60.0)
        shown = until(lambda: described(mesh), "it is told")
        assert (shown[_BUSY]["waiting"], shown[_BUSY]["running"], shown[_BUSY]["kv_used"]) == (8, 2, 1.0)
        assert shown[_IDLE]["waiting"] == 0
        text = mesh.run("describe", "workload", "llm").out
        assert "engine metrics:" in text and "waiting: 8" in text
    until(lambda: metrics(mesh, _BUSY).get("waiting") == 0, "its queue is gone")
    until(lambda: both_serve(mesh), "both serve again", 30.0)


def test_loads_are_no_configuration(mesh: RunningMesh) -> None:
    """Whatever the engines say, no proxy is sent anything, and no revision is made."""
    columns = ("clusters", "endpoints", "listeners", "routes")

    def state() -> object:
        return [[row[column] for column in columns] for row in mesh.proxies().values()], mesh.status()["revision"]

    def pushes() -> int:
        (gateway,) = (name for name in mesh.proxies() if name.startswith("istio-system/"))
        return sum(
            value
            for name, value in mesh.stats(gateway, "cluster.outbound").items()
            if name.endswith((".update_success", ".assignment_stale"))
        )

    before = state(), pushes()
    with direct_requests(mesh, _BUSY, 6):
        until(lambda: metrics(mesh, _BUSY).get("waiting") == 4, "its queue is seen")
        assert (state(), pushes()) == before


def test_metrics_that_hang_change_nothing_but_what_is_said_of_them(mesh: RunningMesh) -> None:
    restarts = {name: row["restarts"] for name, row in mesh.proxies().items()}
    mesh.ask_app(_BUSY, "PUT", "/faults", {"mute": True})
    try:
        problem = until(lambda: metrics(mesh, _BUSY).get("problem"), "it is said")
        assert "no answer within 2 s" in str(problem)
        notes = mesh.status()["notes"]
        assert any(note.startswith(f"{_BUSY}: engine metrics not read") for note in notes), notes
        until(lambda: both_serve(mesh), "both go on serving", 30.0)
        assert mesh.status()["ready"]
    finally:
        mesh.ask_app(_BUSY, "PUT", "/faults", {})
    until(lambda: not metrics(mesh, _BUSY).get("problem"), "it is asked again", 60.0)
    assert {name: row["restarts"] for name, row in mesh.proxies().items()} == restarts


def test_figures_outlive_the_control_plane(mesh: RunningMesh) -> None:
    """What replicas of the proxies' own host say reaches them without it."""
    with direct_requests(mesh, _BUSY, 10):
        until(lambda: metrics(mesh, _BUSY).get("waiting") == 8, "its queue is seen")
        mesh.kill("control-plane")
        assert until(lambda: served_without_api(mesh), "requests go on")
        mesh.wait_ready()
        until(lambda: metrics(mesh, _BUSY).get("waiting") == 8, "a new control plane learns of it")
        until(lambda: avoided(mesh), "the gateway keeps away")


def served_without_api(mesh: RunningMesh) -> bool:
    file = mesh.places.engine_loads
    before = file.stat().st_mtime_ns
    until(lambda: file.stat().st_mtime_ns != before, "the agent goes on writing")
    return "waiting=8" in file.read_text()
