"""Nobody talks to a workload but through mutual TLS with a certificate of this mesh, and no client talks to a server
that is not who the mesh says it is."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from tests.e2e.conftest import StartMesh
from tests.e2e.load import burst, through_client
from tests.e2e.running import RunningMesh, listeners, until
from tests.e2e.shop import shop
from tests.e2e.strangers import Signer, answer_of, tls

CLIENT = "spiffe://cluster.local/ns/default/sa/client"


@pytest.fixture(scope="module")
def mesh(start_mesh: StartMesh) -> RunningMesh:
    return start_mesh(shop(100, 0))


@pytest.fixture
def door(mesh: RunningMesh) -> tuple[str, int]:
    """Where the proxy of a server listens for the mesh."""
    return str(mesh.row("default/chat-v1-0")["address"]), 8000


def test_a_certificate_of_the_mesh_opens_the_door(mesh: RunningMesh, door: tuple[str, int], tmp_path: Path) -> None:
    """The control: all the refusals below are for what they say they are for."""
    own = Signer.load(mesh.places.ca).client(CLIENT, tmp_path)
    answer = answer_of(door, tls(own))
    assert isinstance(answer, bytes) and answer.startswith(b"HTTP/1.1 200"), answer


def test_plaintext_is_refused(door: tuple[str, int]) -> None:
    assert answer_of(door, None) in ("closed", "ConnectionResetError")
    assert answer_of(door, None, b"\x00\x01raw bytes\r\n\r\n") in ("closed", "ConnectionResetError")


def test_no_certificate_is_refused(door: tuple[str, int]) -> None:
    assert str(answer_of(door, tls(None))).startswith("TLS: ")


def test_a_certificate_of_another_root_is_refused(mesh: RunningMesh, door: tuple[str, int], tmp_path: Path) -> None:
    stranger = Signer.stranger(Signer.load(mesh.places.ca)).client(CLIENT, tmp_path)
    answer = answer_of(door, tls(stranger))
    assert isinstance(answer, str) and answer.startswith("TLS: "), answer


def test_tls_1_2_is_refused(mesh: RunningMesh, door: tuple[str, int], tmp_path: Path) -> None:
    own = Signer.load(mesh.places.ca).client(CLIENT, tmp_path)
    answer = answer_of(door, tls(own, newest=ssl.TLSVersion.TLSv1_2))
    assert answer == "TLS: TLSV1_ALERT_PROTOCOL_VERSION"


def test_an_identity_of_another_trust_domain_is_refused(
    mesh: RunningMesh, door: tuple[str, int], tmp_path: Path
) -> None:
    foreign = Signer.load(mesh.places.ca).client("spiffe://elsewhere/ns/default/sa/client", tmp_path)
    answer = answer_of(door, tls(foreign))
    assert isinstance(answer, str) and answer.startswith("TLS: "), answer


def test_replicas_listen_on_no_address_but_their_own(mesh: RunningMesh) -> None:
    rows = mesh.proxies()
    ports = {8000, *(row["outbound_port"] for row in rows.values() if row["outbound_port"])}
    found = {address for address, port in listeners() if port in ports and address in {*mesh.addresses, "0.0.0.0"}}
    assert "0.0.0.0" not in found
    assert {rows[name]["address"] for name in mesh.replicas("chat-v1")} <= found


def test_the_outbound_door_needs_the_replicas_credentials(mesh: RunningMesh) -> None:
    row = mesh.row("default/client-0")
    address = (str(row["address"]), int(row["outbound_port"]))
    request = b"GET http://chat/health HTTP/1.1\r\nHost: chat\r\nConnection: close\r\n%s\r\n"
    assert str(answer_of(address, None, request % b"")).find(" 401 ") > 0
    wrong = request % b"Proxy-Authorization: Basic Y2xpZW50LTA6d3Jvbmc=\r\n"
    assert str(answer_of(address, None, wrong)).find(" 401 ") > 0


IMPOSTOR = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: treasury}}
spec:
  hosts: [treasury.internal]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: 8000}}]
  workloadSelector: {{labels: {{app: treasury}}}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: treasury}}
spec:
  address: {address}
  serviceAccount: {account}
  labels: {{app: treasury}}
"""


def test_a_client_refuses_a_server_with_the_wrong_name(mesh: RunningMesh) -> None:
    address = mesh.row("default/chat-v1-0")["address"]
    cluster = "cluster.outbound|80||treasury.internal"
    target = through_client(mesh, "treasury.internal")
    mesh.write("treasury.yaml", IMPOSTOR.format(address=address, account="chat"))
    until(lambda: burst(target, 1).failed == 0, "the server is accepted under its true name")
    mesh.write("treasury.yaml", IMPOSTOR.format(address=address, account="treasurer"))
    until(lambda: burst(target, 1).failed == 1, "the server is refused under another name")
    before = mesh.stats("default/client-0", cluster)[f"{cluster}.ssl.fail_verify_san"]
    tally = burst(target, 20)
    assert tally.failed == 20 and all(answer.status == 503 for answer in tally.answers), tally
    assert mesh.stats("default/client-0", cluster)[f"{cluster}.ssl.fail_verify_san"] > before
    assert mesh.served("default/chat-v1-0") >= 1
    (mesh.documents / "treasury.yaml").unlink()


RULE = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: names}
spec:
  host: chat
  trafficPolicy:
    tls: {mode: ISTIO_MUTUAL, subjectAltNames: ["spiffe://cluster.local/ns/default/sa/somebody-else"]}
"""


def test_names_demanded_by_a_destination_rule_are_verified(mesh: RunningMesh) -> None:
    target = through_client(mesh)
    assert burst(target, 20).failed == 0
    mesh.write("names.yaml", RULE)
    until(lambda: burst(target, 4).failed == 4, "the rule is in force")
    assert burst(target, 20).failed == 20
    (mesh.documents / "names.yaml").unlink()
    until(lambda: burst(target, 4).failed == 0, "the rule is gone")
