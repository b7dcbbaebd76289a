"""TCP and TLS rules of VirtualServices: who they are for, and that no connection has two chains."""

from __future__ import annotations

from tests.unit.envoy.translate.samples import meta

from headrace.envoy.translate.l4_routes import (
    L4Caller,
    L4Chain,
    gateway_tcp_way,
    gateway_tls_chains,
    without_taken,
)
from headrace.envoy.translate.route_action import Place
from headrace.envoy.translate.tcp_proxy import Way
from headrace.model.mesh import MeshConfig
from headrace.model.traffic import Destination, L4Match, L4Route, RouteDestination, VirtualService

WAY = Way.to("somewhere")
META = meta("networking.istio.io/VirtualService", "doors")


def rule(host: str, *matches: L4Match) -> L4Route:
    return L4Route(matches, (RouteDestination(Destination(host, port=1)),))


def services(*, tls: tuple[L4Route, ...] = (), tcp: tuple[L4Route, ...] = ()) -> tuple[VirtualService, ...]:
    return (VirtualService(META, ("a.example",), ("default/door",), (), tls=tls, tcp=tcp),)


def caller(port: int = 443, gateway: str = "default/door") -> L4Caller:
    return L4Caller(Place(MeshConfig(), port, False, {}), gateway, "default", (("app", "client"),))


def test_the_first_chain_has_a_name_and_later_ones_the_rest() -> None:
    taken: set[tuple[str, str]] = set()
    assert without_taken(L4Chain(WAY, ("a", "b")), taken) == [L4Chain(WAY, ("a", "b"))]
    assert without_taken(L4Chain(WAY, ("b", "c")), taken) == [L4Chain(WAY, ("c",))]
    assert without_taken(L4Chain(WAY, ("a", "c")), taken) == []


def test_a_name_and_a_block_are_taken_together() -> None:
    taken: set[tuple[str, str]] = set()
    without_taken(L4Chain(WAY, ("a",), ("10.0.0.0/8",)), taken)
    assert without_taken(L4Chain(WAY, ("a", "b"), ("10.0.0.0/8", "11.0.0.0/8")), taken) == [
        L4Chain(WAY, ("a",), ("11.0.0.0/8",)),
        L4Chain(WAY, ("b",), ("10.0.0.0/8", "11.0.0.0/8")),
    ]


def test_the_star_and_the_block_of_all_addresses_say_nothing() -> None:
    taken: set[tuple[str, str]] = set()
    (chain,) = without_taken(L4Chain(WAY, ("a", "*"), ("0.0.0.0/0",)), taken)
    assert chain.takes_all
    assert without_taken(L4Chain(WAY), taken) == []


def test_a_gateway_takes_the_first_tcp_rule_for_its_port_and_itself() -> None:
    rules = services(
        tcp=(
            rule("other", L4Match(port=444)),
            rule("inside", L4Match(gateways=("mesh",))),
            rule("mine", L4Match(port=443, source_labels=(("app", "nobody"),), subnets=("10.0.0.0/8",))),
            rule("rest"),
        )
    )
    way = gateway_tcp_way(rules, caller())
    assert way is not None and way.clusters == (("outbound|1||mine", 0),)
    assert gateway_tcp_way(services(tcp=(rule("other", L4Match(port=444)),)), caller()) is None


def test_a_gateway_tells_tls_apart_by_name_each_name_once() -> None:
    rules = services(
        tls=(
            rule("one", L4Match(("a.example",)), L4Match(("b.example",), port=8443)),
            rule("two", L4Match(("a.example", "c.example")), L4Match(("c.example",))),
        )
    )
    taken: set[tuple[str, str]] = set()
    found = [(chain.sni, chain.way.clusters[0][0]) for chain in gateway_tls_chains(rules, caller(), taken)]
    assert found == [(("a.example",), "outbound|1||one"), (("c.example",), "outbound|1||two")]
    assert gateway_tls_chains(rules, caller(), taken) == []
