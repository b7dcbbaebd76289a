"""`headrace ca rotate-root` under load: no request is lost, also where the control plane dies in every phase."""

from __future__ import annotations

import time
from typing import Any

import pytest
from cryptography import x509
from tests.e2e.conftest import StartMesh
from tests.e2e.load import Load, through_client
from tests.e2e.running import RunningMesh, until
from tests.e2e.shop import NEW_CONNECTIONS, SERVICE, shop
from tests.e2e.streaming import Streaming

from headrace.app.api.client import ApiUnreachable


@pytest.fixture(scope="module")
def mesh(start_mesh: StartMesh) -> RunningMesh:
    return start_mesh(shop(50, 50) | {"service.yaml": SERVICE + NEW_CONNECTIONS})


def authority(mesh: RunningMesh) -> dict[str, Any]:
    """What `ca inspect` would say of the authority; empty while no control plane answers. On a busy machine a command
    takes longer to start than a phase may last, so the API is asked."""
    try:
        found: dict[str, Any] = mesh.api.call("GET", "/v1/authority")
    except ApiUnreachable:
        return {}
    return found


def phase(mesh: RunningMesh) -> str:
    return str(authority(mesh).get("rotation", {}).get("phase", ""))


def roots(mesh: RunningMesh) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates((mesh.places.ca / "root-cert.pem").read_bytes())


def test_a_root_is_replaced_and_no_request_is_lost(mesh: RunningMesh) -> None:
    old, issuer = roots(mesh), authority(mesh)["issuer"]
    with Streaming(through_client(mesh), 500, 6) as streams, Load(through_client(mesh)) as load:
        until(lambda: streams.flowing() == 6, "the streams flow")
        began = time.monotonic()
        done = mesh.run("ca", "rotate-root", "--overlap", "3s")
        assert "change of roots: phase" in done.out, done.err
        again = mesh.run("ca", "rotate-root")
        assert (again.code, "under way" in again.err) == (1, True)
        until(lambda: phase(mesh) == "steady", "the old root is gone", 60.0, 0.2)
        seconds = time.monotonic() - began
        load.run_on(60)
        streams.wait()
    print(f"a change of roots in {seconds:.1f} s: {load.tally}")
    assert load.tally.failed == 0, load.tally
    assert all(item.whole for item in streams.items), streams.items
    assert not set(roots(mesh)) & set(old)
    assert authority(mesh)["issuer"] != issuer
    rows = mesh.run("ca", "list", "-o", "json").json()["certificates"]
    assert {row["issuer"] for row in rows} == {authority(mesh)["issuer"]}
    assert not (mesh.places.ca / "next").exists()


def test_the_control_plane_may_die_in_every_phase(mesh: RunningMesh) -> None:
    old = roots(mesh)
    seen: list[str] = []
    with Load(through_client(mesh)) as load:
        assert mesh.run("ca", "rotate-root", "--overlap", "4s").code == 0
        mesh.kill("control-plane")
        deadline = time.monotonic() + 120.0
        killed = time.monotonic()
        while time.monotonic() < deadline:
            now = phase(mesh)
            if now and now not in seen:
                seen.append(now)
                if now == "steady":
                    break
                mesh.kill("control-plane")
                killed = time.monotonic()
            time.sleep(0.05)
        until(lambda: phase(mesh) == "steady", "the change ends", 60.0, 0.2)
        load.run_on(60)
    print(f"killed last {time.monotonic() - killed:.1f} s ago; phases seen: {seen}: {load.tally}")
    assert {"issue", "steady"} <= set(seen), seen
    assert load.tally.failed == 0, load.tally
    assert not set(roots(mesh)) & set(old)
    mesh.wait_ready()
