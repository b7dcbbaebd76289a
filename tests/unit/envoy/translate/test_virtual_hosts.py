"""Route tables of sidecars: names, domains, whose VirtualService speaks."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.route.v3 import route_pb2
from tests.unit.envoy.translate.outbound_rig import Rig
from tests.unit.registry.meshes import Mesh, entry, port, service, sidecar, to, virtual_service

from headrace.envoy.translate.domains import service_domains
from headrace.envoy.translate.virtual_hosts import catch_all, port_tables, virtual_host_bytes
from headrace.model.mesh import MeshConfig, OutboundMode
from headrace.model.service import Protocol, Resolution
from headrace.model.traffic import DirectResponse, HttpMatch, HttpRoute, MatchKind, StringMatch

CHAT = "chat.default.svc.cluster.local"


def answers(status: int, **more: Any) -> HttpRoute:
    return HttpRoute(direct_response=DirectResponse(status), **more)


def spoken(rig: Rig, number: int = 8000) -> dict[str, int]:
    """For every virtual host of a port the status that its first route answers (0: it forwards)."""
    found = rig.hosts(number).items()
    return {name.rpartition(":")[0] or name: host.routes[0].direct_response.status for name, host in found}


class TestDomains:
    def test_in_the_same_namespace(self) -> None:
        assert service_domains(service("chat", addresses=("10.0.0.1", "fd00::1")), "default") == (
            CHAT,
            f"{CHAT}.",
            "chat",
            "chat.default.svc",
            "chat.default",
            "10.0.0.1",
            "[fd00::1]",
        )

    def test_in_another_namespace(self) -> None:
        found = service_domains(service("chat"), "other")
        assert found == (CHAT, f"{CHAT}.", "chat.default", "chat.default.svc")

    def test_headless_pods_have_names_too(self) -> None:
        assert f"*.{CHAT}" in service_domains(service("chat", headless=True), "default")

    def test_of_an_entry(self) -> None:
        rig = Rig(Mesh().put(entry("api.example.com", ports=(port(8000),), addresses=("10.0.0.9", "10.9.0.0/16"))))
        domains = rig.hosts(8000)["api.example.com:8000"].domains
        assert list(domains) == ["api.example.com", "api.example.com.", "10.0.0.9"]

    def test_one_domain_belongs_to_one_host_and_full_names_come_first(self) -> None:
        mesh = Mesh().put(service("chat"), entry("chat", "chat.default", ports=(port(8000),)))
        hosts = Rig(mesh).hosts(8000)
        assert "chat" not in hosts[f"{CHAT}:8000"].domains
        assert hosts["chat:8000"].domains[0] == "chat"
        every = [domain for host in hosts.values() for domain in host.domains]
        assert len(every) == len(set(every))


class TestTables:
    def test_one_for_every_port_that_may_carry_http(self) -> None:
        mesh = Mesh().put(
            service("a", port(8000)),
            service("b", port(9000, Protocol.GRPC)),
            service("c", port(7000, Protocol.UNDECLARED)),
            service("d", port(6000, Protocol.TCP)),
        )
        assert sorted(Rig(mesh).routes()) == ["7000", "8000", "9000"]

    def test_settings(self) -> None:
        table = Rig(Mesh().put(service("chat"))).routes()["8000"]
        assert table.ignore_port_in_host_matching
        assert table.HasField("validate_clusters")
        assert not table.validate_clusters.value
        assert table.max_direct_response_body_size_bytes.value == 1024 * 1024
        assert all(host.include_request_attempt_count for host in table.virtual_hosts)

    def test_unknown_hosts_pass_or_are_refused(self) -> None:
        found = Rig(Mesh().put(service("chat"))).hosts(8000)["allow_any"]
        assert list(found.domains) == ["*"]
        assert found.routes[0].route.cluster == "PassthroughCluster"
        closed = Mesh(MeshConfig(outbound_mode=OutboundMode.REGISTRY_ONLY)).put(service("chat"))
        assert Rig(closed).hosts(8000)["block_all"].routes[0].direct_response.status == 502

    def test_a_port_without_protocol_at_an_own_address_has_a_table_of_its_own(self) -> None:
        mesh = Mesh().put(service("chat", port(8000, Protocol.UNDECLARED), addresses=("10.0.0.1",)))
        (host,) = Rig(mesh).routes()[f"{CHAT}:8000"].virtual_hosts
        assert list(host.domains) == ["*"]
        assert host.routes[0].route.cluster == f"outbound|8000||{CHAT}"

    def test_names_are_sorted_whatever_the_order_of_documents(self) -> None:
        items = [service(name) for name in "cab"]
        forward, backward = Rig(Mesh().put(*items)), Rig(Mesh().put(*reversed(items)))
        one, two = (rig.resources().by_type for rig in (forward, backward))
        assert {kind: {name: item.version for name, item in found.items()} for kind, found in one.items()} == {
            kind: {name: item.version for name, item in found.items()} for kind, found in two.items()
        }


class TestClaims:
    def test_the_oldest_has_the_host_and_the_younger_keeps_its_others(self) -> None:
        mesh = Mesh().put(service("a"), service("b"))
        mesh.put(virtual_service("old", answers(201), hosts=("a",)))
        mesh.put(virtual_service("young", answers(202), hosts=("a", "b")))
        found = spoken(Rig(mesh))
        assert (found["a.default.svc.cluster.local"], found["b.default.svc.cluster.local"]) == (201, 202)

    def test_one_without_a_route_for_the_caller_leaves_the_host_to_the_next(self) -> None:
        mesh = Mesh().put(service("a"))
        mesh.put(virtual_service("old", answers(201, matches=(HttpMatch(port=1),)), hosts=("a",)))
        mesh.put(virtual_service("young", answers(202), hosts=("a",)))
        assert spoken(Rig(mesh))["a.default.svc.cluster.local"] == 202

    def test_the_most_specific_name_wins(self) -> None:
        mesh = Mesh().put(service("a"), service("b"), service("c", namespace="other"))
        mesh.put(
            virtual_service("w1", answers(201), hosts=("*.cluster.local",)),
            virtual_service("w2", answers(202), hosts=("*.default.svc.cluster.local",)),
            virtual_service("w3", answers(203), hosts=("a",)),
        )
        found = spoken(Rig(mesh))
        assert [found[f"{name}.svc.cluster.local"] for name in ("a.default", "b.default", "c.other")] == [203, 202, 201]

    def test_a_bare_star_is_the_least_specific(self) -> None:
        mesh = Mesh().put(service("a"), service("b"))
        mesh.put(virtual_service("w", answers(201), hosts=("*",)), virtual_service("a", answers(202)))
        found = spoken(Rig(mesh))
        assert (found["a.default.svc.cluster.local"], found["b.default.svc.cluster.local"]) == (202, 201)

    def test_hosts_that_are_no_service_are_answered_on_port_80(self) -> None:
        mesh = Mesh().put(service("web", port(80)), service("chat"))
        mesh.put(virtual_service("out", answers(201), hosts=("www.example.com", "*.example.org")))
        rig = Rig(mesh)
        assert spoken(rig, 80)["www.example.com"] == 201
        assert spoken(rig, 80)["*.example.org"] == 201
        assert "www.example.com" not in spoken(rig)

    def test_and_on_ports_where_the_document_speaks_for_a_service(self) -> None:
        mesh = Mesh().put(service("chat"), virtual_service("out", answers(201), hosts=("chat", "alias.example")))
        assert spoken(Rig(mesh))["alias.example"] == 201

    def test_also_where_an_older_one_has_that_service(self) -> None:
        mesh = Mesh().put(service("chat"), virtual_service("old", answers(201), hosts=("chat",)))
        mesh.put(virtual_service("young", answers(202), hosts=("chat", "alias.example")))
        found = spoken(Rig(mesh))
        assert (found["chat.default.svc.cluster.local"], found["alias.example"]) == (201, 202)


class TestParts:
    def test_a_part_can_stand_under_other_domains(self) -> None:
        rig = Rig(Mesh().put(service("chat", addresses=("10.0.0.1",))))
        scope = rig.view().scope
        (table,) = port_tables(rig.translator.memo, scope)
        (part,) = table.hosts
        original = route_pb2.RouteConfiguration.FromString(virtual_host_bytes(part)).virtual_hosts[0]
        renamed = route_pb2.RouteConfiguration.FromString(virtual_host_bytes(part, ("x:1",), "x")).virtual_hosts[0]
        assert (original.name, renamed.name) == (f"{CHAT}:8000", "x")
        assert (list(original.domains), list(renamed.domains)) == (list(part.domains), ["x:1"])
        assert original.routes[0] == renamed.routes[0]

    @pytest.mark.parametrize("size", [0, 100, 127, 128, 129, 16383, 16384, 40000])
    def test_of_any_length(self, size: int) -> None:
        path = StringMatch(MatchKind.EXACT, "/" + "x" * size)
        mesh = Mesh().put(service("chat"))
        mesh.put(virtual_service("chat", answers(201, matches=(HttpMatch(uri=path),))))
        assert Rig(mesh).hosts(8000)[f"{CHAT}:8000"].routes[0].match.path == path.value

    def test_the_catch_all(self) -> None:
        assert catch_all(Rig().view().scope).name == "allow_any"


def test_short_names_of_another_namespace_do_not_reach_here() -> None:
    mesh = Mesh().put(service("chat"))
    hosts = Rig(mesh).hosts(8000, sidecar(namespace="other"))
    assert "chat" not in hosts[f"{CHAT}:8000"].domains


def test_a_wildcard_entry_is_matched_by_its_wildcard() -> None:
    mesh = Mesh().put(entry("*.example.com", resolution=Resolution.NONE, ports=(port(8000),)))
    host = Rig(mesh).hosts(8000)["*.example.com:8000"]
    assert host.domains[0] == "*.example.com"
    assert host.routes[0].route.cluster == "outbound|8000||*.example.com"


def test_a_virtual_service_for_a_service_of_another_namespace() -> None:
    host = "chat.far.svc.cluster.local"
    there = HttpRoute(route=(to("chat", "v1", namespace="far"),))
    mesh = Mesh().put(service("chat", namespace="far"), virtual_service("v", there, hosts=(host,)))
    (route,) = Rig(mesh).hosts(8000)["chat.far.svc.cluster.local:8000"].routes
    assert route.route.cluster == "outbound|8000|v1|chat.far.svc.cluster.local"
