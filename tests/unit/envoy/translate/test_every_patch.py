"""Every kind of object with every operation, with and without a match, on every shape of proxy: nothing raises."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from headrace.app import offline
from headrace.envoy.resources import CLUSTER, EXTENSION, LISTENER, ResourceSet
from headrace.model.envoy_filter import ApplyTo, Operation

GOLDENS = Path(__file__).parents[3] / "goldens"
PROXIES = {
    "envoy-filter-sidecar": ("sidecar/default/chat-1", ("transparent", "loopback")),
    "envoy-filter-gateway": ("gateway/istio-system/door-1", ("transparent",)),
}
HCM = "envoy.filters.network.http_connection_manager"
VALUES = {
    ApplyTo.FILTER_CHAIN: "{filters: [{name: a}]}",
    ApplyTo.NETWORK_FILTER: "{name: " + HCM + ", typed_config: {'@type': x/google.protobuf.Empty, value: {}}}",
    ApplyTo.HTTP_ROUTE: "{match: {prefix: /}}",
}
MATCHES = (
    "",
    "listener: {filterChain: {filter: {name: " + HCM + "}}}",
    "routeConfiguration: {vhost: {route: {action: ROUTE}}}",
    "cluster: {portNumber: 8000}",
)


def documents() -> list[str]:
    """One EnvoyFilter for each combination that Istio accepts; those that it refuses are left out by the store."""
    texts = []
    for at, (kind, operation, match) in enumerate(product(ApplyTo, Operation, MATCHES)):
        texts.append(
            "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\n"
            f"metadata: {{name: f{at}, namespace: istio-system}}\nspec:\n  configPatches:\n"
            f"  - applyTo: {kind}\n    match: {{{match}}}\n"
            f"    patch: {{operation: {operation}, value: {VALUES.get(kind, '{name: new}')}}}\n"
        )
    return texts


def translated(case: str, capture: str, more: list[str], directory: Path) -> ResourceSet:
    path = directory / "input.yaml"
    path.write_text((GOLDENS / case / "input.yaml").read_text() + "\n---\n" + "\n---\n".join(more))
    found = offline.load([path])
    name = offline.ProxyName.parse(PROXIES[case][0])
    return offline.translate(found, offline.find_proxy(found.snapshot, name, offline.capture_of(capture)))


@pytest.mark.parametrize(("case", "capture"), [(case, how) for case, (_, ways) in PROXIES.items() for how in ways])
def test_nothing_raises(case: str, capture: str, tmp_path: Path) -> None:
    changing = [text for text in documents() if "operation: REMOVE" not in text]
    found = translated(case, capture, changing, tmp_path)
    assert "new" in found.of_type(CLUSTER)
    assert "new" in found.of_type(LISTENER)
    assert "new" in found.of_type(EXTENSION)


def test_everything_may_be_removed(tmp_path: Path) -> None:
    removing = [text for text in documents() if "operation: REMOVE" in text]
    found = translated("envoy-filter-sidecar", "transparent", removing, tmp_path)
    assert set(found.of_type(CLUSTER)) == {"lua-helper"}, "what another patch adds stays, as in Istio"
    assert set(found.of_type(LISTENER)) == {"extra"}
