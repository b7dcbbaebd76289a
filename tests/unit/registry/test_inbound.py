"""The ports of a workload, with the protocol that the services in front of it declare."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.registry.meshes import Mesh, meta, pod, port, service, sidecar, workload

from headrace.model.proxy import ProxyKind
from headrace.model.service import Protocol
from headrace.model.workload import StaticWorkload, WorkloadPort
from headrace.registry.inbound import fronting_ports, services_before, workload_ports


def ports(mesh: Mesh, name: str = "chat", **labels: str) -> list[tuple[int, str]]:
    found = workload_ports(mesh.snapshot(), "default", name, labels or {"app": "chat"})
    return [(item.number, item.protocol) for item in found]


def test_by_the_services_target_ports() -> None:
    mesh = Mesh().put(
        service("chat", port(80, Protocol.GRPC, target="api"), port(90, Protocol.TCP, target=9000)),
        pod("chat", "10.0.0.1", WorkloadPort(7000, "api")),
    )
    assert ports(mesh) == [(7000, "GRPC"), (9000, "TCP")]


def test_the_oldest_service_settles_the_protocol() -> None:
    older = service("z", selector={"app": "chat"})
    younger = service("b", port(1, Protocol.TCP, target=8000), selector={"app": "chat"})
    assert ports(Mesh().put(younger, older)) == [(8000, "HTTP")]


def test_a_workload_document_adds_its_own_ports() -> None:
    mesh = Mesh().put(service("chat"), workload("chat", WorkloadPort(8000), WorkloadPort(9090, "metrics", "http")))
    assert [number for number, _ in ports(mesh)] == [8000, 9090]


def test_services_that_select_others_do_not_count() -> None:
    assert ports(Mesh().put(service("other"), service("none", selector={}))) == []


def test_ports_of_the_services_before_a_gateway() -> None:
    labels = {"istio": "ingressgateway"}
    mesh = Mesh().put(
        service("z", port(80, target=8080), port(443, target="tls"), port(9, target="nothing"), selector=labels),
        service("a", port(80, target=1), port(81), selector=labels),
        pod("gw", "10.0.0.1", WorkloadPort(8443, "tls"), labels=labels),
    )
    gateway = replace(sidecar("gw", workload="gw", **labels), kind=ProxyKind.GATEWAY)
    before = services_before(mesh.snapshot(), gateway)
    assert [(found.name, ports) for found, ports in before] == [
        ("z", ((80, 8080), (443, 8443))),
        ("a", ((80, 1), (81, 81))),
    ]
    assert fronting_ports(before) == ((80, 8080), (81, 81), (443, 8443))


def test_a_workload_entrys_own_ports_by_the_names_of_the_services() -> None:
    vm = StaticWorkload(
        meta("networking.istio.io/WorkloadEntry", "chat", "default"),
        "10.0.0.1",
        {"app": "chat"},
        ports=(WorkloadPort(9090, "web"),),
    )
    mesh = Mesh().put(service("chat", port(80, target=8080, name="web"), port(81, target=8081, name="more")), vm)
    assert ports(mesh) == [(8081, "HTTP"), (9090, "HTTP")]
