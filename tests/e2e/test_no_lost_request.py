"""Zero failed requests, streams open, while everything that may change or die does: an open loop of streamed answers
through the client's sidecar and a server's, with mutual TLS, is counted to its last token."""

from __future__ import annotations

import re

import pytest
from tests.e2e.conftest import StartMesh
from tests.e2e.load import Load, through_client, through_gateway
from tests.e2e.running import RunningMesh, until
from tests.e2e.shop import servers, shop, weights


@pytest.fixture(scope="module")
def mesh(start_mesh: StartMesh) -> RunningMesh:
    return start_mesh(shop(50, 50))


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
