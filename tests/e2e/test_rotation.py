"""Certificates are renewed all the time, connections end before they do, and no request or stream notices."""

from __future__ import annotations

import sqlite3
import time

import pytest
from tests.e2e.conftest import StartMesh
from tests.e2e.load import Load, burst, through_client
from tests.e2e.running import RunningMesh, until
from tests.e2e.shop import NEW_CONNECTIONS, SERVICE, shop
from tests.e2e.streaming import Streaming

LIFETIME = 6.0
"""Seconds that a certificate lives here: renewed after about three. No less, for a busy machine may be late."""
ROTATIONS = 30


@pytest.fixture(scope="module")
def mesh(start_mesh: StartMesh) -> RunningMesh:
    files = shop(50, 50) | {"service.yaml": SERVICE + NEW_CONNECTIONS}
    return start_mesh(files, "--certificate-lifetime", f"{LIFETIME:g}s")


def issued(mesh: RunningMesh) -> list[str]:
    """Serial numbers of all certificates in the ledger."""
    with sqlite3.connect(f"file:{mesh.places.ca}/ledger.sqlite?mode=ro", uri=True) as database:
        return [str(row[0]) for row in database.execute("SELECT serial FROM issued")]


def rotations(mesh: RunningMesh, replica: str) -> int:
    """How often the Envoy of a replica took a new certificate."""
    return sum(count for name, count in mesh.stats(replica, "sds.default.").items() if name.endswith("update_success"))


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

    assert new_handshakes(mesh, 20) >= 20, "not a connection for every request"
    made = handshakes(mesh)
    with Load(through_client(mesh)) as load:
        until(lambda: len(set(issued(mesh))) - serials >= ROTATIONS and fewest(), "rotations", 60.0, 0.2)
    count = len(set(issued(mesh))) - serials
    made = handshakes(mesh) - made
    print(f"{count} certificates in {time.monotonic() - started:.0f} s, {made} handshakes: {load.tally}")
    assert load.tally.failed == 0, load.tally
    assert load.tally.sent > 200
    assert made >= load.tally.sent


@pytest.fixture(scope="module")
def pooled(start_mesh: StartMesh) -> RunningMesh:
    """The same, but connections are kept for as long as the mesh allows."""
    return start_mesh(shop(50, 50), "--certificate-lifetime", f"{LIFETIME:g}s")


def ended_by_age(mesh: RunningMesh) -> int:
    """Connections of the client's sidecar that took no more requests because of their age."""
    stats = mesh.stats("default/client-0", "cluster.outbound|80|v")
    return sum(count for name, count in stats.items() if name.endswith(".upstream_cx_max_duration_reached"))


def test_long_streams_outlive_many_rotations_and_connections_do_not(pooled: RunningMesh) -> None:
    before, aged = rotations(pooled, "default/client-0"), ended_by_age(pooled)
    with Load(through_client(pooled)) as load, Streaming(through_client(pooled), 1200, 12) as streams:
        until(lambda: streams.flowing() == 12, "the streams flow")
        streams.wait()
    turned = rotations(pooled, "default/client-0") - before
    print(f"streams over {turned} rotations, {ended_by_age(pooled) - aged} connections ended by age: {load.tally}")
    assert all(item.whole for item in streams.items), streams.items
    assert load.tally.failed == 0, load.tally
    assert turned >= 4
    assert ended_by_age(pooled) - aged >= turned
