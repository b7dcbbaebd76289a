"""`headrace ca revoke`: within two seconds nobody talks to the revoked any more, and everybody else notices nothing."""

from __future__ import annotations

import stat
import time
import urllib.error
import urllib.request

import pytest
from tests.e2e.conftest import StartMesh
from tests.e2e.load import Load, burst, through_client
from tests.e2e.running import RunningMesh, until
from tests.e2e.shop import shop
from tests.e2e.streaming import Streaming
from tests.flows.translated_rig import free_port

from headrace.app.api.client import UnixConnection

LIMIT = 2.0
"""Seconds from the command to refusal and to closed connections."""
METRICS = free_port()
OTHER = "spiffe://cluster.local/ns/default/sa/next"


@pytest.fixture(scope="module")
def mesh(start_mesh: StartMesh) -> RunningMesh:
    files = shop(50, 50)
    files["chat-v2.yaml"] = files["chat-v2.yaml"].replace("serviceAccountName: chat", "serviceAccountName: next")
    del files["routes.yaml"]
    files["client-2.yaml"] = files["client.yaml"].replace("client", "visitor")
    return start_mesh(files, "--metrics-listen", f"127.0.0.1:{METRICS}")


def metrics(text: bytes) -> dict[str, float]:
    """Name with labels → value."""
    lines = [line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def state(mesh: RunningMesh, replica: str) -> str:
    rows = mesh.run("ca", "list", "-o", "json").json()["certificates"]
    return next(row["state"] for row in rows if row["replica"] == replica)


def test_the_list_shows_every_replica_and_what_it_costs_nothing_to_know(mesh: RunningMesh) -> None:
    found = mesh.run("ca", "list", "-o", "json").json()
    assert {row["replica"] for row in found["certificates"]} == set(mesh.proxies())
    assert {row["state"] for row in found["certificates"]} == {"in use"}
    assert (found["revoked"], found["blocked"], found["authority"]["problems"]) == ([], [], [])
    assert found["authority"]["rotation"]["phase"] == "steady"
    until(lambda: mesh.run("ca", "inspect", "-o", "json").json()["acknowledged"], "all proxies have the trust")
    serial = found["certificates"][0]["serial"]
    assert mesh.run("ca", "inspect", serial, "-o", "json").json()["serial"] == serial
    table = mesh.run("ca", "list").out
    assert table.startswith("authority O=cluster.local")
    assert "default/client-0" in table
    for arguments, words in (
        (("ca", "inspect", "feed"), "no certificate with serial 'feed'"),
        (("ca", "revoke", "--serial", "feed"), "no certificate with serial 'feed' was issued here"),
        (("ca", "revoke", "--workload", "default/none"), "no workload 'default/none'; there are: default/chat-v1"),
        (("ca", "revoke", "--identity", "chat"), "is not spiffe://"),
        (("ca", "revoke", "--lift", "--identity", OTHER), "is not revoked"),
        (("ca", "revoke", "--identity", OTHER, "--reason", "dislike"), "a reason is one of"),
    ):
        done = mesh.run(*arguments)
        assert done.code == 1
        assert words in done.err


def test_prometheus_is_told_of_certificates_and_proxies(mesh: RunningMesh) -> None:
    connection = UnixConnection(mesh.places.api_socket, 5.0)
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    found = metrics(answer.read())
    connection.close()
    with urllib.request.urlopen(f"http://127.0.0.1:{METRICS}/metrics", timeout=5.0) as scraped:
        assert metrics(scraped.read()).keys() >= found.keys()
        assert scraped.headers["content-type"] == answer.headers["content-type"]
    replicas = mesh.proxies()
    for replica in replicas:
        until_expiry = found[f'headrace_certificate_expiry_timestamp_seconds{{replica="{replica}"}}'] - time.time()
        assert 0 < until_expiry <= 86400
    assert found["citadel_server_root_cert_expiry_timestamp"] > time.time() + 86400
    assert found['headrace_certificate_requests_total{result="issued"}'] >= len(replicas)
    assert found["pilot_xds"] == found["headrace_replicas_ready"] == len(replicas)
    assert (found["headrace_ready"], found["headrace_trust_problems"]) == (1, 0)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{METRICS}/v1/status", timeout=5.0)


def test_a_revoked_server_is_left_and_comes_back_when_lifted(mesh: RunningMesh) -> None:
    client = through_client(mesh)
    with Streaming(client, 2000, 8) as streams:
        until(lambda: streams.flowing() == 8, "the streams flow")
        servers = streams.models()
        assert set(servers) == {"v1", "v2"}, servers
        began = time.monotonic()
        done = mesh.run(
            "ca", "revoke", "--workload", "default/chat-v2", "--reason", "key-compromise", "-o", "json"
        ).json()
        answered = time.monotonic()
        until(lambda: all(item.ended for item in streams.of("v2")), "streams from the revoked server end", 10.0, 0.005)
        closed = time.monotonic()
        print(f"command {answered - began:.2f} s, streams closed {closed - answered:.3f} s after it")
        assert closed - answered < LIMIT
        assert len(done["revoked"]) == 2
        assert done["replicas"] == ["default/chat-v2-0", "default/chat-v2-1"]
        assert not any(item.ended for item in streams.of("v1")), "streams from other servers go on"
    until(lambda: set(burst(client, 10).models()) == {"v1"}, "only the other server answers", 10.0)
    with Load(client) as load:
        time.sleep(1.0)
    assert load.tally.failed == 0, load.tally
    assert set(load.tally.models()) == {"v1"}
    assert state(mesh, "default/chat-v2-0") == "revoked"
    row = mesh.row("default/chat-v2-0")
    assert row["problem"] == "identity revoked (key-compromise)"
    assert mesh.run("ca", "list", "-o", "json").json()["authority"]["lists_sent"]
    lifted = mesh.run("ca", "revoke", "--lift", "--workload", "default/chat-v2")
    assert lifted.code == 0, lifted.err
    until(lambda: "v2" in burst(client, 10).models(), "the lifted server answers again", 30.0)
    assert {row["state"] for row in mesh.run("ca", "list", "-o", "json").json()["certificates"]} == {"in use"}


def test_a_revoked_client_is_cut_off_and_no_other(mesh: RunningMesh) -> None:
    client, visitor = through_client(mesh), through_client(mesh, replica="default/visitor-0")
    with Streaming(client, 2000, 4) as streams, Streaming(visitor, 2000, 4) as others:
        until(lambda: streams.flowing() == 4 and others.flowing() == 4, "the streams flow")
        assert mesh.run("ca", "revoke", "--workload", "default/visitor").code == 0
        answered = time.monotonic()
        until(lambda: all(item.ended for item in others.items), "the visitor's streams end", 10.0, 0.005)
        print(f"streams closed {time.monotonic() - answered:.3f} s after the command")
        assert time.monotonic() - answered < LIMIT
        assert burst(visitor, 4).failed == 4
        assert not any(item.ended for item in streams.items)
    assert burst(client, 10).failed == 0


def test_a_revoked_serial_is_replaced_at_once(mesh: RunningMesh) -> None:
    serial = mesh.row("default/chat-v1-0")["certificate_serial"]
    done = mesh.run("ca", "revoke", "--serial", serial, "--reason", "superseded")
    assert f"revoked 1 certificate of spiffe://cluster.local/ns/default/sa/chat: {serial}" in done.out
    until(lambda: mesh.row("default/chat-v1-0")["certificate_serial"] != serial, "a new certificate")
    until(lambda: state(mesh, "default/chat-v1-0") == "in use", "it is in use")
    assert mesh.run("ca", "inspect", serial, "-o", "json").json()["state"] == "revoked"


def test_what_is_revoked_stays_so_when_the_control_plane_dies(mesh: RunningMesh) -> None:
    before = mesh.run("ca", "list", "-o", "json").json()
    assert before["blocked"]
    mesh.kill("control-plane")
    until(lambda: mesh.run("ca", "list", "-o", "json").code == 0, "the control plane is back", 30.0, 0.2)
    after = mesh.run("ca", "list", "-o", "json").json()
    assert after["blocked"] == before["blocked"]
    assert {row["serial"] for row in before["revoked"]} <= {row["serial"] for row in after["revoked"]}
    assert burst(through_client(mesh, replica="default/visitor-0"), 2).failed == 2


def test_keys_and_ledger_are_the_owner_s_and_in_no_log(mesh: RunningMesh) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in mesh.places.ca.iterdir()}
    assert set(modes.values()) == {0o600}, modes
    secret = (mesh.places.ca / "ca-key.pem").read_text().splitlines()[1]
    for log in mesh.places.logs.glob("*.log"):
        text = log.read_text(errors="replace")
        assert secret not in text
        assert "PRIVATE KEY" not in text
    assert stat.S_IMODE(mesh.state.stat().st_mode) == 0o700
    assert "identity spiffe://cluster.local/ns/default/sa/visitor" in mesh.places.revoked.read_text()
