"""Zero failed requests, streams open, while everything that may change or die does: an open loop of streamed answers
through the client's sidecar and a server's, with mutual TLS, is counted to its last token."""

from __future__ import annotations

import re
import sqlite3
import time

import pytest
from tests.e2e.conftest import StartMesh
from tests.e2e.load import Load, burst, through_client, through_gateway
from tests.e2e.running import RunningMesh, until
from tests.e2e.shop import NEW_CONNECTIONS, SERVICE, servers, shop, weights

LIFETIME = 4.0
"""Seconds that a certificate lives here: renewed after about two."""
ROTATIONS = 30


@pytest.fixture(scope="module")
def mesh(start_mesh: StartMesh) -> RunningMesh:
    return start_mesh(shop(50, 50), "--certificate-lifetime", f"{LIFETIME:g}s")


def issued(mesh: RunningMesh) -> list[str]:
    """Serial numbers of all certificates in the ledger."""
    with sqlite3.connect(f"file:{mesh.places.ca}/ledger.sqlite?mode=ro", uri=True) as database:
        return [str(row[0]) for row in database.execute("SELECT serial FROM issued")]


def rotations(mesh: RunningMesh, replica: str) -> int:
    """How often the Envoy of a replica took a new certificate."""
    return sum(count for name, count in mesh.stats(replica, "sds.default.").items() if name.endswith("update_success"))


def test_hundred_weight_changes(mesh: RunningMesh) -> None:
    with Load(through_client(mesh)) as load, Load(through_gateway(mesh), rate=10) as outside:
        for step in range(100):
            first = (step * 37) % 101
            mesh.write("routes.yaml", weights(first, 100 - first))
            until(lambda first=first: share_of_v1(mesh) == first, f"change {step} is in force", 10.0)
        load.run_on(60)
    print(f"100 weight changes: {load.tally}; gateway: {outside.tally}")
    assert load.tally.failed == 0 == outside.tally.failed, (str(load.tally), str(outside.tally))
    assert load.tally.sent > 300
    assert set(load.tally.models()) == {"v1", "v2"}


def share_of_v1(mesh: RunningMesh) -> int:
    """The weight of version 1 in the route table that the client's Envoy runs."""
    dump = mesh.admin("default/client-0", "/config_dump?resource=dynamic_route_configs").decode()
    cluster = r"outbound\|80\|v1\|chat\.default\.svc\.cluster\.local"
    weighted = re.search(rf'"name": "{cluster}",\s*"weight": (\d+)', dump)
    if weighted:
        return int(weighted[1])
    return 100 if re.search(rf'"cluster": "{cluster}"', dump) else 0


def handshakes(mesh: RunningMesh) -> int:
    """TLS handshakes that the client's sidecar has made with the chat servers."""
    stats = mesh.stats("default/client-0", "cluster.outbound|80|v")
    return sum(count for name, count in stats.items() if name.endswith(".ssl.handshake"))


def new_handshakes(mesh: RunningMesh, requests: int) -> int:
    """How many of them so many requests lead to."""
    before = handshakes(mesh)
    assert burst(through_client(mesh), requests).failed == 0
    return handshakes(mesh) - before


def test_thirty_certificate_rotations(mesh: RunningMesh) -> None:
    names = ["default/client-0", *mesh.replicas("chat-v1"), *mesh.replicas("chat-v2")]
    before = {name: rotations(mesh, name) for name in names}
    serials, started = len(set(issued(mesh))), time.monotonic()

    def fewest() -> bool:
        return min(rotations(mesh, name) - before[name] for name in names) >= ROTATIONS // len(names) + 1

    mesh.write("service.yaml", SERVICE + NEW_CONNECTIONS)
    until(lambda: new_handshakes(mesh, 20) >= 20, "a connection for every request")
    made = handshakes(mesh)
    with Load(through_client(mesh)) as load:
        until(lambda: len(set(issued(mesh))) - serials >= ROTATIONS and fewest(), "rotations", 60.0, 0.2)
    count = len(set(issued(mesh))) - serials
    made = handshakes(mesh) - made
    print(f"{count} certificates in {time.monotonic() - started:.0f} s, {made} handshakes: {load.tally}")
    mesh.write("service.yaml", SERVICE)
    assert load.tally.failed == 0, load.tally
    assert load.tally.sent > 200
    assert made >= load.tally.sent


def test_the_control_plane_is_killed(mesh: RunningMesh) -> None:
    with Load(through_client(mesh)) as load:
        dead = mesh.kill("control-plane")
        load.run_on(120)
        until(lambda: mesh.role("control-plane") != dead, "a new control plane")
        mesh.wait_ready()
        load.run_on(60)
    print(f"SIGKILL of the control plane: {load.tally}")
    assert load.tally.failed == 0, load.tally


def test_the_agent_is_killed(mesh: RunningMesh) -> None:
    children = {name: (row["app_pid"], row["proxy_pid"]) for name, row in mesh.proxies().items()}
    with Load(through_client(mesh)) as load:
        dead = mesh.kill("agent")
        load.run_on(120)
        until(lambda: mesh.role("agent") != dead, "a new agent")
        mesh.wait_ready()
        load.run_on(180)
    print(f"SIGKILL of the agent: {load.tally}")
    assert load.tally.failed == 0, load.tally
    assert {name: (row["app_pid"], row["proxy_pid"]) for name, row in mesh.proxies().items()} == children


def test_both_are_killed(mesh: RunningMesh) -> None:
    with Load(through_client(mesh)) as load:
        agent, control = mesh.role("agent"), mesh.kill("control-plane")
        mesh.kill("agent")
        load.run_on(120)
        until(lambda: mesh.role("agent") != agent and mesh.role("control-plane") != control, "both are back")
        mesh.wait_ready()
        load.run_on(180)
    print(f"SIGKILL of both: {load.tally}")
    assert load.tally.failed == 0, load.tally


def test_replicas_from_two_to_five_to_one(mesh: RunningMesh) -> None:
    with Load(through_client(mesh)) as load:
        for wanted in (5, 1):
            mesh.write("chat-v1.yaml", servers("v1", wanted))
            until(lambda wanted=wanted: len(mesh.replicas("chat-v1")) == wanted, f"{wanted} replicas", 60.0, 0.1)
            mesh.wait_ready(60.0)
            load.run_on(120)
    print(f"replicas 2 → 5 → 1: {load.tally}")
    assert load.tally.failed == 0, load.tally
    assert load.tally.sent > 300
