"""Workloads live as their documents say: restarted when they crash or fail their liveness probe, logged each for
itself, and all gone when the mesh ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from tests.e2e.conftest import StartMesh
from tests.e2e.load import Load, burst, through_client
from tests.e2e.running import RunningMesh, until
from tests.e2e.shop import CLIENT, SERVICE, servers, shop, weights

from headrace.floor.processes import ProcessMark

LIVENESS = """\
  livenessProbe: {httpGet: {path: /health}, periodSeconds: 1, timeoutSeconds: 5, failureThreshold: 2}
  startupProbe: {httpGet: {path: /health}, periodSeconds: 1, timeoutSeconds: 5, failureThreshold: 60}
"""
CRASHER = """\
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {name: crasher}
spec:
  command: [sh, -c, 'echo "started $(date +%s.%N)"; exit 3']
"""


@pytest.fixture(scope="module")
def mesh(start_mesh: StartMesh) -> RunningMesh:
    files = {"service.yaml": SERVICE, "routes.yaml": weights(100, 0), "client.yaml": CLIENT}
    return start_mesh(files | {"chat-v1.yaml": servers("v1", extra=LIVENESS)})


def test_a_crashed_application_is_started_again(mesh: RunningMesh) -> None:
    name = "default/chat-v1-0"
    before = mesh.row(name)
    os.kill(before["app_pid"], signal.SIGKILL)
    until(lambda: mesh.row(name)["app_pid"] not in (None, before["app_pid"]), "a new process")
    mesh.wait_ready()
    after = mesh.row(name)
    assert after["restarts"] == before["restarts"] + 1
    assert (after["proxy_pid"], after["address"]) == (before["proxy_pid"], before["address"])
    assert burst(through_client(mesh), 40).failed == 0


def test_a_crashed_proxy_is_started_again(mesh: RunningMesh) -> None:
    name = "default/chat-v1-1"
    before = mesh.row(name)
    os.kill(before["proxy_pid"], signal.SIGKILL)
    until(lambda: mesh.row(name)["proxy_pid"] not in (None, before["proxy_pid"]), "a new process")
    mesh.wait_ready()
    assert mesh.row(name)["app_pid"] == before["app_pid"]
    assert burst(through_client(mesh), 40).failed == 0


def test_a_failing_liveness_probe_restarts(mesh: RunningMesh) -> None:
    name = "default/chat-v1-0"
    before = mesh.row(name)
    with Load(through_client(mesh), rate=20) as load:
        mesh.ask_app(name, "PUT", "/faults", {"unhealthy": True})
        until(lambda: mesh.row(name)["app_pid"] not in (None, before["app_pid"]), "a new process", 30.0)
        mesh.wait_ready()
    assert mesh.row(name)["restarts"] == before["restarts"] + 1
    assert load.tally.failed == 0, load.tally


def test_what_keeps_crashing_waits_longer_each_time(mesh: RunningMesh) -> None:
    mesh.write("crasher.yaml", CRASHER)
    log = mesh.places.workload_log("default/crasher-0")

    def starts() -> list[float]:
        lines = log.read_text().splitlines() if log.exists() else []
        return [float(line.split()[1]) for line in lines if line.startswith("started ")]

    until(lambda: len(starts()) >= 5, "five starts", 30.0)
    gaps = [later - earlier for earlier, later in zip(starts(), starts()[1:], strict=False)]
    print(f"back-off: {[f'{gap:.2f}' for gap in gaps]} s")
    assert gaps[3] > 1.5 * gaps[1] > gaps[0] > 0.1

    def why() -> str:
        waiting = {item["id"]: item["detail"] for item in mesh.status()["waiting"]}
        return str(waiting.get("default/crasher-0", ""))

    until(lambda: "exited with code 3" in why(), "the reason is told")  # between two crashes it runs for a moment
    done = mesh.run("proxy", "logs", "crasher-0", "--app")
    assert done.out.count("started ") >= 5 and done.code == 0
    (mesh.documents / "crasher.yaml").unlink()
    until(lambda: "default/crasher-0" not in mesh.proxies(), "it is gone")
    mesh.wait_ready()


def test_logs_of_each_workload_are_its_own(mesh: RunningMesh) -> None:
    for name in mesh.replicas("chat-v1"):
        text = mesh.places.workload_log(name).read_text()
        port = mesh.row(name)["app_ports"]["8000"]
        assert f"simulated model server on http://127.0.0.1:{port}" in text
        assert mesh.places.workload_log(name).stat().st_mode & 0o777 == 0o600


def test_a_second_up_on_the_same_state_is_refused(mesh: RunningMesh) -> None:
    before = mesh.proxies()
    for options in ((), ("--detach",)):
        done = mesh.run("up", str(mesh.documents), "--capture", "loopback", *options)
        assert done.code == 1
        assert "already runs" in done.err and "headrace down" in done.err and len(done.err.splitlines()) == 1
    assert mesh.proxies().keys() == before.keys()
    assert burst(through_client(mesh), 10).failed == 0


def test_a_restarted_control_plane_keeps_what_was_applied_and_pushes_nothing(mesh: RunningMesh) -> None:
    applied = mesh.root / "applied.yaml"
    applied.write_text(
        weights(100, 0).replace("name: chat}", "name: extra}").replace("hosts: [chat]", "hosts: [extra.example]")
    )
    assert mesh.run("apply", "-f", str(applied)).code == 0
    mesh.wait_ready()
    names = [name for name, row in mesh.proxies().items() if row["connected"]]
    before = {name: pushes(mesh, name) for name in names}
    dead = mesh.kill("control-plane")
    until(lambda: mesh.role("control-plane") != dead, "a new control plane")
    mesh.wait_ready()
    found = mesh.run("get", "vs", "extra", "-o", "json").json()
    assert found["metadata"]["name"] == "extra"
    assert found["metadata"]["annotations"]["headrace.dev/source"] == "api"
    after = {name: pushes(mesh, name) for name in names}
    assert after == before
    mesh.write("routes.yaml", weights(99, 1))
    until(lambda: pushes(mesh, names[0]) != before[names[0]], "the counters count")
    mesh.write("routes.yaml", weights(100, 0))
    assert mesh.run("delete", "vs", "extra").code == 0


def pushes(mesh: RunningMesh, replica: str) -> dict[str, int]:
    """How often a replica's Envoy took an update of any type from the control plane."""
    prefixes = ("cluster_manager.cds.", "listener_manager.lds.", "http.", "cluster.outbound")
    stats = {name: count for prefix in prefixes for name, count in mesh.stats(replica, prefix).items()}
    found = {name: count for name, count in stats.items() if name.endswith(".update_success")}
    assert any("cds" in name for name in found) and any(".rds." in name for name in found), found
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything(number: signal.Signals) -> None:
    mesh = RunningMesh.make(shop())
    command = [sys.executable, "-m", "headrace", "up", str(mesh.documents), "--state", str(mesh.state)]
    command += ["--capture", "loopback"]
    output = (mesh.root / "up.txt").open("w")
    process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        until(mesh.ready, "the mesh is ready", 60.0)
        assert mesh.proxies() and len(mesh.processes()) >= 9
        started = time.monotonic()
        mark = ProcessMark.of(process.pid)
        assert mark is not None
        with Load(through_client(mesh), rate=20):
            pass
        process.send_signal(number)
        assert process.wait(60.0) == 0, (mesh.root / "up.txt").read_text()
        print(f"{number.name}: everything is gone after {time.monotonic() - started:.1f} s")
        assert mesh.leftovers() == []
    finally:
        output.close()
        if process.poll() is None:
            process.terminate()
            process.wait(100.0)
        mesh.down()
        mesh.remove()
