"""Documents and replicas become services with endpoints; what did not change stays the same object."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.registry.meshes import (
    Mesh,
    entry,
    meta,
    peer_authentication,
    pod,
    port,
    replica,
    service,
    virtual_service,
    workload,
    workload_entry,
)

from headrace.model.mesh import MeshConfig
from headrace.model.security import MtlsMode
from headrace.model.service import (
    DeclaredAddresses,
    DeclaredEndpoints,
    Endpoint,
    Health,
    InlineEndpoint,
    Protocol,
    Resolution,
)
from headrace.model.workload import Engine, WorkloadPort
from headrace.registry.observed import ReplicaState

CHAT = ("default", "chat.default.svc.cluster.local")
ME = "spiffe://cluster.local/ns/default/sa/default"


def places(mesh: Mesh, key: tuple[str, str] = CHAT) -> list[tuple[str, int, int]]:
    """(address, port, service port) of a service's endpoints."""
    return [(item.address, item.port, item.service_port) for item in mesh.snapshot().endpoints[key]]


def only(mesh: Mesh, key: tuple[str, str] = CHAT) -> Endpoint:
    (found,) = mesh.snapshot().endpoints[key]
    return found


def test_a_service_has_the_ready_replicas_that_its_selector_selects() -> None:
    chat, other = workload("chat"), workload("other")
    mesh = Mesh().put(service("chat", port(80, target=8000)), chat, other)
    mesh.observe(
        replica(chat, 0, "127.0.0.2"),
        replica(chat, 1, "127.0.0.3", ReplicaState.STARTING),
        replica(chat, 2, "127.0.0.4", ReplicaState.UNREADY),
        replica(chat, 3, "127.0.0.5", ReplicaState.DRAINING),
        replica(chat, 4, "127.0.0.6", ReplicaState.FAILED),
        replica(other, 0, "127.0.0.7"),
    )
    found = mesh.snapshot().endpoints["default", "chat.default.svc.cluster.local"]
    assert [(item.address, item.health) for item in found] == [
        ("127.0.0.2", Health.HEALTHY),
        ("127.0.0.4", Health.DRAINING),
        ("127.0.0.5", Health.DRAINING),
    ]


def test_an_endpoint_says_who_it_is() -> None:
    chat = workload("chat", app="chat", version="v1", account="chatter")
    mesh = Mesh().put(service("chat"), chat).observe(replica(chat, 0, "127.0.0.2"))
    found = only(mesh)
    assert found.identity == "spiffe://cluster.local/ns/default/sa/chatter"
    assert found.mtls
    assert found.labels == (("app", "chat"), ("version", "v1"))
    assert (found.workload, found.namespace) == ("chat", "default")


@pytest.mark.parametrize(("target", "expected"), [(0, 8080), (9000, 9000), ("api", 7000)])
def test_target_port_by_default_number_and_name(target: int | str, expected: int) -> None:
    chat = workload("chat", WorkloadPort(7000, "api"))
    mesh = Mesh().put(service("chat", port(8080, target=target)), chat).observe(replica(chat, 0, "127.0.0.2"))
    assert places(mesh) == [("127.0.0.2", expected, 8080)]


def test_a_port_name_that_the_workload_does_not_have_gives_no_endpoint() -> None:
    chat = workload("chat", WorkloadPort(7000, "api"))
    mesh = Mesh().put(service("chat", port(80, target="nope")), chat).observe(replica(chat, 0, "127.0.0.2"))
    assert places(mesh) == []


def test_a_replica_of_another_namespace_is_not_selected() -> None:
    chat = workload("chat", namespace="elsewhere")
    mesh = Mesh().put(service("chat"), chat).observe(replica(chat, 0, "127.0.0.2"))
    assert places(mesh) == []


def test_pods_and_workload_entries_stand_behind_a_service() -> None:
    mesh = Mesh().put(
        service("chat", port(80, target="web", name="http")),
        pod("chat", "10.0.0.1", WorkloadPort(8000, "web")),
        workload_entry(
            "vm", "10.0.0.2", WorkloadPort(9000, "http"), labels={"app": "chat"}, weight=3, locality="r/z/s"
        ),
        replace(pod("late", "10.0.0.3", WorkloadPort(8000, "web"), labels={"app": "chat"}), ready=False),
    )
    found = mesh.snapshot().endpoints[CHAT]
    assert [(item.address, item.port) for item in found] == [("10.0.0.1", 8000), ("10.0.0.2", 9000)]
    assert [(item.mtls, item.identity) for item in found] == [(True, ME), (False, "")]
    assert (found[1].weight, found[1].locality) == (3, "r/z/s")


def test_endpoints_documents_add_what_pods_do_not_describe() -> None:
    group = DeclaredAddresses(("10.1.0.1", "10.1.0.2"), (("http", 9000),))
    away = DeclaredAddresses(("10.1.0.9",), (("http", 9000),), ready=False)
    document = DeclaredEndpoints(meta("Endpoints", "chat"), "chat", (group, away))
    assert places(Mesh().put(service("chat", port(80, name="http"), selector={}), document)) == [
        ("10.1.0.1", 9000, 80),
        ("10.1.0.2", 9000, 80),
    ]
    mesh = Mesh().put(service("chat", port(80, name="http")), document)
    assert places(mesh.put(pod("chat", "10.1.0.1", WorkloadPort(80, "http")))) == [
        ("10.1.0.1", 80, 80),
        ("10.1.0.2", 9000, 80),
    ]


def test_a_service_entry_has_its_inline_endpoints() -> None:
    inline = InlineEndpoint("10.2.0.1", ports=(("web", 8443),), labels=(("version", "v1"),), weight=2)
    plain = InlineEndpoint("10.2.0.2")
    mesh = Mesh().put(entry("api.example.com", ports=(port(443, name="web"),), endpoints=(inline, plain)))
    key = ("default", "api.example.com")
    assert places(mesh, key) == [("10.2.0.1", 8443, 443), ("10.2.0.2", 443, 443)]


def test_a_dns_entry_without_endpoints_is_found_at_its_own_name() -> None:
    mesh = Mesh().put(entry("api.example.com", "b.example.com", resolution=Resolution.DNS))
    assert places(mesh, ("default", "api.example.com")) == [("api.example.com", 80, 80)]
    assert places(mesh, ("default", "b.example.com")) == [("b.example.com", 80, 80)]


def test_a_workload_selector_selects_workload_entries_pods_and_replicas() -> None:
    own = workload("own", app="api")
    mesh = Mesh().put(
        entry("api.example.com", workload_selector={"app": "api"}, external=False),
        workload_entry("vm", "10.0.0.2", labels={"app": "api"}),
        pod("p", "10.0.0.3", labels={"app": "api"}),
        own,
    )
    mesh.observe(replica(own, 0, "127.0.0.2"))
    found = [address for address, _, _ in places(mesh, ("default", "api.example.com"))]
    assert found == ["10.0.0.2", "10.0.0.3", "127.0.0.2"]


def test_external_name_is_a_name_to_resolve() -> None:
    mesh = Mesh().put(
        service("chat", selector={}, resolution=Resolution.DNS, external=True, external_name="up.example.com")
    )
    assert places(mesh) == [("up.example.com", 8000, 8000)]


def test_the_engine_of_the_workload_is_the_services() -> None:
    mesh = Mesh().put(service("chat"), workload("chat", engine=Engine.VLLM), service("plain"), workload("plain"))
    services = mesh.snapshot().services
    assert services[CHAT[1]][0].engine == "vllm"
    assert services["plain.default.svc.cluster.local"][0].engine == ""


def test_a_port_that_refuses_tls_is_not_offered_it() -> None:
    chat = workload("chat", WorkloadPort(8000), WorkloadPort(9000))
    mesh = Mesh().put(service("chat", port(8000), port(9000)), chat).observe(replica(chat, 0, "127.0.0.2"))
    mesh.put(peer_authentication("own", MtlsMode.STRICT, selector={"app": "chat"}, ports=((9000, MtlsMode.DISABLE),)))
    assert [(item.port, item.mtls) for item in mesh.snapshot().endpoints[CHAT]] == [(8000, True), (9000, False)]


class TestAccounts:
    """SANs of mutual TLS come from documents, so that they stay when replicas go."""

    def test_of_the_workload_document_without_any_replica(self) -> None:
        mesh = Mesh().put(service("chat"), workload("chat"), workload("b", app="chat", account="b"))
        assert mesh.snapshot().accounts[CHAT] == ("spiffe://cluster.local/ns/default/sa/b", ME)

    def test_of_a_replica_that_still_runs_under_the_old_account(self) -> None:
        old = workload("chat", account="old")
        mesh = Mesh().put(service("chat"), workload("chat")).observe(replica(old, 0, "127.0.0.2"))
        assert "spiffe://cluster.local/ns/default/sa/old" in mesh.snapshot().accounts[CHAT]

    def test_under_every_trust_domain_of_the_mesh(self) -> None:
        mesh = Mesh(MeshConfig(trust_domain_aliases=("old.local",))).put(service("chat"), workload("chat"))
        assert mesh.snapshot().accounts[CHAT] == (ME, "spiffe://old.local/ns/default/sa/default")


class TestIdentity:
    """Unchanged parts are the previous snapshot's objects."""

    def mesh(self) -> Mesh:
        self.chat = workload("chat", engine=Engine.VLLM)
        self.route = virtual_service("chat")
        mesh = Mesh().put(service("chat"), self.chat, service("b"), workload("b"), self.route, entry("x.example.com"))
        return mesh.observe(replica(self.chat, 0, "127.0.0.2"), replica(self.chat, 1, "127.0.0.3"))

    def test_nothing_changed(self) -> None:
        mesh = self.mesh()
        first = mesh.snapshot()
        mesh.resources = dict(reversed(mesh.resources.items()))
        mesh.replicas = {name: replace(item) for name, item in mesh.replicas.items()}
        second = mesh.snapshot()
        assert second.same_but_endpoints(first)
        assert second.endpoints is first.endpoints

    def test_a_replica_that_goes_touches_its_service_only(self) -> None:
        mesh = self.mesh()
        first = mesh.snapshot()
        second = mesh.observe(replica(self.chat, 1, "127.0.0.3", ReplicaState.DRAINING)).snapshot()
        assert second.same_but_endpoints(first)
        assert {key for key in second.endpoints if second.endpoints[key] is not first.endpoints[key]} == {CHAT}
        assert [(item.address, item.health) for item in second.endpoints[CHAT]] == [
            ("127.0.0.2", Health.HEALTHY),
            ("127.0.0.3", Health.DRAINING),
        ]

    def test_a_replica_that_disappears(self) -> None:
        mesh = self.mesh()
        mesh.snapshot()
        mesh.replicas = {}
        assert mesh.snapshot().endpoints[CHAT] == ()

    def test_a_routing_change_touches_no_service_and_no_endpoint(self) -> None:
        mesh = self.mesh()
        first = mesh.snapshot()
        second = mesh.put(replace(self.route, export_to=(".",))).snapshot()
        assert second.services is first.services
        assert second.endpoints is first.endpoints
        assert second.accounts is first.accounts
        assert second.virtual_services != first.virtual_services

    def test_a_new_service_leaves_the_others_as_they_are(self) -> None:
        mesh = self.mesh()
        first = mesh.snapshot()
        second = mesh.put(service("new")).snapshot()
        for host, services in first.services.items():
            assert second.services[host] is services
        for key, endpoints in first.endpoints.items():
            assert second.endpoints[key] is endpoints

    def test_an_incremental_snapshot_equals_one_made_afresh(self) -> None:
        mesh = self.mesh()
        mesh.snapshot()
        for index in range(2, 6):
            mesh.observe(replica(self.chat, index, f"127.0.0.{index + 2}"))
            mesh.snapshot()
        mesh.observe(replica(self.chat, 0, "127.0.0.99"))
        step = mesh.snapshot()
        mesh.last = None
        fresh = mesh.snapshot()
        assert step.endpoints == fresh.endpoints
        assert step.accounts == fresh.accounts
        assert list(step.services) == list(fresh.services)


def test_the_oldest_document_has_a_host() -> None:
    older, younger = entry("a.example.com", ports=(port(80),)), entry("a.example.com", "b.example.com")
    younger = replace(younger, meta=replace(younger.meta, key=replace(younger.meta.key, name="other")))
    snapshot = Mesh().put(younger, older).snapshot()
    (found,) = snapshot.services["a.example.com"]
    assert found.meta is older.meta
    assert len(snapshot.services["b.example.com"]) == 1


def test_the_same_host_in_two_namespaces_is_two_services() -> None:
    snapshot = Mesh().put(entry("a.example.com"), entry("a.example.com", namespace="other")).snapshot()
    assert [item.namespace for item in snapshot.services["a.example.com"]] == ["default", "other"]


def test_udp_is_kept_as_a_port_but_nothing_else_happens() -> None:
    chat = workload("chat")
    mesh = Mesh().put(service("chat", port(53, Protocol.UDP)), chat).observe(replica(chat, 0, "127.0.0.2"))
    assert places(mesh) == [("127.0.0.2", 53, 53)]


def test_entries_of_one_namespace_for_one_host_make_one_service() -> None:
    web = entry("a.example.com", ports=(port(80),), resolution=Resolution.DNS)
    safe = entry("a.example.com", ports=(port(443, Protocol.TLS), port(80, Protocol.TCP)), resolution=Resolution.DNS)
    safe = replace(safe, meta=meta("networking.istio.io/ServiceEntry", "safe"))
    far = entry("a.example.com", ports=(port(81),), namespace="far")
    other = replace(entry("a.example.com", ports=(port(82),)), meta=meta("networking.istio.io/ServiceEntry", "other"))
    mesh = Mesh().put(web, safe, far, other)
    key = ("default", "a.example.com")
    one, two = mesh.snapshot().services["a.example.com"]
    assert [(item.number, item.protocol) for item in one.ports] == [(80, "HTTP"), (443, "TLS")]
    assert [item.number for item in two.ports] == [81]
    assert places(mesh, key) == [("a.example.com", 80, 80), ("a.example.com", 443, 443)]
    before = mesh.snapshot()
    assert mesh.put(workload("more")).snapshot().services["a.example.com"] is before.services["a.example.com"]
    mesh.drop(web)
    assert [item.number for item in mesh.snapshot().services["a.example.com"][0].ports] == [443, 80]


def test_ports_that_are_others_where_a_gateway_listens() -> None:
    door = workload("door", WorkloadPort(443, "tls"))
    observed = replace(replica(door, 0, "127.0.0.1"), port_map=((443, 8443),))
    assert places(
        Mesh().put(service("door", port(443)), door).observe(observed), ("default", service("door").host)
    ) == [("127.0.0.1", 8443, 443)]
