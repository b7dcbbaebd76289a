"""The doors of a running mesh beyond HTTP: TCP, mutual TLS with a revocation list, TLS passed on by its name, and an
Ingress; under both captures, with clients that are no part of the mesh."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.e2e.netns_rig import BANNER, ECHO, needs_netns, service, workload
from tests.e2e.running import RunningMesh, until
from tests.flows.certificates import Pair, client_context, made, revoking, secret

NAME, THROUGH = "wire.example.com", "through.example.com"
DOCUMENTS = """
apiVersion: v1
kind: Service
metadata: {name: wire}
spec: {selector: {app: wire}, ports: [{name: tcp, port: 7000}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: own}
spec:
  hosts: [own.example]
  resolution: STATIC
  ports: [{number: 443, name: tls, protocol: TLS, targetPort: %PORT%}]
  endpoints: [{address: 127.0.0.1}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: door}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 17100, name: tcp, protocol: TCP}
    hosts: ["*"]
  - port: {number: 17443, name: partners, protocol: TLS}
    hosts: [wire.example.com]
    tls: {mode: MUTUAL, credentialName: wire}
  - port: {number: 17443, name: through, protocol: TLS}
    hosts: [through.example.com]
    tls: {mode: PASSTHROUGH}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: wire}
spec:
  hosts: [wire.example.com]
  gateways: [door]
  tcp: [{route: [{destination: {host: wire, port: {number: 7000}}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: through}
spec:
  hosts: [through.example.com]
  gateways: [door]
  tls:
  - match: [{sniHosts: [through.example.com]}]
    route: [{destination: {host: own.example, port: {number: 443}}}]
"""


INGRESS = """
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, annotations: {kubernetes.io/ingress.class: istio}}
spec:
  rules:
  - host: web.example.com
    http: {paths: [{path: /api, pathType: Prefix, backend: {service: {name: web, port: {name: http}}}}]}
"""


@dataclass
class Clients:
    """Who knocks: the mesh, what clients trust, a partner, and one whose certificate was taken back."""

    mesh: RunningMesh
    directory: Path
    root: Pair
    partner: Pair
    revoked: Pair

    def address(self, scheme: str) -> tuple[str, int]:
        """Where the mesh says that the door is."""
        urls = [url for found in self.mesh.status()["gateways"] for url in found["urls"]]
        host, port = next(url for url in urls if url.startswith(f"{scheme}://")).split("://")[1].rsplit(":", 1)
        return host, int(port)

    def said(self, scheme: str, name: str = "", pair: Pair | None = None) -> bytes:
        """The first two answers for `hello`; OSError where the door stays shut."""
        with socket.create_connection(self.address(scheme), 30) as plain:
            if not name:
                return _talk(plain)
            with client_context(self.root, self.directory, pair).wrap_socket(plain, server_hostname=name) as secure:
                return _talk(secure)


def _talk(connection: socket.socket) -> bytes:
    connection.settimeout(30)
    connection.sendall(b"hello")
    found = b""
    while not found.endswith(b"HELLO"):
        piece = connection.recv(100)
        if not piece:
            raise ConnectionError(f"closed after {found!r}")
        found += piece
    return found


def _own_tls(pair: Path) -> socket.socket:
    """A server with a certificate of its own, which answers in capitals."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair)
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                accepted, _ = listening.accept()
                with context.wrap_socket(accepted, server_side=True) as secure:
                    secure.sendall(b"own " + secure.recv(100).upper())
            except ssl.SSLError:
                continue
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    return listening


@pytest.fixture(scope="module", params=["loopback", pytest.param("netns", marks=needs_netns)])
def clients(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    directory = tmp_path_factory.mktemp("clients")
    root = made("root.example.com")
    partner, revoked, server = made("partner", root), made("revoked", root), made(NAME, root)
    credential = secret(
        "wire",
        tls_crt=server.certificate_pem,
        tls_key=server.key_pem,
        ca_crt=root.certificate_pem,
        ca_crl=revoking(root, revoked),
    )
    own = _own_tls(made(THROUGH, root).write(directory))
    text = DOCUMENTS.replace("%PORT%", str(own.getsockname()[1]))
    app = workload("wire", BANNER, port="{containerPort: 7000, name: tcp}")
    web = service("web", 80, 8000, "http") + "---\n" + workload("web", ECHO, port="{name: http, port: 8000}")
    mesh = RunningMesh.make(
        {"wire.yaml": app, "web.yaml": web + "---" + INGRESS, "door.yaml": text, "secret.yaml": credential}
    )
    try:
        mesh.up("--capture", str(request.param))
        yield Clients(mesh, directory, root, partner, revoked)
    finally:
        own.close()
        mesh.down()
        mesh.remove()


def test_the_doors_are_told(clients: Clients) -> None:
    schemes = sorted(url.split(":")[0] for found in clients.mesh.status()["gateways"] for url in found["urls"])
    assert schemes == ["http", "tcp", "tls"]


def test_an_ingress_leads_to_its_service(clients: Clients) -> None:
    def asked(path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(*clients.address("http"), timeout=30)
        connection.request("GET", path, headers={"host": "web.example.com"})
        answer = connection.getresponse()
        found = (answer.status, answer.read())
        connection.close()
        return found

    status, body = asked("/api/v1")
    assert (status, json.loads(body)["path"]) == (200, "/api/v1")
    assert asked("/apis")[0] == 404, "a prefix is one of whole segments"


def test_tcp_reaches_the_workload_by_mutual_tls_of_the_mesh(clients: Clients) -> None:
    assert clients.said("tcp") == b"wire ready\nHELLO"


def test_partners_are_let_in_and_a_revoked_one_is_not(clients: Clients) -> None:
    assert clients.said("tls", NAME, clients.partner) == b"wire ready\nHELLO"
    with pytest.raises(OSError):
        clients.said("tls", NAME, clients.revoked)
    with pytest.raises(OSError):
        clients.said("tls", NAME)


def test_tls_is_passed_on_to_the_server_that_its_name_says(clients: Clients) -> None:
    assert clients.said("tls", THROUGH) == b"own HELLO"


def test_a_door_that_a_document_adds_opens_while_the_mesh_runs(clients: Clients) -> None:
    text = (clients.mesh.documents / "door.yaml").read_text()
    line = "  - port: {number: 17100, name: tcp, protocol: TCP}\n"
    more = line.replace("17100", "17200").replace("name: tcp", "name: more") + '    hosts: ["*"]\n'
    clients.mesh.write("door.yaml", text.replace(line, more + line))

    def open_doors() -> set[str]:
        return {url for found in clients.mesh.status()["gateways"] for url in found["urls"] if url.startswith("tcp://")}

    until(lambda: len(open_doors()) == 2, "both doors are told", 30)
    until(clients.mesh.ready, "the mesh is ready again", 30)
    for url in open_doors():
        host, port = url.removeprefix("tcp://").rsplit(":", 1)
        with socket.create_connection((host, int(port)), 30) as plain:
            assert _talk(plain) == b"wire ready\nHELLO"
    clients.mesh.write("door.yaml", text)
    until(lambda: len(open_doors()) == 1, "one door is left", 30)
