"""Transparent capture and what is outside the mesh: names, external services, another mesh on the same machine."""

from __future__ import annotations

import contextlib
import http.server
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from tests.e2e.conftest import StartMesh
from tests.e2e.netns_rig import DOCUMENTS, Resolver, as_app, get, leftovers, needs_netns, net_of, workload
from tests.e2e.running import READY_SECONDS, RunningMesh, until

from headrace.agent.netns import links
from headrace.agent.netns.plan import mesh_id, mesh_net
from headrace.floor.files import write_private

pytestmark = needs_netns
CLIENT = "default/client-0"
KNOWN = "model.example"
ENTRY = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: model}
spec:
  hosts: [model.example]
  location: MESH_EXTERNAL
  resolution: DNS
  ports: [{number: 8088, name: http, protocol: HTTP}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: model}
spec:
  hosts: [model.example]
  http:
  - route: [{destination: {host: model.example}}]
    headers: {request: {set: {authorization: Bearer of-the-proxy}}}
"""
ONLY_KNOWN = "outboundTrafficPolicy: {mode: REGISTRY_ONLY}\n"


class Answer(http.server.BaseHTTPRequestHandler):
    """Says what it was asked with."""

    def do_GET(self) -> None:
        body = json.dumps({"peer": self.client_address[0], "headers": {k.lower(): v for k, v in self.headers.items()}})
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def outside() -> Iterator[tuple[RunningMesh, Resolver]]:
    """A mesh that knows one external service, started where /etc/resolv.conf names a server of this test's."""
    mesh = RunningMesh.make({"client.yaml": workload("client"), "entry.yaml": ENTRY})
    resolver = Resolver("127.77.0.53", KNOWN)
    expected = mesh_net(mesh_id(mesh.state.resolve()), links.addresses_in_use(), ipv6=False)
    assert expected is not None
    resolver.answer = str(expected.gateway)
    try:
        (mesh.root / "mesh.yaml").write_text(ONLY_KNOWN)
        write_private(mesh.root / "resolv.conf", b"nameserver 127.77.0.53\n")
        up = [sys.executable, "-m", "headrace", "up", str(mesh.documents), "--state", str(mesh.state), "--wait"]
        up += ["--detach", "--timeout", f"{READY_SECONDS:g}", "--capture", "netns"]
        up += ["--mesh-config", str(mesh.root / "mesh.yaml")]
        bind = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", bind, str(mesh.root / "resolv.conf"), *up]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr + mesh.logs()
        assert resolver.answer == str(net_of(mesh).gateway)
        server = http.server.ThreadingHTTPServer((resolver.answer, 8088), Answer)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield mesh, resolver
        server.shutdown()
    finally:
        resolver.close()
        mesh.down()
        mesh.remove()
    assert leftovers(mesh.state) == []


def test_a_name_of_the_machines_own_resolver_is_found(outside: tuple[RunningMesh, Resolver]) -> None:
    mesh, resolver = outside
    found = as_app(
        mesh, CLIENT, sys.executable, "-I", "-c", "import socket; print(socket.gethostbyname('other.example'))"
    )
    assert found.returncode != 0
    assert "other.example" in resolver.asked


def test_names_of_the_mesh_never_leave_the_machine(outside: tuple[RunningMesh, Resolver]) -> None:
    mesh, resolver = outside
    began = time.monotonic()
    assert as_app(mesh, CLIENT, "getent", "hosts", "nobody.default.svc.cluster.local").returncode != 0
    assert time.monotonic() - began < 10
    assert not any(name.endswith("cluster.local") for name in resolver.asked)


def test_an_external_service_is_reached_and_its_credential_added_by_the_proxy(
    outside: tuple[RunningMesh, Resolver],
) -> None:
    mesh, _ = outside
    look_up = as_app(mesh, CLIENT, "getent", "ahostsv4", KNOWN).stdout
    assert look_up.startswith("24") or look_up.startswith("25"), "not the virtual address"
    until(lambda: get(mesh, CLIENT, f"http://{KNOWN}:8088/")[0] == 200, "the proxy has looked up the name", 30.0, 0.2)
    _, body = get(mesh, CLIENT, f"http://{KNOWN}:8088/")
    assert body["headers"]["authorization"] == "Bearer of-the-proxy"


def test_what_no_document_names_is_refused_under_registry_only(outside: tuple[RunningMesh, Resolver]) -> None:
    mesh, resolver = outside
    assert get(mesh, CLIENT, f"http://{resolver.answer}:8089/")[0] in (0, 502)
    assert get(mesh, CLIENT, f"http://{resolver.answer}:8088/", "-H", "Host: other.example")[0] == 502
    assert get(mesh, CLIENT, "https://192.0.2.77/", "-k")[0] == 0


def test_two_meshes_on_one_machine_keep_apart(start_mesh: StartMesh) -> None:
    one = start_mesh({**DOCUMENTS}, "--capture", "netns")
    other = start_mesh({**DOCUMENTS}, "--capture", "netns")
    assert not net_of(one).block.overlaps(net_of(other).block)
    for mesh in (one, other):
        assert get(mesh, CLIENT, "http://chat.default/")[0] == 200
    stranger = one.row("default/chat-0")["address"]
    assert get(other, CLIENT, f"http://{stranger}:8000/")[0] in (0, 502, 503), "one mesh reached the other"
    one.down()
    assert leftovers(one.state) == []
    assert get(other, CLIENT, "http://chat.default/")[0] == 200
    with contextlib.suppress(AssertionError):
        other.down()
    assert leftovers(other.state) == []
