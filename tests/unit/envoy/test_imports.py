"""What a Sidecar lets a proxy see, which Sidecar it is, and that what it cuts down is shared."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.registry.meshes import Mesh, entry, meta, port, rule, service, sidecar, to, virtual_service

from headrace.envoy.scopes import Scopes, view_of
from headrace.envoy.view import ProxyView, Scope
from headrace.model.destination import ConnectionPool
from headrace.model.mesh import OutboundMode
from headrace.model.service import Protocol
from headrace.model.sidecar import EgressHost, EgressListener, IngressListener, Sidecar
from headrace.model.traffic import Destination, HttpRoute


def seen(mesh: Mesh, namespace: str = "default", scopes: Scopes | None = None, **labels: str) -> ProxyView:
    return view_of(mesh.snapshot(), sidecar(namespace=namespace, **labels), scopes or Scopes())


def cut(*hosts: str, name: str = "s", namespace: str = "default", **more: Any) -> Sidecar:
    """A Sidecar with one listener for these hosts (`namespace/host`, `~` first to take out)."""
    listeners = more.pop("egress", (listens(*hosts),) if hosts else ())
    return Sidecar(meta("networking.istio.io/Sidecar", name, namespace), egress=listeners, **more)


def listens(*hosts: str, **more: Any) -> EgressListener:
    parts = [(text.removeprefix("~").partition("/"), text.startswith("~")) for text in hosts]
    return EgressListener(tuple(EgressHost(owner, host, out) for (owner, _, host), out in parts), **more)


def names(scope: Scope) -> list[str]:
    return [target.service.host.removesuffix(".svc.cluster.local") for target in scope.targets]


def three() -> Mesh:
    mesh = Mesh().put(service("chat"), service("far", namespace="other"))
    return mesh.put(entry("a.example.com", namespace="other"), entry("*.example.com"))


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        (("*/*",), ["*.example.com", "a.example.com", "chat.default", "far.other"]),
        (("./*",), ["*.example.com", "chat.default"]),
        (("other/*",), ["a.example.com", "far.other"]),
        (("*/a.example.com",), ["a.example.com"]),
        (("*/*.example.com",), ["*.example.com", "a.example.com"]),
        (("*/*.com", "~other/*"), ["*.example.com"]),
        (("*/*", "~*/*.example.com"), ["chat.default", "far.other"]),
        (("./a.example.com",), []),
    ],
)
def test_hosts_of_the_listener(hosts: tuple[str, ...], expected: list[str]) -> None:
    assert names(seen(three().put(cut(*hosts))).scope) == expected


def test_which_sidecar_is_for_a_proxy() -> None:
    mesh = three().put(cut("./*", name="all"), cut("other/*", name="root", namespace="istio-system"))
    mesh.put(cut("*/a.example.com", name="web", selector={"app": "web"}))
    mesh.put(cut("~*/*", name="late", selector={"app": "web"}))
    found = {
        "selected": seen(mesh, app="web"),
        "of the namespace": seen(mesh, app="x"),
        "of the mesh": seen(mesh, "other", app="web"),
    }
    chosen = {name: view.scope.sidecar.meta.name for name, view in found.items() if view.scope.sidecar}
    assert chosen == {"selected": "web", "of the namespace": "all", "of the mesh": "root"}


def test_a_virtual_service_brings_what_it_sends_requests_to_but_no_listener_for_it() -> None:
    mesh = three().put(virtual_service("chat", HttpRoute(route=(to("far.other.svc.cluster.local"),))))
    scope = seen(mesh.put(cut("./chat.default.svc.cluster.local"))).scope
    assert names(scope) == ["chat.default", "far.other"]
    assert [names(part) for part in scope.through] == [["chat.default"]]


def test_virtual_services_are_imported_by_their_namespace_and_hosts() -> None:
    mesh = Mesh().put(service("chat"), virtual_service("chat", HttpRoute(route=(to("chat"),)), namespace="other"))
    assert len(seen(mesh.put(cut("*/*"))).scope.virtual_services) == 1
    assert seen(mesh.put(cut("./*"))).scope.virtual_services == ()


def test_a_listener_with_a_port_sees_only_that_port_and_clusters_are_for_all_together() -> None:
    mesh = Mesh().put(service("chat", port(80), port(81), port(82)), service("other", port(81)))
    listeners = (listens("./*", port=80, protocol=Protocol.HTTP), listens("./other.default.svc.cluster.local"))
    scope = seen(mesh.put(cut(egress=listeners))).scope
    ports = [[[item.number for item in target.service.ports] for target in part.targets] for part in scope.through]
    assert ports == [[[80]], [[81]]]
    assert [(target.service.host[:5], target.cut) for target in scope.targets] == [("chat.", (80,)), ("other", ())]


def test_a_change_elsewhere_keeps_what_was_cut_down() -> None:
    mesh, scopes = three(), Scopes()
    mesh.put(service("chat", port(80), port(81)), cut(egress=(listens("./*", port=80), listens("other/*"))))
    first = seen(mesh, scopes=scopes).scope
    assert seen(mesh.put(service("third", namespace="third")), scopes=scopes).scope is first
    ruled = seen(mesh.put(rule("far.other.svc.cluster.local", namespace="other")), scopes=scopes).scope
    assert ruled is not first
    assert ruled.through[0] is not None
    assert ruled.by_host["chat.default.svc.cluster.local"] is first.by_host["chat.default.svc.cluster.local"]


def test_outbound_traffic_policy() -> None:
    mesh = three()
    assert seen(mesh).scope.outside.mode is OutboundMode.ALLOW_ANY
    scope = seen(mesh.put(cut("./*", outbound_mode=OutboundMode.REGISTRY_ONLY))).scope
    assert scope.outside.mode is OutboundMode.REGISTRY_ONLY
    proxy = Destination("far.other.svc.cluster.local", "v1", 8000)
    scope = seen(mesh.put(cut("./*", outbound_mode=OutboundMode.ALLOW_ANY, egress_proxy=proxy))).scope
    assert scope.outside.proxy == "outbound|8000|v1|far.other.svc.cluster.local"


def test_ingress_replaces_the_ports_and_pools_go_by_port_then_sidecar() -> None:
    mesh = Mesh().put(service("web", port(80, target=8000), port(81, target=8001)))
    one, two = ConnectionPool(max_connections=1), ConnectionPool(max_connections=2)
    ingress = (IngressListener(9000, Protocol.TCP, pool=one), IngressListener(8000, Protocol.HTTP2))
    inbound = seen(mesh.put(cut(ingress=ingress, inbound_pool=two)), app="web").inbound
    assert [(item.number, item.protocol) for item in inbound.ports] == [(8000, "HTTP2"), (9000, "TCP")]
    assert inbound.pools == ((8000, two), (9000, one))
