"""Patches of EnvoyFilters on small sets: every operation, what is shared, and what stays the same object."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.listener.proxy_protocol.v3 import proxy_protocol_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf import json_format

from headrace.envoy.translate.messages import packed
from headrace.envoy.translate.patch.choice import choose
from headrace.envoy.translate.patch.clusters import changing, matching, patched_cluster
from headrace.envoy.translate.patch.listeners import patch_listener
from headrace.envoy.translate.patch.merge import merge
from headrace.envoy.translate.patch.routes import patch_routes
from headrace.model.envoy_filter import (
    ApplyTo,
    ClusterMatch,
    ListenerMatch,
    Operation,
    Patch,
    PatchContext,
    RouteMatch,
)

HCM = "envoy.filters.network.http_connection_manager"
OUT = PatchContext.SIDECAR_OUTBOUND
NO_PORTS: Any = MappingProxyType({})


def listener(*filters: str, listener_filters: tuple[str, ...] = ("a", "b")) -> Any:
    manager = hcm_pb2.HttpConnectionManager(stat_prefix="x", http_filters=[hcm_pb2.HttpFilter(name=n) for n in filters])
    chain = listener_components_pb2.FilterChain(
        name="chain", filters=[listener_components_pb2.Filter(name=HCM, typed_config=packed(manager))]
    )
    return listener_pb2.Listener(
        name="l",
        filter_chains=[chain],
        listener_filters=[listener_components_pb2.ListenerFilter(name=name) for name in listener_filters],
    )


def http_filters(of: Any) -> list[str]:
    manager = hcm_pb2.HttpConnectionManager()
    of.filter_chains[0].filters[-1].typed_config.Unpack(manager)
    return [item.name for item in manager.http_filters]


def http_patch(operation: Operation, sub_filter: str | None) -> Patch:
    match = ListenerMatch(filter=HCM, sub_filter=sub_filter)
    value = hcm_pb2.HttpFilter(name="new").SerializeToString()
    return Patch(ApplyTo.HTTP_FILTER, operation, value, listener=match)


@pytest.mark.parametrize(
    ("operation", "at", "expected"),
    [
        (Operation.ADD, None, ["one", "two", "new"]),
        (Operation.INSERT_FIRST, "two", ["new", "one", "two"]),
        (Operation.INSERT_BEFORE, "two", ["one", "new", "two"]),
        (Operation.INSERT_BEFORE, None, ["new", "one", "two"]),
        (Operation.INSERT_BEFORE, "none", ["one", "two"]),
        (Operation.INSERT_AFTER, "one", ["one", "new", "two"]),
        (Operation.INSERT_AFTER, None, ["one", "two", "new"]),
        (Operation.REPLACE, "one", ["new", "two"]),
        (Operation.REPLACE, None, ["one", "two"]),
        (Operation.REMOVE, "one", ["two"]),
        (Operation.REMOVE, None, ["one", "two"]),
    ],
)
def test_http_filters(operation: Operation, at: str | None, expected: list[str]) -> None:
    target = listener("one", "two")
    assert patch_listener(target, choose([http_patch(operation, at)], OUT))
    assert http_filters(target) == expected


def test_patches_follow_each_other() -> None:
    target = listener("one")
    first = http_patch(Operation.INSERT_BEFORE, "one")
    second = http_patch(Operation.REMOVE, "new")
    patch_listener(target, choose([first, second], OUT))
    assert http_filters(target) == ["one"]


def test_listener_filters_are_merged_by_their_names() -> None:
    target = listener("one")
    for held in target.listener_filters:
        held.typed_config.CopyFrom(packed(proxy_protocol_pb2.ProxyProtocol()))
    change = proxy_protocol_pb2.ProxyProtocol(allow_requests_without_proxy_protocol=True)
    value = listener_components_pb2.ListenerFilter(typed_config=packed(change)).SerializeToString()
    match = ListenerMatch(listener_filter="b")
    patch_listener(target, choose([Patch(ApplyTo.LISTENER_FILTER, Operation.MERGE, value, listener=match)], OUT))
    held = [proxy_protocol_pb2.ProxyProtocol.FromString(item.typed_config.value) for item in target.listener_filters]
    assert [item.allow_requests_without_proxy_protocol for item in held] == [False, True]


@pytest.mark.parametrize(
    ("match", "stays"),
    [
        (ListenerMatch(), False),
        (ListenerMatch(name="other"), True),
        (ListenerMatch(name="l"), False),
        (ListenerMatch(port=1), True),
    ],
)
def test_listeners_are_removed(match: ListenerMatch, stays: bool) -> None:
    patch = Patch(ApplyTo.LISTENER, Operation.REMOVE, b"", listener=match)
    assert patch_listener(listener("one"), choose([patch], OUT)) is stays


def test_a_chain_without_filters_goes_and_another_comes() -> None:
    target = listener("one")
    target.filter_chains[0].filter_chain_match.server_names.append("a.b")
    added = listener_components_pb2.FilterChain(name="added", filters=target.filter_chains[0].filters)
    patches = [
        Patch(ApplyTo.FILTER_CHAIN, Operation.REMOVE, b"", listener=ListenerMatch(sni="a.b")),
        Patch(ApplyTo.FILTER_CHAIN, Operation.ADD, added.SerializeToString()),
    ]
    assert patch_listener(target, choose(patches, OUT))
    assert [chain.name for chain in target.filter_chains] == ["added"]


def test_the_other_side_is_left_alone() -> None:
    patch = Patch(ApplyTo.LISTENER, Operation.REMOVE, b"", context=PatchContext.SIDECAR_INBOUND)
    assert choose([patch], OUT).patches == ()


def table() -> Any:
    return json_format.ParseDict(
        {
            "name": "80",
            "virtual_hosts": [
                {"name": "a", "domains": ["a"], "routes": [{"name": "r1", "route": {"cluster": "c"}}, {"name": "r2"}]},
                {"name": "b", "domains": ["b"], "routes": [{"name": "r1", "redirect": {}}]},
            ],
        },
        route_pb2.RouteConfiguration(),
    )


def route_patch(operation: Operation, **match: Any) -> Patch:
    value = b"" if operation is Operation.REMOVE else json_route().SerializeToString()
    return Patch(ApplyTo.HTTP_ROUTE, operation, value, route=RouteMatch(vhost=True, **match))


def json_route() -> Any:
    hosts = {"virtual_hosts": [{"routes": [{"name": "new"}]}]}
    return json_format.ParseDict(hosts, route_pb2.RouteConfiguration()).virtual_hosts[0].routes[0]


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        (route_patch(Operation.ADD, vhost_name="a"), [["r1", "r2", "new"], ["r1"]]),
        (route_patch(Operation.INSERT_FIRST), [["new", "r1", "r2"], ["new", "r1"]]),
        (route_patch(Operation.INSERT_AFTER, route=True, route_name="r1"), [["r1", "new", "r2"], ["r1", "new"]]),
        (route_patch(Operation.INSERT_BEFORE, route=True, route_name="r2"), [["r1", "new", "r2"], ["r1"]]),
        (route_patch(Operation.INSERT_FIRST, route=True, route_name="r2"), [["new", "r1", "r2"], ["r1"]]),
        (route_patch(Operation.REMOVE, route=True, action="REDIRECT"), [["r1"], []]),
        (route_patch(Operation.REMOVE, vhost_domain="a", route=True, route_name="r1"), [["r2"], ["r1"]]),
        (route_patch(Operation.ADD, port=81), [["r1", "r2"], ["r1"]]),
    ],
)
def test_routes(patch: Patch, expected: list[list[str]]) -> None:
    target = table()
    patch_routes(target, choose([patch], OUT), NO_PORTS)
    assert [[route.name for route in host.routes] for host in target.virtual_hosts] == expected


def test_virtual_hosts_are_removed_replaced_and_added() -> None:
    target = table()
    new = json_format.ParseDict({"virtual_hosts": [{"name": "new"}]}, route_pb2.RouteConfiguration()).virtual_hosts[0]
    value = new.SerializeToString()
    patches = [
        Patch(ApplyTo.VIRTUAL_HOST, Operation.REMOVE, b"", route=RouteMatch(vhost=True, vhost_name="a")),
        Patch(ApplyTo.VIRTUAL_HOST, Operation.REPLACE, value, route=RouteMatch(vhost=True, vhost_name="b")),
        Patch(ApplyTo.VIRTUAL_HOST, Operation.ADD, value),
    ]
    patch_routes(target, choose(patches, OUT), NO_PORTS)
    assert [host.name for host in target.virtual_hosts] == ["new", "new"]


@pytest.mark.parametrize(
    ("name", "match", "fits"),
    [
        ("http.8080", RouteMatch(port=80), True),
        ("http.8080", RouteMatch(port=8080), False),
        ("http.9090", RouteMatch(port=9090), True),
        ("https.443.main.door.ns", RouteMatch(port_name="main", gateway="ns/door"), True),
        ("https.443.main.door.ns", RouteMatch(gateway="ns/other"), False),
    ],
)
def test_tables_of_gateways_are_known_by_the_servers_ports(name: str, match: RouteMatch, fits: bool) -> None:
    target = route_pb2.RouteConfiguration(name=name)
    value = route_pb2.RouteConfiguration(request_headers_to_remove=["x"]).SerializeToString()
    chosen = choose([Patch(ApplyTo.ROUTE_CONFIGURATION, Operation.MERGE, value, route=match)], PatchContext.GATEWAY)
    patch_routes(target, chosen, {8080: frozenset({80})})
    assert bool(target.request_headers_to_remove) is fits


@pytest.mark.parametrize(
    ("match", "name", "fits"),
    [
        (ClusterMatch(service="a.b", port=80), "outbound|80||a.b", True),
        (ClusterMatch(service="a.b"), "outbound|80|v1|a.b", True),
        (ClusterMatch(subset="v1"), "outbound|80||a.b", False),
        (ClusterMatch(service="a.b"), "inbound|80||", True),
        (ClusterMatch(service="c.d"), "inbound|80||", False),
        (ClusterMatch(name="x", service="nobody"), "x", True),
        (ClusterMatch(port=80), "PassthroughCluster", False),
    ],
)
def test_clusters_are_matched_by_what_their_names_say(match: ClusterMatch, name: str, fits: bool) -> None:
    chosen = choose([Patch(ApplyTo.CLUSTER, Operation.REMOVE, b"", cluster=match)], OUT)
    found = matching(changing(chosen), name, ("a.b",))
    assert bool(found) is fits
    gone = patched_cluster(cluster_pb2.Cluster(name=name).SerializeToString(), found) is None
    assert gone is fits


def test_merging_follows_istio() -> None:
    target = json_format.ParseDict(
        {
            "name": "a",
            "connect_timeout": "5.5s",
            "circuit_breakers": {"thresholds": [{"max_requests": 1}]},
            "metadata": {"filter_metadata": {"x": {"a": 1}, "y": {"b": 2}}},
        },
        cluster_pb2.Cluster(),
    )
    change = json_format.ParseDict(
        {
            "connect_timeout": "1s",
            "circuit_breakers": {"thresholds": [{"max_requests": 2}]},
            "metadata": {"filter_metadata": {"x": {"c": 3}}},
        },
        cluster_pb2.Cluster(),
    )
    other = cluster_pb2.Cluster()
    other.CopyFrom(target)
    merge(target, change)
    assert target.connect_timeout.ToJsonString() == "1s"
    assert [item.max_requests.value for item in target.circuit_breakers.thresholds] == [1, 2]
    assert json_format.MessageToDict(target.metadata)["filterMetadata"] == {"x": {"c": 3.0}, "y": {"b": 2.0}}
    merge(other, change, replace_lists=True)
    assert [item.max_requests.value for item in other.circuit_breakers.thresholds] == [2]
