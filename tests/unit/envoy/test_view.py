"""What a proxy sees: exportTo, DestinationRule look-up, and scopes that are shared from snapshot to snapshot."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
from tests.unit.registry.meshes import (
    Mesh,
    entry,
    meta,
    peer_authentication,
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

from headrace.envoy.scopes import Scopes, view_of
from headrace.envoy.view import ProxyView
from headrace.model.destination import ClientTls, LbPolicy, LoadBalancer, TlsMode, TrafficPolicy
from headrace.model.gateway import Gateway, Server, ServerTls, ServerTlsMode
from headrace.model.identity import Identity
from headrace.model.mesh import MeshConfig
from headrace.model.proxy import Proxy, ProxyKind
from headrace.model.security import MtlsMode, Secret
from headrace.model.traffic import HttpMatch, HttpRoute
from headrace.registry.observed import ReplicaState

CHAT = "chat.default.svc.cluster.local"
ROBIN = TrafficPolicy(LoadBalancer(LbPolicy.ROUND_ROBIN))
RANDOM = TrafficPolicy(LoadBalancer(LbPolicy.RANDOM))


def seen(mesh: Mesh, namespace: str = "default", scopes: Scopes | None = None, **labels: str) -> ProxyView:
    return view_of(mesh.snapshot(), sidecar(namespace=namespace, **labels), scopes or Scopes())


def rule_name(mesh: Mesh, namespace: str, host: str = CHAT) -> str:
    found = seen(mesh, namespace).scope.by_host[host].rule
    return found.meta.name if found else ""


class TestExport:
    @pytest.mark.parametrize(
        ("export_to", "namespaces"),
        [
            ((), ["a", "b", "own"]),
            (("*",), ["a", "b", "own"]),
            ((".",), ["own"]),
            (("~",), []),
            (("a", "."), ["a", "own"]),
        ],
    )
    def test_of_services_and_virtual_services(self, export_to: tuple[str, ...], namespaces: list[str]) -> None:
        mesh = Mesh().put(service("chat", namespace="own", export_to=export_to))
        mesh.put(virtual_service("chat", HttpRoute(route=(to("chat"),)), namespace="own", export_to=export_to))
        views = {name: seen(mesh, name).scope for name in ("a", "b", "own")}
        assert [name for name, scope in views.items() if scope.targets] == namespaces
        assert [name for name, scope in views.items() if scope.virtual_services] == namespaces

    def test_the_meshs_default(self) -> None:
        mesh = Mesh(MeshConfig(default_service_export_to=(".",))).put(service("chat", namespace="own"))
        assert not seen(mesh, "a").scope.targets
        assert seen(mesh, "own").scope.targets

    def test_of_services_with_one_name_the_own_then_the_named_then_the_oldest(self) -> None:
        mesh = Mesh().put(entry("x.example", namespace="a"), entry("x.example", namespace="b"))
        mesh.put(entry("x.example", namespace="own", export_to=(".",)))
        mesh.put(entry("x.example", namespace="lends", export_to=("c",)))
        owners = {name: seen(mesh, name).scope.by_host["x.example"].service.namespace for name in "bcd"}
        assert owners == {"b": "b", "c": "lends", "d": "a"}

    def test_nobody_takes_the_name_of_a_kubernetes_service(self) -> None:
        mesh = Mesh().put(entry(CHAT, namespace="thief"), service("chat"))
        owners = [seen(mesh, name).scope.by_host[CHAT].service.namespace for name in ("victim", "thief")]
        assert owners == ["default", "thief"]

    def test_virtual_services_private_first(self) -> None:
        old = virtual_service("old", namespace="own")
        new = virtual_service("new", namespace="own", export_to=(".",))
        scope = seen(Mesh().put(old, new), "own").scope
        assert [item.meta.name for item in scope.virtual_services] == ["new", "old"]

    def test_virtual_services_for_gateways_only_are_not_the_sidecars(self) -> None:
        assert not seen(Mesh().put(virtual_service("chat", gateways=("edge/gw",)))).scope.virtual_services


class TestRules:
    def mesh(self, *names: str) -> Mesh:
        mesh = Mesh().put(service("chat"))
        for name in names:
            mesh.put(rule(CHAT, namespace=name, name=name, policy=ROBIN))
        return mesh

    def test_client_then_service_then_root(self) -> None:
        mesh = self.mesh("client", "default", "istio-system")
        assert rule_name(mesh, "client") == "client"
        assert rule_name(mesh, "other") == "default"
        assert rule_name(self.mesh("istio-system"), "other") == "istio-system"
        assert rule_name(self.mesh("client"), "other") == ""

    def test_the_most_specific_host_of_a_namespace(self) -> None:
        mesh = Mesh().put(service("chat"), service("b"))
        mesh.put(rule("*.local", name="wide"), rule("*.default.svc.cluster.local", name="narrow"))
        mesh.put(rule("chat", name="exact"))
        assert rule_name(mesh, "default") == "exact"
        assert rule_name(mesh, "default", "b.default.svc.cluster.local") == "narrow"

    def test_a_wildcard_nearby_beats_a_full_name_far_away(self) -> None:
        mesh = self.mesh("default").put(rule("*.local", namespace="client", name="wild"))
        assert rule_name(mesh, "client") == "wild"

    def test_what_is_not_exported_does_not_count(self) -> None:
        mesh = Mesh().put(service("chat"), rule("chat", name="own", export_to=(".",)))
        assert rule_name(mesh, "default") == "own"
        assert rule_name(mesh, "other") == ""
        assert rule_name(Mesh().put(service("chat"), rule("chat", export_to=("~",))), "default") == ""

    def test_a_rule_for_others_only_does_not_count_at_home(self) -> None:
        mesh = self.mesh("istio-system").put(rule("chat", name="lent", export_to=("other",)))
        assert rule_name(mesh, "default") == "istio-system"
        assert rule_name(mesh, "other") == "lent"

    def test_the_most_specific_host_counts_also_where_it_is_not_exported_to_the_caller(self) -> None:
        mesh = Mesh().put(service("chat"), rule("chat", name="lent", export_to=("other",)))
        mesh.put(rule("*.local", name="wide"))
        assert rule_name(mesh, "other") == "lent"
        assert rule_name(mesh, "third") == ""

    def test_in_the_root_namespace_only_private_rules_come_before_the_services(self) -> None:
        mesh = self.mesh("default", "istio-system")
        assert rule_name(mesh, "istio-system") == "default"
        mesh.put(rule("*.local", namespace="istio-system", name="private", export_to=(".",)))
        assert rule_name(mesh, "istio-system") == "private"

    def test_rules_of_one_host_merge(self) -> None:
        mesh = Mesh().put(
            service("chat"),
            rule("chat", subset("v1"), name="a"),
            rule("chat", subset("v1", ROBIN), subset("v2"), name="b", policy=ROBIN),
            rule("chat", subset("v3"), name="c", policy=RANDOM),
        )
        found = seen(mesh).scope.by_host[CHAT].rule
        assert found is not None
        assert [(item.name, item.policy) for item in found.subsets] == [("v1", None), ("v2", None), ("v3", None)]
        assert found.policy is ROBIN


class TestSharing:
    def mesh(self) -> Mesh:
        self.chat = workload("chat")
        self.route = virtual_service("chat", HttpRoute(route=(to("chat"),)))
        mesh = Mesh().put(
            service("chat"), self.chat, self.route, rule("chat", name="a"), rule("chat", subset("v1"), name="b")
        )
        return mesh.observe(replica(self.chat, 0, "127.0.0.2"))

    def test_proxies_that_see_the_same_share_a_scope(self) -> None:
        mesh, scopes = self.mesh(), Scopes()
        assert seen(mesh, scopes=scopes, app="a").scope is seen(mesh, scopes=scopes, app="b").scope
        assert seen(mesh, scopes=scopes).scope is not seen(mesh, "other", scopes=scopes).scope

    def test_labels_count_where_a_policy_selects_by_them(self) -> None:
        match = HttpMatch(source_labels=(("tier", "gold"),))
        mesh, scopes = self.mesh().put(virtual_service("t", HttpRoute((), (match,), (to("chat"),)))), Scopes()
        gold, also = (seen(mesh, scopes=scopes, tier="gold", app=name).scope for name in "ab")
        assert gold is also
        assert gold is not seen(mesh, scopes=scopes, tier="lead", app="a").scope
        assert gold.key.labels == (("tier", "gold"),)

    def test_an_endpoint_change_keeps_the_scope(self) -> None:
        mesh, scopes = self.mesh(), Scopes()
        first = seen(mesh, scopes=scopes)
        second = seen(mesh.observe(replica(self.chat, 1, "127.0.0.3")), scopes=scopes)
        assert second.scope is first.scope
        target = second.scope.by_host[CHAT]
        assert (len(first.endpoints_of(target)), len(second.endpoints_of(target))) == (1, 2)

    def test_what_it_cannot_see_keeps_the_scope(self) -> None:
        mesh, scopes = self.mesh(), Scopes()
        first = seen(mesh, scopes=scopes).scope
        mesh.put(service("hidden", namespace="x", export_to=(".",)))
        mesh.put(virtual_service("hidden", namespace="x", export_to=(".",)))
        assert seen(mesh, scopes=scopes).scope is first

    def test_a_change_keeps_every_other_part(self) -> None:
        mesh, scopes = self.mesh(), Scopes()
        first = seen(mesh, scopes=scopes).scope
        routed = seen(mesh.put(replace(self.route, http=())), scopes=scopes).scope
        assert routed is not first
        assert routed.targets is first.targets
        grown = seen(mesh.put(service("new")), scopes=scopes).scope
        assert grown.by_host[CHAT] is first.by_host[CHAT]

    def test_replicas_that_go_do_not_change_who_may_answer(self) -> None:
        mesh, scopes = self.mesh(), Scopes()
        first = seen(mesh, scopes=scopes).scope
        assert seen(mesh.observe(replica(self.chat, 0, "x", ReplicaState.FAILED)), scopes=scopes).scope is first


class TestInbound:
    def test_ports_and_mutual_tls(self) -> None:
        mesh = Mesh().put(service("chat"), workload("chat"), peer_authentication("p", MtlsMode.STRICT))
        found = view_of(mesh.snapshot(), sidecar("chat-0", workload="chat"), Scopes()).inbound
        assert [(item.number, item.protocol) for item in found.ports] == [(8000, "HTTP")]
        assert found.mtls.mode is MtlsMode.STRICT


class TestGateway:
    def test_its_gateways_their_virtual_services_and_secrets(self) -> None:
        tls = ServerTls(ServerTlsMode.MUTUAL, credentials=("door",))
        about = meta("networking.istio.io/Gateway", "gw", "edge")
        gateway = Gateway(about, (("app", "gw"),), (Server(443, "HTTPS", "https", (("*", "*"),), tls),))
        other = Gateway(meta("networking.istio.io/Gateway", "other", "edge"), (("app", "other"),), ())
        secrets = [Secret(meta("Secret", name, "edge"), {}) for name in ("door", "door-cacert", "unused")]
        bound = virtual_service("in", gateways=("edge/gw",), namespace="default")
        mesh = Mesh().put(gateway, other, *secrets, bound, virtual_service("sidecars"))
        proxy = Proxy(ProxyKind.GATEWAY, "gw-0", "gw", Identity("cluster.local", "edge", "gw"), {"app": "gw"}, ("x",))
        scope = view_of(mesh.snapshot(), proxy, Scopes()).scope
        assert scope.gateways == (gateway,)
        assert scope.gateway_virtual_services == {"edge/gw": (bound,)}
        assert sorted(scope.secrets) == ["door", "door-cacert"]
        assert not scope.virtual_services

    def test_a_sidecar_gets_the_secrets_that_its_rules_name_in_its_own_namespace(self) -> None:
        policy = TrafficPolicy(tls=ClientTls(TlsMode.MUTUAL, credential_name="up"))
        mesh = Mesh().put(entry("x.example"), rule("x.example", policy=policy), Secret(meta("Secret", "up"), {}))
        assert sorted(seen(mesh).scope.secrets) == ["up"]
        assert not seen(mesh, "other").scope.secrets


def test_what_nobody_sees_any_more_is_forgotten() -> None:
    mesh, scopes = Mesh().put(service("own", namespace="gone", export_to=(".",)), service("chat")), Scopes()
    past = weakref.ref(seen(mesh, "gone", scopes).scope.targets[-1])
    for number in (1, 2, 3):
        mesh.put(service("chat", port(number)))
        seen(mesh, "default", scopes)
    gc.collect()
    assert past() is None
