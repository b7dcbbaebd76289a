"""What does not fit into a pool: siblings of its routes, and what the module is told."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.route.v3 import route_pb2
from tests.unit.envoy.translate.test_pools import SERVICE, gateway, settings_of, sidecar, snapshot, translated

from headrace.envoy.resources import ROUTE
from headrace.model.proxy import CaptureKind

BIG, SPARE = "big.default.inference.local", "spare.default.inference.local"
POOLS = "\n---\n".join(
    f"""
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {{name: {name}}}
spec: {{selector: {{matchLabels: {{app: {name}}}}}, targetPorts: [{{number: {port}}}]}}
"""
    for name, port in (("big", 8000), ("spare", 9000))
)
SUBSET = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: spare}
spec: {host: spare.default.inference.local, subsets: [{name: v2, labels: {version: v2}}]}
"""
POLICY = """
apiVersion: headrace.dev/v1alpha1
kind: InferencePolicy
metadata: {name: big}
spec:
  targetRefs: [{group: inference.networking.k8s.io, kind: InferencePool, name: big}]
  admission:
    concurrency: 4
    overflow:
      action: Redirect
      backend: {group: inference.networking.k8s.io, kind: InferencePool, name: spare}
"""
RULE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ask}
spec:
  hosts: [ask.example]
  gateways: [istio-system/door]
  http:
  - name: canary
    match: [{headers: {x-canary: {exact: "yes"}}}]
    fault: {abort: {percentage: {value: 1}, httpStatus: 500}}
    rewrite: {uri: /v2}
    mirrors: [{destination: {host: plain}}]
    timeout: 30s
    route:
    - destination: {host: big.default.inference.local}
      headers: {request: {set: {x-model: big}}}
  - route:
    - {destination: {host: plain}, weight: 50}
    - {destination: {host: big.default.inference.local}, weight: 50}
"""
NAME = f"outbound|9000||{SPARE}"


def routes(*texts: str, proxy: Any = None) -> list[Any]:
    resources = translated(snapshot(SERVICE, POOLS, RULE, *texts), proxy or gateway())
    (resource,) = resources.of_type(ROUTE).values()
    return list(route_pb2.RouteConfiguration.FromString(resource.body).virtual_hosts[0].routes)


def overflow_value(route: Any) -> str:
    found = [item.string_match.exact for item in route.match.headers if item.name == "x-headrace-overflow"]
    return found[0] if found else ""


def told(*texts: str) -> dict[str, Any]:
    found = settings_of(translated(snapshot(SERVICE, POOLS, *texts), gateway()))
    settings: dict[str, Any] = found[f"outbound|8000||{BIG}"]
    return settings


def test_a_sibling_stands_before_each_route_to_the_pool() -> None:
    found = routes(POLICY)
    assert [(item.name, overflow_value(item)) for item in found] == [
        ("canary.overflow", NAME),
        ("canary", ""),
        ("overflow", NAME),
        ("", ""),
    ]
    assert told(POLICY)["admission"] == {"concurrency": 4, "overflow": {"action": "redirect", "to": NAME}}


def test_the_sibling_leads_elsewhere_and_is_the_same_otherwise() -> None:
    sibling, route = routes(POLICY)[:2]
    assert (sibling.route.cluster, route.route.cluster) == (NAME, f"outbound|8000||{BIG}")
    assert list(sibling.match.headers)[:-1] == list(route.match.headers)
    assert sibling.route.timeout == route.route.timeout
    assert sibling.route.prefix_rewrite == "/v2"
    assert sibling.route.request_mirror_policies == route.route.request_mirror_policies
    assert list(sibling.request_headers_to_remove) == ["x-headrace-overflow"]
    assert route.request_headers_to_add and not sibling.request_headers_to_add, "headers of the other destination"
    assert route.typed_per_filter_config and not sibling.typed_per_filter_config, "a fault would be injected twice"


def test_of_a_weighted_rule_the_sibling_has_one_destination() -> None:
    sibling, route = routes(POLICY)[2:]
    assert sibling.route.cluster == NAME
    assert len(route.route.weighted_clusters.clusters) == 2


def test_another_port_or_subset() -> None:
    policy = POLICY.replace("name: spare}", "name: spare, subset: v2}")
    assert overflow_value(routes(policy, SUBSET)[0]) == f"outbound|9000|v2|{SPARE}"
    assert told(policy, SUBSET)["admission"]["overflow"]["to"] == f"outbound|9000|v2|{SPARE}"


@pytest.mark.parametrize(
    "backend",
    ["name: missing}", "name: spare, port: 9999}", "name: spare, subset: v9}", "name: big}"],
    ids=["no such pool", "no such port", "no such subset", "itself"],
)
def test_where_nothing_is_there_requests_are_rejected(backend: str) -> None:
    policy = POLICY.replace("name: spare}", backend)
    assert [overflow_value(item) for item in routes(policy)] == ["", ""]
    assert "overflow" not in told(policy)["admission"]


def test_a_service_without_a_rule_has_a_sibling_too() -> None:
    resources = translated(snapshot(SERVICE, POOLS, POLICY), sidecar(CaptureKind.LOOPBACK))
    table = route_pb2.RouteConfiguration.FromString(resources.of_type(ROUTE)["http_proxy"].body)
    found = {host.name: host.routes for host in table.virtual_hosts}
    assert [overflow_value(item) for item in found[f"{BIG}:8000"]] == [NAME, ""]
    assert found[f"{BIG}:8000"][0].route.cluster == NAME
    assert len(found[f"{SPARE}:9000"]) == 1


def test_a_changed_backend_reaches_the_routes() -> None:
    """The rule itself does not name the other pool: it must be among what its routes depend on."""
    narrow = POOLS.replace("number: 9000", "number: 9001")
    resources = translated(snapshot(SERVICE, narrow, RULE, POLICY), gateway())
    (resource,) = resources.of_type(ROUTE).values()
    table = route_pb2.RouteConfiguration.FromString(resource.body)
    assert overflow_value(table.virtual_hosts[0].routes[0]) == f"outbound|9001||{SPARE}"


def test_a_catch_alls_sibling_stays_beside_it_where_rules_are_merged() -> None:
    """A gateway moves catch-alls of several VirtualServices to the end."""
    first = RULE.replace("metadata: {name: ask}", "metadata: {name: first}")
    second = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: second}
spec:
  hosts: [ask.example]
  gateways: [istio-system/door]
  http:
  - match: [{uri: {prefix: /special}}]
    route: [{destination: {host: big.default.inference.local}}]
"""
    resources = translated(snapshot(SERVICE, POOLS, POLICY, first, second), gateway())
    (resource,) = resources.of_type(ROUTE).values()
    found = route_pb2.RouteConfiguration.FromString(resource.body).virtual_hosts[0].routes
    prefixes = [(item.match.prefix, bool(overflow_value(item))) for item in found]
    assert prefixes[2:] == [("/special", True), ("/special", False), ("/", True), ("/", False)]


def test_without_a_redirect_nothing_changes() -> None:
    reject = POLICY[: POLICY.index("    overflow:")]
    assert [overflow_value(item) for item in routes(reject)] == ["", ""]
    assert told(reject)["admission"] == {"concurrency": 4}
