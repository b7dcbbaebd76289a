"""What loopback capture cannot do is said, and nothing else is."""

from __future__ import annotations

from tests.unit.registry.meshes import Mesh, meta, to, virtual_service

from headrace.app.control_plane.capture_notes import loopback_notes
from headrace.model.service import Protocol
from headrace.model.sidecar import EgressHost, EgressListener, IngressListener, Sidecar
from headrace.model.traffic import HttpRoute, L4Route


def sidecar(
    name: str, *, egress: tuple[EgressListener, ...] = (), ingress: tuple[IngressListener, ...] = ()
) -> Sidecar:
    return Sidecar(meta("networking.istio.io/Sidecar", name, "shop"), egress=egress, ingress=ingress)


def test_listeners_of_their_own_and_rules_for_connections_are_named() -> None:
    hosts = (EgressHost("*", "*"),)
    mesh = Mesh().put(sidecar("plain", egress=(EgressListener(hosts),), ingress=(IngressListener(80, Protocol.HTTP),)))
    mesh.put(virtual_service("web", HttpRoute(route=(to("web"),))))
    assert loopback_notes(mesh.snapshot()) == []
    mesh.put(sidecar("bound", egress=(EgressListener(hosts, 3306, Protocol.MYSQL, captured=False),)))
    mesh.put(sidecar("front", ingress=(IngressListener(80, Protocol.HTTP, bind="10.0.0.1"),)))
    tcp = virtual_service("db", HttpRoute(route=(to("db"),)))
    mesh.put(type(tcp)(tcp.meta, tcp.hosts, tcp.gateways, (), tcp=(L4Route((), (to("db"),)),)))
    listeners, rules = loopback_notes(mesh.snapshot())
    assert listeners.endswith("Sidecar shop/bound, shop/front")
    assert rules.endswith("VirtualService default/db")
