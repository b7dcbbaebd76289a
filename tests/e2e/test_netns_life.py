"""Transparent capture through changes and crashes: nothing is lost, and nothing is left."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from tests.e2e.conftest import StartMesh
from tests.e2e.netns_rig import DOCUMENTS, ECHO, as_app, crash, get, leftovers, needs_netns, place_of, service, workload
from tests.e2e.running import RunningMesh, until

pytestmark = needs_netns
CLIENT = "default/client-0"
SQUATTER = """\
import os, socket, time
held = socket.create_server(("", int(os.environ["PORT"])))
while True:
    try:
        taken = socket.create_server((os.environ["HEADRACE_ADDRESS"], 15006))
        print("taken", flush=True)
        break
    except OSError:
        time.sleep(0.001)
while True:
    taken.accept()[0].sendall(b"past the proxy")
"""
"""Takes its proxy's port in the moment in which the proxy is not there."""
LOOP = """\
import json, sys, time, urllib.request
bad, count, end = [], 0, time.time() + float(sys.argv[1])
while time.time() < end:
    count += 1
    try:
        urllib.request.urlopen("http://chat.default/", timeout=10).read()
    except Exception as error:
        bad.append(f"{time.time()}: {error!r}")
    time.sleep(0.01)
print(json.dumps([count, bad]))
"""
"""Calls for so many seconds, each with a look-up and a connection of its own."""


@pytest.fixture(scope="module")
def mesh(start_mesh: StartMesh) -> Iterator[RunningMesh]:
    files = {**DOCUMENTS, "squatter.yaml": workload("squatter", SQUATTER, port="{name: http, port: 8000}")}
    running = start_mesh(files, "--capture", "netns")
    yield running
    running.down()
    assert leftovers(running.state) == []


@contextlib.contextmanager
def calling(mesh: RunningMesh, seconds: float) -> Iterator[None]:
    """Meanwhile the client calls; not one call may fail."""
    results: list[str] = []
    work = threading.Thread(
        target=lambda: results.append(
            as_app(mesh, CLIENT, sys.executable, "-I", "-c", LOOP, str(seconds), timeout=seconds + 60).stdout
        )
    )
    work.start()
    time.sleep(0.3)
    yield
    work.join()
    import json

    count, bad = json.loads(results[0])
    assert not bad, bad[:3]
    assert count > 20


def test_a_killed_agent_is_not_noticed_and_its_successor_goes_on(mesh: RunningMesh) -> None:
    before = mesh.row("default/chat-0")
    namespace = place_of(mesh, "default/chat-0").namespace
    with calling(mesh, 8.0):
        mesh.kill("agent")
        until(lambda: mesh.role("agent").alive() and mesh.ready(), "the agent is back", 60.0)
    after = mesh.row("default/chat-0")
    assert (after["app_pid"], after["proxy_pid"], after["address"]) == (
        before["app_pid"],
        before["proxy_pid"],
        before["address"],
    )
    assert place_of(mesh, "default/chat-0").namespace == namespace
    os.kill(after["app_pid"], 9)
    until(
        lambda: mesh.row("default/chat-0")["app_pid"] not in (None, after["app_pid"]),
        "probed and restarted",
        30.0,
    )
    until(mesh.ready, "ready again", 30.0)


def test_a_new_version_takes_over_without_a_lost_request(mesh: RunningMesh) -> None:
    def version(number: int) -> None:
        extra = f"  env: [{{name: VERSION, value: '{number}'}}]\n"
        text = (
            service("chat", 80, 8000, "http")
            + "---\n"
            + workload("chat", ECHO, port="{name: http, port: 8000}", extra=extra)
        )
        before = mesh.row("default/chat-0")["app_pid"]
        mesh.write("chat.yaml", text)
        until(lambda: mesh.row("default/chat-0")["app_pid"] not in (None, before), f"version {number}", 30.0)
        until(mesh.ready, "ready", 30.0)

    ports = [mesh.row("default/chat-0")["app_ports"]["8000"]]
    with calling(mesh, 12.0):
        for number in (2, 3):
            version(number)
            ports.append(mesh.row("default/chat-0")["app_ports"]["8000"])
    assert ports[0] == 8000
    assert ports[1] != 8000


def test_a_stolen_port_of_the_proxy_answers_nobody(mesh: RunningMesh) -> None:
    """The proxy dies, the application takes 15006 before it is back, and still nothing it says leaves."""
    row = mesh.row("default/squatter-0")
    log = mesh.places.workload_log("default/squatter-0")
    os.kill(row["proxy_pid"], 9)
    until(lambda: "taken" in log.read_text(), "the port is taken", 30.0)
    with pytest.raises(OSError), socket.create_connection((row["address"], 8000), 4) as plain:
        assert plain.recv(100) == b""
        raise ConnectionError("closed without a word")
    (mesh.documents / "squatter.yaml").unlink()
    until(lambda: "default/squatter-0" not in mesh.proxies(), "the squatter is gone", 30.0)
    until(mesh.ready, "ready", 30.0)


def test_excluded_ports_are_left_alone(mesh: RunningMesh) -> None:
    annotations = (
        '{traffic.sidecar.istio.io/excludeInboundPorts: "9100", traffic.sidecar.istio.io/excludeOutboundPorts: "9100"}'
    )
    for name in ("open-a", "open-b"):
        mesh.write(f"{name}.yaml", workload(name, ECHO.replace("ECHO_PORT", "NINE"), annotations=annotations,
                                            extra="  env: [{name: NINE, value: '9100'}]\n"))  # fmt: skip
    until(lambda: {"default/open-a-0", "default/open-b-0"} <= set(mesh.proxies()), "both run", 30.0)
    until(mesh.ready, "ready", 30.0)
    address = mesh.row("default/open-b-0")["address"]
    found = until(lambda: get(mesh, "default/open-a-0", f"http://{address}:9100/x")[1], "an answer", 20.0)
    assert found["path"] == "/x"
    assert found["peer"] == mesh.row("default/open-a-0")["address"], "it went by a proxy"
    assert get(mesh, CLIENT, f"http://{address}:9100/")[0] == 200, "a proxy's plain call is let in too"
    assert get(mesh, "default/open-a-0", "http://chat/")[0] == 200
    for name in ("open-a", "open-b"):
        (mesh.documents / f"{name}.yaml").unlink()
    until(lambda: "default/open-a-0" not in mesh.proxies(), "gone", 30.0)


def test_a_bad_annotation_is_named(mesh: RunningMesh) -> None:
    annotations = '{traffic.sidecar.istio.io/excludeInboundPorts: "http"}'
    mesh.write("bad.yaml", workload("bad", annotations=annotations))
    found = until(
        lambda: [line for line in mesh.status()["problems"] if "excludeInboundPorts" in line], "a problem", 20.0
    )
    assert "bad.yaml:3" in found[0] and "'http' is no port" in found[0]
    (mesh.documents / "bad.yaml").unlink()
    until(lambda: not mesh.status()["problems"], "no problem", 20.0)


def test_a_crash_of_everything_leaves_a_working_mesh_that_goes_on_or_goes_away(mesh: RunningMesh) -> None:
    before = mesh.row("default/chat-0")
    with calling(mesh, 5.0):
        crash(mesh)
    mesh.up("--capture", "netns")
    assert mesh.row("default/chat-0")["app_pid"] == before["app_pid"], "not adopted"
    assert get(mesh, CLIENT, "http://chat/")[0] == 200
    crash(mesh)
    assert leftovers(mesh.state)
    done = mesh.run("down", timeout=60.0)
    assert done.code == 0, done.err
    assert leftovers(mesh.state) == []
    assert mesh.processes() == []
