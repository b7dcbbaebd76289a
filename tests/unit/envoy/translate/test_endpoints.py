"""Load assignments: subsets, localities, priorities, metadata."""

from __future__ import annotations

import pytest
from tests.unit.envoy.translate.outbound_rig import Rig
from tests.unit.registry.meshes import (
    Mesh,
    entry,
    pod,
    port,
    replica,
    rule,
    service,
    sidecar,
    subset,
    workload,
    workload_entry,
)

from headrace.envoy.translate.endpoints import load_assignment
from headrace.envoy.translate.localities import ANYWHERE, groups_of
from headrace.model.destination import OutlierDetection, TrafficPolicy
from headrace.model.service import Endpoint, InlineEndpoint, Resolution

CHAT = "outbound|8000||chat.default.svc.cluster.local"


def addresses(message: object) -> list[str]:
    return [
        item.endpoint.address.socket_address.address
        for group in message.endpoints  # type: ignore[attr-defined]
        for item in group.lb_endpoints
    ]


def test_a_subset_has_the_endpoints_with_its_labels() -> None:
    one, two = workload("one", app="chat", version="v1"), workload("two", app="chat", version="v2")
    mesh = Mesh().put(service("chat"), one, two, rule("chat", subset("v1"), subset("v2"), subset("v3")))
    mesh.observe(replica(one, 0, "127.0.0.2"), replica(two, 0, "127.0.0.3"))
    found = Rig(mesh).endpoints()
    assert addresses(found[CHAT]) == ["127.0.0.2", "127.0.0.3"]
    assert addresses(found[CHAT.replace("||", "|v1|")]) == ["127.0.0.2"]
    assert addresses(found[CHAT.replace("||", "|v2|")]) == ["127.0.0.3"]
    assert addresses(found[CHAT.replace("||", "|v3|")]) == []


def test_each_port_has_its_own() -> None:
    chat = workload("chat")
    mesh = Mesh().put(service("chat", port(80, target=8000), port(81, target=8001)), chat)
    mesh.observe(replica(chat, 0, "127.0.0.2"))
    found = Rig(mesh).endpoints()["outbound|81||chat.default.svc.cluster.local"]
    assert found.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value == 8001


def test_metadata_says_who_speaks_mutual_tls_and_who_it_is() -> None:
    known = Endpoint("10.0.0.1", 1, 1, (("app", "chat"), ("version", "v1")), "default", "chat-v1", "", True)
    plain = Endpoint("10.0.0.2", 1, 1)
    one, two = load_assignment("c", groups_of([known, plain], ANYWHERE, None, False)).endpoints[0].lb_endpoints
    assert one.metadata.filter_metadata["envoy.transport_socket_match"]["tlsMode"] == "istio"
    assert one.metadata.filter_metadata["istio"]["workload"] == "chat-v1;default;chat;v1;Kubernetes"
    assert not two.metadata.filter_metadata


def test_a_unix_socket_is_a_pipe() -> None:
    found = load_assignment("c", groups_of([Endpoint("unix:///run/x.sock", 0, 80)], ANYWHERE, None, False))
    assert found.endpoints[0].lb_endpoints[0].endpoint.address.pipe.path == "/run/x.sock"


def test_a_host_name_is_no_endpoint_of_an_assignment() -> None:
    mesh = Mesh().put(service("chat"), pod("a", "10.0.0.1", labels={"app": "chat"}))
    mesh.put(workload_entry("b", "vm.example", labels={"app": "chat"}))
    assert addresses(Rig(mesh).endpoints()[CHAT]) == ["10.0.0.1"]


def test_a_static_wildcard_entry_has_endpoints() -> None:
    mesh = Mesh().put(entry("*.example.com", endpoints=(InlineEndpoint("10.0.0.1"),)))
    assert addresses(Rig(mesh).endpoints()["outbound|80||*.example.com"]) == ["10.0.0.1"]


class TestLocality:
    @pytest.mark.parametrize("ejects", [True, False])
    def test_only_where_sick_ones_are_noticed(self, ejects: bool) -> None:
        policy = TrafficPolicy(outlier_detection=OutlierDetection() if ejects else None)
        mesh = Mesh().put(
            service("chat"),
            pod("a", "10.0.0.1", labels={"app": "chat"}, locality="eu/a"),
            pod("b", "10.0.0.2", labels={"app": "chat"}, locality="us/a"),
            rule("chat", policy=policy),
        )
        here = sidecar(app="client", **{"topology.kubernetes.io/region": "eu"})
        assert [item.priority for item in Rig(mesh).endpoints(here)[CHAT].endpoints] == [0, 1 if ejects else 0]

    def test_of_endpoints_that_are_names(self) -> None:
        far = entry(
            "out.example.com",
            resolution=Resolution.DNS,
            endpoints=(InlineEndpoint("a.example", locality="us/a"), InlineEndpoint("b.example", locality="eu/a")),
        )
        mesh = Mesh().put(far, rule(far.hosts[0], policy=TrafficPolicy(outlier_detection=OutlierDetection())))
        rig = Rig(mesh)
        for region, ranks in (("eu", {"eu": 0, "us": 1}), ("us", {"us": 0, "eu": 1})):
            here = sidecar(app="client", **{"topology.kubernetes.io/region": region})
            groups = rig.clusters(here)["outbound|80||out.example.com"].load_assignment.endpoints
            assert {group.locality.region: group.priority for group in groups} == ranks
