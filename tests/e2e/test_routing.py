"""The split, the canary header and subset labels, counted in answers of real requests through real proxies."""

from __future__ import annotations

import pytest
from tests.e2e.conftest import StartMesh
from tests.e2e.load import binomial_bounds, burst, through_client, through_gateway
from tests.e2e.running import RunningMesh, until
from tests.e2e.shop import shop, weights


@pytest.fixture(scope="module")
def mesh(start_mesh: StartMesh) -> RunningMesh:
    return start_mesh(shop(80, 20))


def test_the_split_is_within_its_statistical_bounds(mesh: RunningMesh) -> None:
    tally = burst(through_client(mesh), 2000)
    low, high = binomial_bounds(2000, 0.2)
    print(f"split 80/20: {tally}; bounds of v2 {low}..{high}")
    assert tally.failed == 0, tally
    assert tally.sent == 2000
    assert low <= tally.models()["v2"] <= high


def test_the_canary_header_selects_the_version_at_the_gateway(mesh: RunningMesh) -> None:
    assert burst(through_gateway(mesh, x_canary="v2"), 60).models() == {"v2": 60}
    assert burst(through_gateway(mesh, x_canary="v1"), 60).models() == {"v1": 60}
    assert burst(through_gateway(mesh), 60).models() == {"v1": 60}


def test_subset_labels_bring_each_version_to_all_of_its_replicas_only(mesh: RunningMesh) -> None:
    before = {name: mesh.served(name) for version in ("v1", "v2") for name in mesh.replicas(f"chat-{version}")}
    assert burst(through_gateway(mesh, x_canary="v2"), 100).failed == 0
    grown = {name: mesh.served(name) - count for name, count in before.items()}
    assert all(grown[name] == 0 for name in grown if "chat-v1" in name), grown
    assert all(grown[name] >= 20 for name in grown if "chat-v2" in name), grown
    assert sum(grown.values()) == 100


def test_a_weight_of_zero_sends_nothing(mesh: RunningMesh) -> None:
    mesh.write("routes.yaml", weights(0, 100))
    try:
        until(lambda: burst(through_client(mesh), 20).models() == {"v2": 20}, "the new weights are in force")
        assert burst(through_client(mesh), 300).models() == {"v2": 300}
    finally:
        mesh.write("routes.yaml", weights(80, 20))
