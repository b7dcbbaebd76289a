"""What a change costs: only what depends on it is built again, and everything else stays the same object."""

from __future__ import annotations

import gc
import time
from dataclasses import replace

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from tests.unit.envoy.translate.outbound_rig import Rig
from tests.unit.registry.meshes import (
    Mesh,
    aged_like,
    entry,
    meta,
    port,
    replica,
    rule,
    service,
    sidecar,
    subset,
    to,
    virtual_service,
    workload,
)

from headrace.envoy.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE, TYPES, ResourceSet, XdsResource
from headrace.envoy.validation import refusal
from headrace.model.destination import OutlierDetection, TrafficPolicy
from headrace.model.envoy_filter import ApplyTo, EnvoyFilter, Operation, Patch
from headrace.model.mesh import MeshConfig
from headrace.model.policy import PolicyScope
from headrace.model.proxy import Capture, CaptureKind
from headrace.model.service import InlineEndpoint, Protocol, Resolution
from headrace.model.telemetry import MeshTracing
from headrace.model.traffic import HttpRoute
from headrace.registry.observed import ReplicaState

SERVICES = 1000
REPLICAS = 10


def changed(before: ResourceSet, after: ResourceSet) -> dict[str, list[str]]:
    """Names of the resources that are not the same objects, by the last word of their type."""
    found = {}
    for kind in TYPES:
        old, new = before.of_type(kind), after.of_type(kind)
        names = sorted(name for name in {*old, *new} if old.get(name) is not new.get(name))
        if names:
            found[kind.rpartition(".")[2]] = names
    return found


class Large:
    """1,000 services of 10 replicas, each with a VirtualService and a DestinationRule."""

    def __init__(self) -> None:
        self.mesh = Mesh()
        items = []
        for at in range(SERVICES):
            name = f"s{at}"
            own = workload(name, app=name, version="v1")
            route = virtual_service(name, HttpRoute(route=(to(name, "v1", 90), to(name, "v2", 10))))
            items += [service(name), own, route, rule(name, subset("v1"), subset("v2"))]
            self.mesh.replicas.update(
                (item.id, item)
                for item in (replica(own, index, f"127.{index}.{at // 250}.{at % 250}") for index in range(REPLICAS))
            )
            if at == 7:
                self.seven, self.route = own, route
        self.mesh.put(*items)
        self.rig = Rig(self.mesh)


@pytest.fixture(scope="module")
def large() -> Large:
    return Large()


class TestThousandServices:
    def test_all_of_it(self, large: Large) -> None:
        started = time.monotonic()
        found = large.rig.resources()
        took = time.monotonic() - started
        built = large.rig.built
        assert (built["clusters"], built["assignments"], built["virtual host"]) == (SERVICES, SERVICES, SERVICES)
        assert len(found.of_type(CLUSTER)) == 3 * SERVICES + 3
        assert len(found.of_type(ENDPOINT)) == 3 * SERVICES
        assert took < 20, f"a full translation took {took:.1f} s"  # measured: 1.2 s; the bound is for a busy machine

    def test_nothing_changed(self, large: Large) -> None:
        before = large.rig.resources()
        large.mesh.put()
        assert large.rig.resources() is before
        large.rig.start_counting()
        large.rig.resources()
        assert large.rig.built == {}

    def test_one_virtual_service(self, large: Large) -> None:
        before = large.rig.resources()
        large.rig.start_counting()
        rules = HttpRoute(route=(to("s7", "v1", 80), to("s7", "v2", 20)))
        large.mesh.put(aged_like(large.route, rules))
        after = large.rig.resources()
        assert changed(before, after) == {"RouteConfiguration": ["8000"]}
        built = large.rig.built
        assert built["routes"] == 1
        assert built["virtual host"] == 1
        assert not {"clusters", "assignments", "outbound listener", "inbound"} & set(built)
        assert after.of_type(CLUSTER) is before.of_type(CLUSTER)
        assert after.of_type(ENDPOINT) is before.of_type(ENDPOINT)

    def test_the_endpoints_of_one_service(self, large: Large) -> None:
        before = large.rig.resources()
        large.rig.start_counting()
        large.mesh.observe(replica(large.seven, 3, "127.3.0.7", ReplicaState.DRAINING))
        after = large.rig.resources()
        names = sorted(f"outbound|8000|{part}|s7.default.svc.cluster.local" for part in ("", "v1", "v2"))
        assert changed(before, after) == {"ClusterLoadAssignment": names}
        assert large.rig.built == {"assignments": 1, "resource set": 1}
        for kind in (CLUSTER, LISTENER, ROUTE):
            assert after.of_type(kind) is before.of_type(kind)

    def test_one_destination_rule(self, large: Large) -> None:
        before = large.rig.resources()
        large.rig.start_counting()
        (old,) = [item for item in large.mesh.snapshot().destination_rules if item.host.startswith("s9.")]
        large.mesh.put(replace(old, policy=TrafficPolicy(outlier_detection=OutlierDetection())))
        found = changed(before, large.rig.resources())
        assert all("|s9." in name for kind in found for name in found[kind] if kind != "RouteConfiguration")
        built = large.rig.built
        assert (built["clusters"], built["assignments"], built["routes"]) == (1, 1, 1)


class TestSharing:
    def rig(self) -> Rig:
        self.chat = workload("chat")
        mesh = Mesh().put(service("chat"), self.chat, service("db", port(5432, Protocol.TCP), addresses=("10.0.0.5",)))
        return Rig(mesh.observe(replica(self.chat, 0, "127.0.0.2")))

    def test_replicas_of_a_workload_share_every_mapping(self) -> None:
        rig = self.rig()
        one, two = (rig.resources(sidecar(f"chat-{at}", workload="chat", address=f"10.0.0.{at}")) for at in (1, 2))
        for kind in (CLUSTER, ENDPOINT, LISTENER, ROUTE):
            assert one.of_type(kind) is two.of_type(kind)

    def test_under_loopback_they_share_all_but_listeners_and_ports(self) -> None:
        rig = self.rig()
        proxies = [
            sidecar(
                f"chat-{at}",
                workload="chat",
                address=f"127.0.0.{at}",
                capture=Capture(CaptureKind.LOOPBACK, 15001, "user:{SHA}x", ((8000, 9000 + at),)),
            )
            for at in (1, 2)
        ]
        one, two = (rig.resources(proxy) for proxy in proxies)
        assert one.of_type(ENDPOINT) is two.of_type(ENDPOINT)
        assert one.of_type(ROUTE) is two.of_type(ROUTE)
        differing = changed(one, two)
        assert set(differing) == {"Listener", "Cluster"}
        assert differing["Cluster"] == ["inbound|8000||"]

    def test_other_namespaces_share_clusters_and_assignments(self) -> None:
        rig = self.rig()
        one, two = rig.resources(), rig.resources(sidecar(namespace="other"))
        chat = "outbound|8000||chat.default.svc.cluster.local"
        assert one.of_type(CLUSTER)[chat] is two.of_type(CLUSTER)[chat]
        assert one.of_type(ENDPOINT)[chat] is two.of_type(ENDPOINT)[chat]

    def test_names_of_a_dns_service_are_part_of_its_cluster(self) -> None:
        inline = (InlineEndpoint("a.example"),)
        old = entry("api.example", resolution=Resolution.DNS, endpoints=inline)
        rig = Rig(Mesh().put(old, service("chat")))
        before = rig.resources()
        rig.mesh.put(replace(old, endpoints=(InlineEndpoint("b.example"),)))
        after = rig.resources()
        assert changed(before, after)["Cluster"] == ["outbound|80||api.example"]

    def test_a_service_that_goes_takes_its_resources_along(self) -> None:
        rig = self.rig()
        gone = service("gone")
        rig.mesh.put(gone)
        before = rig.resources()
        rig.mesh.drop(gone)
        after = rig.resources()
        assert "outbound|8000||gone.default.svc.cluster.local" in before.of_type(CLUSTER)
        for kind in (CLUSTER, ENDPOINT):
            assert not [name for name in after.of_type(kind) if "gone" in name]


class TestTraced:
    """Spans say whose they are, so that each workload has listeners of its own; nothing else is made for each."""

    def rig(self) -> Rig:
        mesh = Mesh(MeshConfig(tracing=MeshTracing(enabled=True)))
        items = (item for name in ("chat", "docs") for item in (service(name), workload(name)))
        return Rig(mesh.put(*items, virtual_service("chat")))

    @pytest.mark.parametrize(
        "capture",
        [
            Capture(),
            Capture(own_namespace=True),
            Capture(CaptureKind.LOOPBACK, 15001, "user:{SHA}x", ((8000, 9000),)),
        ],
    )
    def test_workloads_share_all_but_listeners(self, capture: Capture) -> None:
        rig = self.rig()
        one, two = (
            rig.resources(sidecar("one", workload=name, address="127.0.0.2", capture=capture))
            for name in ("chat", "docs")
        )
        differing = changed(one, two)
        differing.pop("Listener")
        assert all("inbound" in name.lower() for names in differing.values() for name in names), differing
        built = rig.built
        assert {built.get(kind, 1) for kind in ("outbound plan", "port tables", "headless names", "names")} == {1}

    def test_a_route_changes_no_listener(self) -> None:
        rig = self.rig()
        before = rig.resources()
        rig.start_counting()
        rig.mesh.put(virtual_service("chat", HttpRoute(route=(to("docs"),))))
        assert changed(before, rig.resources()) == {"RouteConfiguration": ["8000"]}
        assert not {"outbound listener", "virtual outbound", "inbound"} & set(rig.built)


def test_patched_sets_of_the_past_are_forgotten() -> None:
    chat = workload("fleeting")
    value = cluster_pb2.Cluster(alt_stat_name="x").SerializeToString()
    patch = Patch(ApplyTo.CLUSTER, Operation.MERGE, value)
    filters = EnvoyFilter(meta("EnvoyFilter", "x"), PolicyScope(), 0, (patch,))
    rig = Rig(Mesh().put(service("fleeting"), chat, filters))
    for step in range(1, 30):
        rig.mesh.observe(replica(chat, 0, f"127.0.0.{step}"))
        rig.resources()
    gc.collect()
    kept = [item for item in gc.get_objects() if isinstance(item, XdsResource) and item.type_url == ENDPOINT]
    assert sum("fleeting" in item.name for item in kept) == 1


def test_a_life_of_changes_does_not_fill_the_memory() -> None:
    chat = workload("chat")
    route, own = virtual_service("chat"), rule("chat", subset("v1"))
    rig = Rig(Mesh().put(service("chat"), chat, route, own))
    sizes = set()
    for step in range(1, 30):
        weights = HttpRoute(route=(to("chat", "v1", step), to("chat", "v2", 100 - step)))
        policy = TrafficPolicy(outlier_detection=OutlierDetection(consecutive_5xx_errors=step))
        rig.mesh.put(aged_like(route, weights), replace(own, policy=policy))
        rig.mesh.observe(replica(chat, 0, f"127.0.0.{step}"))
        rig.resources()
        sizes.add(len(rig.translator.memo))
    assert len(sizes) == 1, sizes


def test_the_real_envoy_accepts_a_mesh_of_everything() -> None:
    mesh = Mesh().put(
        service("chat", addresses=("10.0.0.1",)),
        service("db", port(5432, Protocol.TCP), addresses=("10.0.0.5",)),
        service("plain", port(7000, Protocol.TCP)),
        service("sniffed", port(7001, Protocol.UNDECLARED), addresses=("10.0.0.6",)),
        service("grpc", port(7002, Protocol.GRPC)),
        entry("tls.example", ports=(port(443, Protocol.TLS),), resolution=Resolution.DNS),
        entry("*.wild.example", ports=(port(443, Protocol.HTTPS), port(80)), resolution=Resolution.NONE),
        entry("robin.example", resolution=Resolution.DNS_ROUND_ROBIN),
        entry("v6.example", addresses=("fd00::1",), endpoints=(InlineEndpoint("fd00::2"),)),
        rule("chat", subset("v1"), policy=TrafficPolicy(outlier_detection=OutlierDetection(consecutive_5xx_errors=1))),
        virtual_service("chat", HttpRoute(route=(to("chat", "v1"),)), hosts=("chat", "www.example.com")),
    )
    rig = Rig(mesh)
    assert refusal({"sidecar": rig.resources(), "other": rig.resources(sidecar(namespace="other"))}) is None
