"""examples/gateway-api as it is shipped: a Gateway's own proxy, a canary, a pool, statuses."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import httpx
import pytest
from tests.e2e.conftest import StartMesh
from tests.e2e.running import RunningMesh, until

EXAMPLE = Path(__file__).parents[2] / "examples" / "gateway-api"


@pytest.fixture(scope="module")
def mesh(start_mesh: StartMesh) -> RunningMesh:
    return start_mesh({path.name: path.read_text() for path in sorted(EXAMPLE.glob("*.yaml"))})


def model(mesh: RunningMesh, path: str = "/v1/models", **headers: str) -> tuple[str, httpx.Response]:
    """The model that answers, and its answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = httpx.get(mesh.gateway() + path, headers=named, timeout=30.0)
    return (answer.json()["data"][0]["id"] if answer.status_code == 200 else ""), answer


def test_weights_headers_and_a_pool(mesh: RunningMesh) -> None:
    counts = Counter(model(mesh)[0] for _ in range(60))
    assert set(counts) <= {"chat-v1", "chat-v2"} and counts["chat-v1"] > 30, counts
    for _ in range(3):
        name, answer = model(mesh, x_canary="v2")
        assert (name, answer.headers.get("x-version")) == ("chat-v2", "v2")
    assert model(mesh, "/large/v1/models")[0] == "large"
    assert model(mesh, "/largely/v1/models")[1].status_code == 404


def test_statuses_tell_what_is_so(mesh: RunningMesh) -> None:
    def gateway() -> dict[str, str]:
        status = mesh.run("get", "-o", "json", "gateway", "door").json()["status"]
        assert [item["attachedRoutes"] for item in status["listeners"]] == [1]
        assert status["addresses"] == [{"type": "IPAddress", "value": "127.0.0.1"}]
        return {item["type"]: item["status"] for item in status["conditions"]}

    until(lambda: gateway() == {"Accepted": "True", "Programmed": "True", "ResolvedRefs": "True"}, "programmed", 30.0)
    route = mesh.run("get", "-o", "json", "httproute", "chat").json()
    (parent,) = route["status"]["parents"]
    assert parent["parentRef"]["name"] == "door"
    for item in parent["conditions"]:
        assert item["status"] == "True" and item["lastTransitionTime"].endswith("Z")
        assert item["observedGeneration"] == int(route["metadata"]["resourceVersion"])


def test_a_backend_that_goes_is_told_and_answers_500(mesh: RunningMesh) -> None:
    text = (EXAMPLE / "gateway.yaml").read_text()
    try:
        mesh.write("gateway.yaml", text.replace("name: large\n---", "name: gone\n---"))
        until(lambda: model(mesh, "/large/v1/models")[1].status_code == 500, "500 for a pool that is not there", 30.0)
        parent = mesh.run("get", "-o", "json", "httproute", "chat").json()["status"]["parents"][0]
        reasons = {item["type"]: (item["status"], item["reason"]) for item in parent["conditions"]}
        assert reasons == {"Accepted": ("True", "Accepted"), "ResolvedRefs": ("False", "BackendNotFound")}
        assert any("HR0110" in line for line in mesh.status()["problems"])
        assert model(mesh, x_canary="v2")[0] == "chat-v2"
    finally:
        mesh.write("gateway.yaml", text)
