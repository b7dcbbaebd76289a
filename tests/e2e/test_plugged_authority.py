"""An organisation's authority (a root, an intermediate that signs, no list of the root): who talks, who is revoked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.load import burst, through_client
from tests.e2e.running import RunningMesh, until
from tests.e2e.shop import CLIENT, SERVICE, servers
from tests.flows.guard_rig import with_intermediate


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    directory: Path = tmp_path_factory.mktemp("organisation") / "ca"
    with_intermediate(directory).ledger.close()
    (directory / "ledger.sqlite").unlink()
    made = RunningMesh.make(
        {
            "service.yaml": SERVICE,
            "chat.yaml": servers("v1", 1),
            "client.yaml": CLIENT,
            "visitor.yaml": CLIENT.replace("client", "visitor"),
        }
    )
    try:
        made.up("--ca-directory", str(directory))
        yield made
    finally:
        made.down()
        made.remove()


def test_certificates_come_with_the_intermediate_and_revocation_hits_one_identity(mesh: RunningMesh) -> None:
    client, visitor = through_client(mesh), through_client(mesh, replica="default/visitor-0")
    assert burst(client, 4).failed == burst(visitor, 4).failed == 0
    found = mesh.run("ca", "inspect", "-o", "json").json()
    assert (found["authorities"][0]["subject"], found["authorities"][0]["root"]) == ("CN=intermediate", "CN=root")
    assert found["problems"] == []
    began = time.monotonic()
    assert mesh.run("ca", "revoke", "--workload", "default/visitor").code == 0
    until(lambda: burst(visitor, 1).failed == 1, "the visitor is refused", 10.0)
    print(f"refused {time.monotonic() - began:.2f} s after the command began")
    assert burst(client, 20).failed == 0
    until(lambda: mesh.run("ca", "inspect", "-o", "json").json()["acknowledged"], "all proxies have the list")
    assert mesh.run("ca", "inspect", "-o", "json").json()["lists_sent"]
    assert burst(client, 20).failed == 0, "the list of the intermediate refuses nobody else"


def test_its_root_is_not_ours_to_replace(mesh: RunningMesh) -> None:
    done = mesh.run("ca", "rotate-root")
    assert done.code == 1
    assert "was plugged in: bring the new root into its root-cert.pem" in done.err
    assert burst(through_client(mesh), 4).failed == 0
