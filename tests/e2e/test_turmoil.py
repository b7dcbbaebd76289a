"""What else happens to a mesh in use: new versions, lost directories, clients that hang up, the whole of `up` killed,
and a second mesh beside it. Traffic goes on through all of it."""

from __future__ import annotations

import re
import signal
import socket
import urllib.parse

import pytest
from tests.e2e.conftest import StartMesh
from tests.e2e.load import Load, Target, burst, through_client, through_gateway
from tests.e2e.running import RunningMesh, listeners, until
from tests.e2e.shop import GATEWAY, servers, shop, weights


@pytest.fixture(scope="module")
def mesh(start_mesh: StartMesh) -> RunningMesh:
    return start_mesh(shop(50, 50))


def running(mesh: RunningMesh, replica: str) -> int:
    """Requests that a simulated server is working on."""
    found = re.search(
        r"^vllm:num_requests_running\{.*\} (\d+)", mesh.ask_app(replica, "GET", "/metrics").decode(), re.M
    )
    assert found
    return int(found[1])


def test_a_new_version_of_a_workload_replaces_the_old_one(mesh: RunningMesh) -> None:
    before = {name: mesh.row(name)["app_pid"] for name in mesh.replicas("chat-v1")}
    with Load(through_client(mesh)) as load:
        mesh.write("chat-v1.yaml", servers("v1").replace("--model, v1", "--model, v1-new"))
        until(
            lambda: all(mesh.row(name)["app_pid"] not in (None, pid) for name, pid in before.items()),
            "both replicas are new",
            60.0,
        )
        mesh.wait_ready()
        load.run_on(60)
        now = burst(through_client(mesh), 40)
    print(f"a new version: {load.tally}")
    assert load.tally.failed == 0, load.tally
    assert set(now.models()) == {"v1-new", "v2"}
    mesh.write("chat-v1.yaml", servers("v1"))
    until(lambda: "v1" in burst(through_client(mesh), 10).models(), "the old version is back", 60.0)
    mesh.wait_ready()


def test_changes_made_while_nobody_watched_come_into_force(mesh: RunningMesh) -> None:
    with Load(through_client(mesh)) as load:
        agent, control = mesh.role("agent"), mesh.kill("control-plane")
        mesh.kill("agent")
        mesh.write("routes.yaml", weights(0, 100))
        mesh.write("chat-v2.yaml", servers("v2", 3))
        until(lambda: mesh.role("agent") != agent and mesh.role("control-plane") != control, "both are back")
        mesh.wait_ready()
        until(lambda: len(mesh.replicas("chat-v2")) == 3, "a third replica", 30.0)
        mesh.wait_ready()
        assert burst(through_client(mesh), 60).models() == {"v2": 60}
        assert all(mesh.served(name) for name in mesh.replicas("chat-v2"))
        mesh.write("chat-v2.yaml", servers("v2", 2))
        mesh.write("routes.yaml", weights(50, 50))
        until(lambda: len(mesh.replicas("chat-v2")) == 2, "two replicas", 30.0)
        mesh.wait_ready()
    print(f"changes in the dark: {load.tally}")
    assert load.tally.failed == 0, load.tally


def test_a_client_that_hangs_up_frees_the_server(mesh: RunningMesh) -> None:
    parts = urllib.parse.urlsplit(mesh.gateway())
    names = mesh.replicas("chat-v1")
    body = b'{"messages": [{"role": "user", "content": "go"}], "max_tokens": 50000, "stream": true}'
    request = b"POST /v1/chat/completions HTTP/1.1\r\nHost: chat\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with socket.create_connection((parts.hostname, parts.port), timeout=5.0) as client:
        client.sendall(request)
        assert b"200 OK" in client.recv(4096)
        assert sum(running(mesh, name) for name in names) == 1
    until(lambda: sum(running(mesh, name) for name in names) == 0, "the server has noticed", 5.0)


def test_a_gateway_takes_and_gives_back_ports(mesh: RunningMesh) -> None:
    more = "  - port: {number: 18181, name: http-more, protocol: HTTP}\n    hosts: ['*']\n"
    head, rest = GATEWAY.split("---\n", 1)
    with Load(through_gateway(mesh), rate=30) as load:
        mesh.write("gateway.yaml", head + more + "---\n" + rest)

        def mapped() -> int:
            return int(mesh.row("istio-system/istio-ingressgateway-0")["gateway_ports"].get("18181", 0))

        port = until(mapped, "the port is mapped")
        target = Target(f"http://127.0.0.1:{port}")
        until(lambda: burst(target, 1).failed == 0, "the new port answers")
        mesh.write("gateway.yaml", GATEWAY)
        until(lambda: ("127.0.0.1", port) not in listeners(), "the port is free again")
        load.run_on(30)
    print(f"gateway ports: {load.tally}")
    assert load.tally.failed == 0, load.tally


def test_a_lost_directory_changes_nothing(mesh: RunningMesh) -> None:
    before = {name: row["app_pid"] for name, row in mesh.proxies().items()}
    with Load(through_client(mesh)) as load:
        hidden = mesh.documents.rename(mesh.root / "hidden")
        until(lambda: any(" error " in line for line in mesh.status()["problems"]), "a problem is shown", 10.0)
        load.run_on(60)
        hidden.rename(mesh.documents)
        until(lambda: not any(" error " in line for line in mesh.status()["problems"]), "all is well again", 10.0)
        mesh.wait_ready()
    assert load.tally.failed == 0, load.tally
    assert {name: row["app_pid"] for name, row in mesh.proxies().items()} == before
    mesh.write("routes.yaml", weights(100, 0))
    until(lambda: burst(through_client(mesh), 10).models() == {"v1": 10}, "the directory is followed again")


def test_two_meshes_beside_each_other(mesh: RunningMesh, start_mesh: StartMesh) -> None:
    other = start_mesh(shop(0, 100))
    assert not mesh.addresses & other.addresses
    assert mesh.gateway() != other.gateway()
    assert burst(through_client(other), 20).models() == {"v2": 20}
    assert burst(through_gateway(mesh), 20).failed == 0 == burst(through_gateway(other), 20).failed
    other.down()
    assert burst(through_client(mesh), 20).failed == 0


def test_all_of_up_is_killed(mesh: RunningMesh) -> None:
    """Nobody is left to restart the agent: it lives on, traffic too, and `down` still finds everything."""
    with Load(through_client(mesh)) as load:
        mesh.kill("up")
        load.run_on(60)
        mesh.role("control-plane").send(signal.SIGKILL)
        load.run_on(60)
        mesh.wait_ready()
    assert load.tally.failed == 0, load.tally
    mesh.down()
    assert mesh.leftovers() == []
