"""Revocation under transparent capture: proxies that run as other users learn of it too."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.e2e.conftest import StartMesh
from tests.e2e.netns_rig import DOCUMENTS, get, leftovers, needs_netns, place_of
from tests.e2e.running import RunningMesh, until

pytestmark = needs_netns
CLIENT = "default/client-0"
HOLD = """\
import socket, sys
wire = socket.create_connection(("wire", 7000), 10)
lines = wire.makefile("rwb")
lines.readline()
lines.write(b"held\\n"); lines.flush()
print(lines.readline().decode().strip(), flush=True)
wire.settimeout(60)
print("closed" if wire.recv(100) == b"" else "more", flush=True)
"""


@pytest.fixture(scope="module")
def mesh(start_mesh: StartMesh) -> Iterator[RunningMesh]:
    running = start_mesh(DOCUMENTS, "--capture", "netns")
    yield running
    running.down()
    assert leftovers(running.state) == []


def test_a_revoked_identity_loses_new_calls_and_the_connection_that_it_holds(mesh: RunningMesh) -> None:
    row, user = mesh.row(CLIENT), place_of(mesh, CLIENT).app_user
    enter = ["nsenter", f"--target={row['app_pid']}", "--net", "--mount"]
    become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    holding = subprocess.Popen(
        [*enter, *become, sys.executable, "-I", "-c", HOLD], stdout=subprocess.PIPE, text=True, cwd="/"
    )
    try:
        assert holding.stdout is not None
        assert holding.stdout.readline().strip() == "HELD"
        assert get(mesh, CLIENT, "http://chat/")[0] == 200
        done = mesh.run("ca", "revoke", "--workload", "default/client")
        assert done.code == 0, done.err
        assert holding.stdout.readline().strip() == "closed"
        until(lambda: get(mesh, CLIENT, "http://chat/")[0] != 200, "new calls are refused", 20.0)
    finally:
        holding.kill()
        holding.wait()
    assert get(mesh, "default/stranger-0", "http://chat/")[0] == 200, "others go on"
