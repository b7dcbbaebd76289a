"""Pools of model servers: which clusters and connection managers ask the native module, and with what settings."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.dynamic_modules.v3 import dynamic_modules_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf import wrappers_pb2
from xds.type.v3 import typed_struct_pb2

from headrace.config.documents import read_text
from headrace.config.store import ConfigStore
from headrace.envoy.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE, ResourceSet
from headrace.envoy.scopes import Scopes, view_of
from headrace.envoy.translate import Translator
from headrace.model.identity import Identity
from headrace.model.proxy import Capture, CaptureKind, Proxy, ProxyKind
from headrace.model.workload import WorkloadPort
from headrace.registry.build import build_snapshot
from headrace.registry.observed import ObservedReplica, ReplicaState
from headrace.registry.snapshot import MeshSnapshot

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: chat}
spec: {selector: {app: chat}, ports: [{name: http, port: 8000}, {name: tcp, port: 9000}]}
---
apiVersion: v1
kind: Service
metadata: {name: plain}
spec: {selector: {app: plain}, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: chat}
spec:
  host: chat
  trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: door, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
"""
POOL = """
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {name: chat}
spec: {selector: {matchLabels: {app: chat}}, targetPorts: [{number: 8000}, {number: 8001}]}
"""
POLICY = """
apiVersion: headrace.dev/v1alpha1
kind: InferencePolicy
metadata: {name: chat}
spec:
  targetRefs: [{kind: Service, name: chat}]
  admission: {requestsPerSecond: 20, queue: {depth: 30, time: 1s}}
"""


def snapshot(*texts: str, replicas: dict[str, ObservedReplica] | None = None) -> MeshSnapshot:
    revision = ConfigStore().replace_source("test", read_text("\n---\n".join(texts), "mesh.yaml", "test"))
    assert [problem.as_line() for problem in revision.problems if problem.code == "IST0106"] == []
    return build_snapshot(revision, replicas or {})


def gateway(module: bool = True) -> Proxy:
    identity = Identity("cluster.local", "istio-system", "gateway")
    labels = {"istio": "ingressgateway"}
    return Proxy(ProxyKind.GATEWAY, "gw-0", "gw", identity, labels, ("127.0.0.8",), module=module)


def sidecar(kind: CaptureKind, module: bool = True) -> Proxy:
    identity = Identity("cluster.local", "default", "app")
    capture = Capture(kind, credentials="user:{SHA}0DPiKuNIrrVmD8IUCuw1hQxNqZc=")
    return Proxy(ProxyKind.SIDECAR, "app-0", "app", identity, {}, ("127.0.0.9",), capture, module)


def translated(mesh: MeshSnapshot, proxy: Proxy) -> ResourceSet:
    return Translator().resources(view_of(mesh, proxy, Scopes()))


def settings_of(resources: ResourceSet) -> dict[str, dict[str, Any]]:
    """The module's settings by cluster, for the clusters that have them."""
    found = {}
    for name, resource in resources.of_type(CLUSTER).items():
        cluster = cluster_pb2.Cluster.FromString(resource.body)
        for policy in cluster.load_balancing_policy.policies:
            config = typed_struct_pb2.TypedStruct()
            assert policy.typed_extension_config.typed_config.Unpack(config)
            assert config.type_url.endswith(".DynamicModulesLoadBalancerConfig")
            assert config.value["lb_policy_name"] == "pool"
            assert config.value["dynamic_module_config"]["name"] == "headrace_envoy"
            found[name] = json.loads(config.value["lb_policy_config"]["value"])
    return found


def filters(resources: ResourceSet) -> dict[str, list[str]]:
    """Names of the HTTP filters of every outbound connection manager, by listener."""
    found = {}
    for name, resource in resources.of_type(LISTENER).items():
        listener = listener_pb2.Listener.FromString(resource.body)
        if listener.traffic_direction == base_pb2.INBOUND:
            continue
        for chain in listener.filter_chains:
            manager = hcm_pb2.HttpConnectionManager()
            if chain.filters and chain.filters[0].typed_config.Unpack(manager):
                found[name] = [item.name for item in manager.http_filters]
    return found


def test_a_policy_makes_a_pool_of_the_service_and_its_subsets() -> None:
    found = settings_of(translated(snapshot(SERVICE, POLICY), gateway()))
    host = "chat.default.svc.cluster.local"
    assert set(found) == {f"outbound|8000|{subset}|{host}" for subset in ("", "v1", "v2")}
    wanted = {"rate_per_second": 20.0, "burst": 1, "queue": {"requests": 30, "seconds": 1.0}}
    for settings in found.values():
        assert settings == {"pool": f"{host}:8000", "policy": "predicted-drain", "admission": wanted}


def test_a_pool_document_needs_no_policy() -> None:
    found = settings_of(translated(snapshot(SERVICE, POOL), gateway()))
    name = "chat.default.inference.local"
    assert found == {f"outbound|8000||{name}": {"pool": f"{name}:8000"}}


def test_all_of_a_policy_reaches_the_module() -> None:
    policy = """
apiVersion: headrace.dev/v1alpha1
kind: InferencePolicy
metadata: {name: chat}
spec:
  targetRefs: [{group: inference.networking.k8s.io, kind: InferencePool, name: chat}]
  picking: {policy: prefix, sessionHeader: x-session, warmup: 30s}
  admission:
    requestsPerSecond: 0.5
    burst: 4
    concurrencyPerEndpoint: 8
    queue: {depth: 10, tokens: 5000, time: 2s}
    priorities: {header: x-priority, levels: [chat, batch], starvation: 10s}
    fairness: {key: header, name: x-tenant, weights: {gold: 4}}
    firstTokenDeadline: {header: x-slo, default: 5s}
  timeouts: {firstToken: 30s, betweenTokens: 10s, total: 600s, keepalive: 15s}
  observation: {usage: Inject}
"""
    (settings,) = settings_of(translated(snapshot(POOL, policy), gateway())).values()
    assert settings == {
        "pool": "chat.default.inference.local:8000",
        "policy": "prefix",
        "session_header": "x-session",
        "warmup_seconds": 30.0,
        "usage": "inject",
        "keepalive_seconds": 15.0,
        "timeouts": {"first_token_seconds": 30.0, "between_tokens_seconds": 10.0, "total_seconds": 600.0},
        "admission": {
            "rate_per_second": 0.5,
            "burst": 4,
            "concurrency_per_endpoint": 8,
            "queue": {"requests": 10, "tokens": 5000, "seconds": 2.0},
            "priority_header": "x-priority",
            "priorities": ["chat", "batch"],
            "starvation_seconds": 10.0,
            "tenant_header": "x-tenant",
            "weights": {"gold": 4.0},
            "first_token_deadline_header": "x-slo",
            "first_token_deadline_seconds": 5.0,
        },
    }


def test_learned_places_and_the_time_of_uploads_reach_the_module() -> None:
    admission = "{concurrencyPerEndpoint: Auto, queue: {depth: 9, time: 1s}}"
    policy = POLICY.replace("{requestsPerSecond: 20, queue: {depth: 30, time: 1s}}", admission)
    found = settings_of(translated(snapshot(SERVICE, f"{policy}  timeouts: {{upload: 9s}}\n"), gateway()))
    told = next(iter(found.values()))["admission"]
    assert told["learned_concurrency"] is True and told["upload_seconds"] == 9.0
    assert "concurrency_per_endpoint" not in told


@pytest.mark.parametrize("proxy", [gateway(), sidecar(CaptureKind.LOOPBACK), sidecar(CaptureKind.TRANSPARENT)])
def test_the_filter_stands_before_the_router_of_every_way_in(proxy: Proxy) -> None:
    names = filters(translated(snapshot(SERVICE, POLICY), proxy))
    assert names
    for found in names.values():
        assert found[-2:] == ["headrace.pool", "envoy.filters.http.router"]


@pytest.mark.parametrize("capture", CaptureKind)
def test_without_the_module_pools_are_ordinary_clusters(capture: CaptureKind) -> None:
    for proxy in (gateway(module=False), sidecar(capture, module=False)):
        with_policy = translated(snapshot(SERVICE, POLICY), proxy)
        without = translated(snapshot(SERVICE), proxy)
        assert versions(with_policy) == versions(without)
    found = cluster_pb2.Cluster.FromString(
        translated(snapshot(POOL), gateway(module=False))
        .of_type(CLUSTER)["outbound|8000||chat.default.inference.local"]
        .body
    )
    assert found.lb_policy == cluster_pb2.Cluster.LEAST_REQUEST


def test_a_mesh_without_pools_has_no_filter_and_no_policy() -> None:
    found = translated(snapshot(SERVICE), gateway())
    assert settings_of(found) == {}
    assert all("headrace.pool" not in names for names in filters(found).values())


def test_an_edited_policy_replaces_clusters_and_no_listener() -> None:
    before = translated(snapshot(SERVICE, POLICY), gateway())
    after = translated(snapshot(SERVICE, POLICY.replace("20", "30")), gateway())
    changed = {key for key, version in versions(after).items() if versions(before)[key] != version}
    assert {kind for kind, _ in changed} == {CLUSTER}
    assert len(changed) == 3


def test_the_oldest_policy_of_a_target_holds() -> None:
    younger = POLICY.replace(
        "name: chat}\nspec", "name: a-younger, creationTimestamp: 2026-01-31T12:00:00Z}\nspec"
    ).replace("20", "99")
    found = settings_of(translated(snapshot(SERVICE, POLICY, younger), gateway()))
    assert {settings["admission"]["rate_per_second"] for settings in found.values()} == {20.0}


def test_proxies_with_and_without_the_module_share_a_translator() -> None:
    mesh, translator, scopes = snapshot(SERVICE, POLICY), Translator(), Scopes()
    for _ in range(2):
        for module in (True, False):
            found = translator.resources(view_of(mesh, gateway(module), scopes))
            assert bool(settings_of(found)) is module
    assert translator.memo.built["clusters of a scope"] == 2


def test_every_port_of_every_replica_of_a_pool_is_an_endpoint() -> None:
    replica = ObservedReplica(
        "default/chat-0",
        "default",
        "chat",
        (("app", "chat"),),
        "default",
        "spiffe://cluster.local/ns/default/sa/default",
        "127.0.0.20",
        (WorkloadPort(8000), WorkloadPort(8001)),
        ReplicaState.READY,
    )
    other = replace(replica, id="default/chat-1", address="127.0.0.21")
    mesh = snapshot(POOL, replicas={item.id: item for item in (replica, other)})
    found = mesh.endpoints["default", "chat.default.inference.local"]
    assert [(item.address, item.port, item.service_port) for item in found] == [
        ("127.0.0.20", 8000, 8000),
        ("127.0.0.20", 8001, 8000),
        ("127.0.0.21", 8000, 8000),
        ("127.0.0.21", 8001, 8000),
    ]
    assert "outbound|8000||chat.default.inference.local" in translated(mesh, gateway()).of_type(ENDPOINT)


def test_an_application_calls_a_pool_by_its_host_name() -> None:
    resources = translated(snapshot(POOL), sidecar(CaptureKind.LOOPBACK))
    table = route_pb2.RouteConfiguration.FromString(resources.of_type(ROUTE)["http_proxy"].body)
    found = {domain: host.routes[0].route.cluster for host in table.virtual_hosts for domain in host.domains}
    assert found["chat.default.inference.local:8000"] == "outbound|8000||chat.default.inference.local"
    assert not [domain for domain in found if domain.partition(":")[0] in ("chat", "chat.default")]


@pytest.mark.parametrize(("log", "settings"), [("/dev/stdout", ""), ("", '{"metadata": "none"}')])
def test_the_filter_is_told_only_whether_anybody_reads_of_requests(log: str, settings: str) -> None:
    mesh = snapshot(SERVICE, POLICY)
    resources = translated(replace(mesh, mesh=replace(mesh.mesh, access_log_file=log)), gateway())
    (resource,) = resources.of_type(LISTENER).values()
    manager = hcm_pb2.HttpConnectionManager()
    listener_pb2.Listener.FromString(resource.body).filter_chains[0].filters[0].typed_config.Unpack(manager)
    config = dynamic_modules_pb2.DynamicModuleFilter()
    assert manager.http_filters[-2].typed_config.Unpack(config)
    told = wrappers_pb2.StringValue()
    assert config.filter_config.Unpack(told) is bool(settings)
    assert (config.filter_name, told.value) == ("pool", settings)


def versions(resources: ResourceSet) -> dict[tuple[str, str], str]:
    return {(kind, name): item.version for kind, found in resources.by_type.items() for name, item in found.items()}


RULE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ask}
spec:
  hosts: [ask.example]
  gateways: [istio-system/door]
  http:
  - match: [{uri: {prefix: /own}}]
    route: [{destination: {host: chat, port: {number: 8000}}}]
    retries: {attempts: 3, retryOn: reset}
  - match: [{uri: {prefix: /both}}]
    route:
    - {destination: {host: plain}, weight: 50}
    - {destination: {host: chat, port: {number: 8000}}, weight: 50}
  - route: [{destination: {host: plain}}]
"""


def test_the_policys_retries_are_the_default_of_routes_to_its_target() -> None:
    def attempts(policy: str) -> list[tuple[int, str]]:
        resources = translated(snapshot(SERVICE, RULE, policy), gateway())
        (resource,) = resources.of_type(ROUTE).values()
        routes = route_pb2.RouteConfiguration.FromString(resource.body).virtual_hosts[0].routes
        return [(item.route.retry_policy.num_retries.value, item.route.retry_policy.retry_on) for item in routes]

    usual = (2, "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes")
    once = (1, "connect-failure,refused-stream,reset,retriable-status-codes")
    assert attempts(POLICY) == [(3, "reset"), usual, usual]
    assert attempts(POLICY + "  retries: {attempts: 1}\n") == [(3, "reset"), once, usual]
    assert attempts(POLICY + "  retries: {attempts: 0}\n") == [(3, "reset"), (0, ""), usual]


def test_the_policys_retries_hold_where_no_route_is_written() -> None:
    resources = translated(snapshot(SERVICE, POLICY + "  retries: {attempts: 0}\n"), sidecar(CaptureKind.LOOPBACK))
    table = route_pb2.RouteConfiguration.FromString(resources.of_type(ROUTE)["http_proxy"].body)
    found = {host.name: host.routes[0].route for host in table.virtual_hosts}
    assert not found["chat.default.svc.cluster.local:8000"].HasField("retry_policy")
    assert found["plain.default.svc.cluster.local:80"].HasField("retry_policy")
