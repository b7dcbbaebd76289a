"""Transparent capture: an application that knows nothing of proxies gets names, mutual TLS, routing and policy."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import StartMesh
from tests.e2e.netns_rig import DOCUMENTS, as_app, get, leftovers, needs_netns, net_of, place_of, script
from tests.e2e.running import RunningMesh, until

pytestmark = needs_netns

ROUTES = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: chat}
spec:
  hosts: [chat]
  http:
  - match: [{uri: {prefix: /teapot}}]
    directResponse: {status: 418}
  - route: [{destination: {host: chat}}]
    headers: {request: {set: {x-route: mesh}}}
"""
GATEWAY = """\
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
  http: [{route: [{destination: {host: chat}}]}]
"""
WORLD = "198.18.77.2"


def refused(address: str, port: int) -> bool:
    """Whether a request in clear text gets no answer."""
    with contextlib.suppress(OSError), socket.create_connection((address, port), 5) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: chat\r\nConnection: close\r\n\r\n")
        return plain.recv(100) == b""
    return True


def world_name() -> str:
    return f"hrt-world-{os.getpid() % 100000}"


@pytest.fixture(scope="module")
def world() -> Iterator[str]:
    """A machine outside the mesh: a namespace with a web server, one cable away from this one."""
    name = world_name()
    commands = [
        f"ip netns add {name}",
        f"ip link add {name[-11:]} type veth peer name eth0 netns {name}",
        f"ip addr add 198.18.77.1/30 dev {name[-11:]}",
        f"ip link set {name[-11:]} up",
        f"ip -n {name} addr add {WORLD}/30 dev eth0",
        f"ip -n {name} link set eth0 up",
        f"ip -n {name} link set lo up",
    ]
    server = None
    try:
        for command in commands:
            subprocess.run(command.split(), check=True, timeout=20)
        serve = "import http.server; http.server.test(http.server.SimpleHTTPRequestHandler, port=8080)"
        server = subprocess.Popen(
            ["ip", "netns", "exec", name, "python3", "-c", serve], stderr=subprocess.DEVNULL, cwd="/run/netns"
        )
        until(lambda: not refused(WORLD, 8080), "the world serves", 20.0)
        yield WORLD
    finally:
        if server is not None:
            server.kill()
            server.wait()
        subprocess.run(["ip", "netns", "delete", name], check=False, timeout=20)


@pytest.fixture(scope="module")
def mesh(start_mesh: StartMesh, world: str) -> Iterator[RunningMesh]:
    running = start_mesh({**DOCUMENTS, "routes.yaml": ROUTES, "gateway.yaml": GATEWAY}, "--capture", "netns")
    yield running
    running.down()
    assert leftovers(running.state) == []


@pytest.mark.parametrize("host", ["chat", "chat.default", "chat.default.svc", "chat.default.svc.cluster.local"])
def test_a_service_is_called_by_each_of_its_names(mesh: RunningMesh, host: str) -> None:
    status, body = get(mesh, "default/client-0", f"http://{host}/v1/models")
    assert status == 200
    assert body["path"] == "/v1/models"
    assert body["headers"]["x-route"] == "mesh", "the VirtualService did not apply"


def test_both_ends_are_known(mesh: RunningMesh) -> None:
    _, body = get(mesh, "default/client-0", "http://chat.default/")
    identities = re.findall(r"(By|URI)=(spiffe://[^;]+)", body["headers"]["x-forwarded-client-cert"])
    assert ("URI", "spiffe://cluster.local/ns/default/sa/client") in identities
    assert ("By", "spiffe://cluster.local/ns/default/sa/chat") in identities
    before = mesh.stats("default/chat-0", "listener.0.0.0.0_15006.ssl.handshake")
    assert sum(before.values()) > 0


def test_routing_applies_without_a_proxy_setting(mesh: RunningMesh) -> None:
    assert get(mesh, "default/client-0", "http://chat/teapot")[0] == 418
    environment = mesh.environment("default/client-0")
    assert not {name for name in environment if name.lower().endswith("_proxy")}


def test_the_application_runs_under_a_user_of_its_own(mesh: RunningMesh) -> None:
    place = place_of(mesh, "default/chat-0")
    _, body = get(mesh, "default/client-0", "http://chat/")
    assert body["uid"] == place.app_user
    status = Path(f"/proc/{mesh.row('default/chat-0')['app_pid']}/status").read_text()
    found = dict(re.findall(r"^(Cap\w+|NoNewPrivs|Uid|Groups):[ \t]*(.*?)[ \t]*$", status, re.MULTILINE))
    assert {found[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert found["NoNewPrivs"] == "1"
    assert found["Uid"].split() == [str(place.app_user)] * 4
    assert found["Groups"] == ""


def test_ipv6_is_captured_too(mesh: RunningMesh) -> None:
    if place_of(mesh, "default/client-0").address6 is None:
        pytest.skip("this machine has no IPv6")
    status, body = get(mesh, "default/client-0", "http://chat/", "-6")
    assert (status, body["headers"]["x-route"]) == (200, "mesh")


def test_virtual_addresses_are_stable(mesh: RunningMesh) -> None:
    def look_up() -> object:
        return script(
            mesh,
            "default/client-0",
            """
            import json, socket
            print(json.dumps(sorted({item[4][0] for item in socket.getaddrinfo("chat", 80)})))
            """,
        )

    first = look_up()
    assert len(first) == 2 or place_of(mesh, "default/client-0").address6 is None  # type: ignore[arg-type]
    mesh.kill("control-plane")
    until(mesh.ready, "the control plane is back", 60.0)
    assert look_up() == first


def test_tcp_passes_both_ways_and_the_server_may_speak_first(mesh: RunningMesh) -> None:
    found = script(
        mesh,
        "default/client-0",
        """
        import json, socket
        with socket.create_connection(("wire", 7000), 10) as wire:
            lines = wire.makefile("rwb")
            banner = lines.readline().decode()
            lines.write(b"hello\\n"); lines.flush()
            print(json.dumps([banner, lines.readline().decode()]))
        """,
    )
    assert found == ["wire ready\n", "HELLO\n"]
    assert sum(mesh.stats("default/wire-0", "listener.0.0.0.0_15006.ssl.handshake").values()) > 0


def test_a_port_that_a_service_has_not_leads_nowhere(mesh: RunningMesh) -> None:
    for family in ("-4", "-6") if place_of(mesh, "default/client-0").address6 else ("-4",):
        began = time.monotonic()
        assert get(mesh, "default/client-0", "http://chat:81/", family)[0] in (0, 503)
        assert time.monotonic() - began < 5, "it went looking for the address"


def test_plaintext_is_refused_from_the_machine_itself(mesh: RunningMesh) -> None:
    address = mesh.row("default/chat-0")["address"]
    for port in (8000, 15006, 15001, 9):
        assert refused(address, port), port


def test_a_call_by_address_without_a_service_is_refused(mesh: RunningMesh) -> None:
    address = mesh.row("default/chat-0")["address"]
    status, _ = get(mesh, "default/client-0", f"http://{address}:8000/")
    assert status in (0, 502, 503)


def test_a_gateway_on_the_machines_own_address_leads_inside(mesh: RunningMesh) -> None:
    with urllib.request.urlopen(f"{mesh.gateway()}/from-outside", timeout=20) as response:
        body = json.loads(response.read())
    assert body["path"] == "/from-outside"
    assert "sa/istio-ingressgateway-service-account" in body["headers"]["x-forwarded-client-cert"]


def test_who_calls_its_own_service_comes_in_through_the_proxy(mesh: RunningMesh) -> None:
    status, body = get(mesh, "default/chat-0", "http://chat/self")
    assert status == 200
    assert "sa/chat" in body["headers"]["x-forwarded-client-cert"]


def test_probes_reach_the_application_and_notice_its_death(mesh: RunningMesh) -> None:
    row = mesh.row("default/chat-0")
    subprocess.run(["kill", "-9", str(row["app_pid"])], check=True, timeout=10)
    until(lambda: mesh.row("default/chat-0")["app_pid"] not in (row["app_pid"], None), "a new process", 30.0)
    until(lambda: get(mesh, "default/client-0", "http://chat/")[0] == 200, "it serves again", 30.0)


def test_the_world_outside_is_reached_and_does_not_reach_in(mesh: RunningMesh, world: str) -> None:
    done = as_app(mesh, "default/client-0", "curl", "-sS", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}",
                  f"http://{world}:8080/")  # fmt: skip
    assert done.stdout == "200", done.stderr
    passed = mesh.stats("default/client-0", "cluster.PassthroughCluster.upstream_cx_total")
    assert sum(passed.values()) > 0, "it did not go by the proxy"
    inside = net_of(mesh).block
    reach = subprocess.run(
        ["ip", "netns", "exec", world_name(), "ip", "route", "replace", str(inside), "via", "198.18.77.1"],
        capture_output=True, timeout=20,
    )  # fmt: skip
    assert reach.returncode == 0, reach.stderr
    address = mesh.row("default/chat-0")["address"]
    done = subprocess.run(
        ["ip", "netns", "exec", world_name(), "curl", "-sk", "-m", "3", "-w", "%{num_connects}", f"https://{address}:8000/"],
        capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert done.stdout == "0", "a connection from outside reached a replica"
