"""Gateways beyond HTTP: which servers share a port, which connections they take, and where those go."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from tests.unit.envoy.translate.samples import (
    decoded,
    gateway,
    gateway_view,
    http_server,
    https_server,
    meta,
    unpacked,
    virtual_service,
)

from headrace.envoy.translate import gateways, secrets
from headrace.envoy.translate.gateway_servers import merged_ports
from headrace.envoy.translate.memo import Memo
from headrace.model.gateway import Gateway, Server, ServerTls, ServerTlsMode
from headrace.model.mesh import GatewayTopology
from headrace.model.security import Secret
from headrace.model.traffic import Destination, L4Match, L4Route, RouteDestination, VirtualService

SIMPLE = ServerTls(ServerTlsMode.SIMPLE, credentials=("cert",))
PASSTHROUGH = ServerTls(ServerTlsMode.PASSTHROUGH)


def tcp_server(
    *hosts: str, port: int = 9000, bind: str = "", protocol: str = "TCP", tls: ServerTls | None = None
) -> Server:
    return Server(port, protocol, f"tcp-{port}", tuple(("*", host) for host in hosts or ("*",)), tls, bind)


def to(service: str, *matches: L4Match) -> L4Route:
    return L4Route(matches, (RouteDestination(Destination(service, "", 1)),))


def rule(name: str, *hosts: str, tcp: tuple[L4Route, ...] = (), tls: tuple[L4Route, ...] = ()) -> VirtualService:
    return replace(virtual_service(name, hosts or ("*",)), tcp=tcp, tls=tls)


def listeners(*given: Gateway | VirtualService, **settings: Any) -> dict[str, Any]:
    documents = tuple(item for item in given if isinstance(item, Gateway))
    rules = tuple(item for item in given if isinstance(item, VirtualService))
    found = decoded(gateways.resources(Memo(), gateway_view(documents, rules, **settings)))
    return {name: item for name, item in found.items() if isinstance(item, listener_pb2.Listener)}


def lead(listener: Any) -> list[tuple[tuple[str, ...], str]]:
    """SNI names of each chain, and the cluster or route table that it leads to."""
    found = []
    for chain in listener.filter_chains:
        manager = unpacked(chain)
        target = manager.rds.route_config_name if manager else ""
        for item in chain.filters:
            proxy = tcp_proxy_pb2.TcpProxy()
            if item.typed_config.Unpack(proxy):
                target = proxy.cluster
        found.append((tuple(chain.filter_chain_match.server_names), target))
    return found


def bound(*gateways: Gateway) -> list[tuple[str, int, list[str]]]:
    return [
        (port.bind, port.port, [server.server.port_name for server in port.servers])
        for port in merged_ports(gateways, "0.0.0.0", ())
    ]


def test_the_first_rule_for_the_port_has_the_connections() -> None:
    rules = rule("one", tcp=(to("other", L4Match(port=9001)), to("mine", L4Match(port=9000)), to("late")))
    found = listeners(gateway("gw", tcp_server()), rules)
    assert lead(found["0.0.0.0_9000"]) == [((), "outbound|1||mine")]
    assert not found["0.0.0.0_9000"].listener_filters, "a server that speaks first is not waited for"


def test_a_rule_for_other_hosts_is_not_asked() -> None:
    assert listeners(gateway("gw", tcp_server("a.example")), rule("one", "b.example", tcp=(to("x"),))) == {}


def test_tls_that_ends_here_and_is_not_http() -> None:
    server = tcp_server("a.example", protocol="TLS", tls=SIMPLE)
    found = listeners(gateway("gw", server), rule("one", "a.example", tcp=(to("x"),)))["0.0.0.0_9000"]
    assert lead(found) == [(("a.example",), "outbound|1||x")]
    assert found.filter_chains[0].HasField("transport_socket")


def test_mutual_tls_of_the_mesh_offers_what_its_tcp_speaks() -> None:
    def words(protocol: str) -> list[str]:
        server = tcp_server("a.example", protocol=protocol, tls=ServerTls(ServerTlsMode.ISTIO_MUTUAL))
        found = listeners(gateway("gw", server), rule("one", "a.example", tcp=(to("x"),)))["0.0.0.0_9000"]
        context = tls_pb2.DownstreamTlsContext()
        found.filter_chains[0].transport_socket.typed_config.Unpack(context)
        return list(context.common_tls_context.alpn_protocols)

    assert words("TLS") == ["istio-peer-exchange", "h2", "http/1.1"]
    assert words("HTTPS") == ["h2", "http/1.1"]


def test_a_passed_on_name_is_taken_once() -> None:
    one = rule("one", "*.example", tls=(to("a", L4Match(("a.example",))),))
    two = rule("two", "*.example", tls=(to("b", L4Match(("a.example", "b.example")), L4Match(("c.example",))),))
    found = listeners(gateway("gw", tcp_server("*.example", protocol="TLS", tls=PASSTHROUGH)), one, two)
    assert lead(found["0.0.0.0_9000"]) == [(("a.example",), "outbound|1||a"), (("c.example",), "outbound|1||b")]


def test_rules_of_a_tls_route_hold_where_tls_ends() -> None:
    server = tcp_server("a.example", protocol="TLS", tls=SIMPLE)
    plain = rule("one", "a.example", tls=(to("x", L4Match(("a.example",))),))
    assert listeners(gateway("gw", server), plain) == {}
    parents = {"internal.istio.io/parents": "TLSRoute/one.edge"}
    converted = replace(plain, meta=replace(plain.meta, annotations=parents))
    assert lead(listeners(gateway("gw", server), converted)["0.0.0.0_9000"]) == [(("a.example",), "outbound|1||x")]


def test_clear_text_beside_tls_has_what_is_no_tls() -> None:
    found = listeners(gateway("gw", https_server("a.example", tls=SIMPLE), http_server("*", port=443)))["0.0.0.0_443"]
    assert lead(found) == [(("a.example",), "https.443.https.gw.edge"), ((), "http.443")]


def test_of_two_chains_for_everything_the_older_stays() -> None:
    found = listeners(gateway("gw", https_server("*", tls=SIMPLE), http_server("*", port=443)))["0.0.0.0_443"]
    assert lead(found) == [((), "https.443.https.gw.edge")]


@pytest.mark.parametrize(
    ("servers", "expected"),
    [
        ((tcp_server(), http_server("*", port=9000)), [("0.0.0.0", 9000, ["tcp-9000"])]),
        ((tcp_server(), tcp_server("a.example")), [("0.0.0.0", 9000, ["tcp-9000"])]),
        (
            (tcp_server(bind="10.0.0.1"), http_server("*", port=9000)),
            [("0.0.0.0", 9000, ["http-9000"]), ("10.0.0.1", 9000, ["tcp-9000"])],
        ),
        (
            (tcp_server(bind="10.0.0.1"), tcp_server(bind="10.0.0.2")),
            [("10.0.0.1", 9000, ["tcp-9000"]), ("10.0.0.2", 9000, ["tcp-9000"])],
        ),
        (
            (https_server("a.example", tls=SIMPLE), tcp_server("b.example", port=443, protocol="TLS", tls=PASSTHROUGH)),
            [("0.0.0.0", 443, ["https", "tcp-443"])],
        ),
    ],
)
def test_servers_of_one_port(servers: tuple[Server, ...], expected: list[tuple[str, int, list[str]]]) -> None:
    assert bound(gateway("gw", *servers)) == expected


def test_redirections_claim_their_hosts_too() -> None:
    one, two = http_server("a.example", redirect=True), replace(http_server("a.example", redirect=True), port_name="b")
    assert bound(gateway("gw", one, two, http_server("a.example"))) == [("0.0.0.0", 80, ["http-80", "http-80"])]


def test_behind_services_the_gateway_listens_where_these_lead_to() -> None:
    named = replace(gateway("gw", http_server("*"), http_server("*", port=82)), services=("door",))
    behind = ((("edge", "door"), ((80, 8080),)), (("edge", "back"), ((80, 7070), (82, 8082))))
    assert [port.port for port in merged_ports((named,), "0.0.0.0", (), behind)] == [8080]
    assert named.takes("edge", {}, [("edge", "door")])
    assert not named.takes("edge", {}, [("other", "door")])


def test_a_socket_is_for_its_owner_and_an_abstract_one_has_no_mode() -> None:
    servers = (
        replace(http_server("*", port=0), bind="unix:///run/door"),
        replace(http_server("*", port=0), bind="unix://@door"),
    )
    found = listeners(gateway("gw", *servers))
    assert [(item.address.pipe.path, item.address.pipe.mode) for _, item in sorted(found.items())] == [
        ("/run/door", 0o600),
        ("@door", 0),
    ]


def test_secrets_of_servers() -> None:
    def secret(name: str, **data: bytes) -> Secret:
        return Secret(meta("Secret", name, "edge"), {key.replace("_", "."): value for key, value in data.items()})

    known = {
        "rsa": secret("rsa", tls_crt=b"chain", tls_key=b"key", ca_crt=b"own-ca", **{"tls.ocsp-staple": b"stapled"}),
        "ecdsa": secret("ecdsa", cert=b"chain", key=b"key"),
        "partners": secret("partners", ca_crt=b"partners-ca", ca_crl=b"revoked"),
        "shared-cacert": secret("shared-cacert", cacert=b"shared-ca"),
    }
    tls = ServerTls(ServerTlsMode.MUTUAL, credentials=("rsa", "kubernetes://edge/ecdsa"), ca_credential="partners")
    other = ServerTls(ServerTlsMode.MUTUAL, credentials=("rsa",), ca_credential="shared-cacert")
    third = ServerTls(ServerTlsMode.SIMPLE, credentials=("elsewhere/rsa",))
    view = gateway_view(
        (
            gateway(
                "gw",
                *(https_server(f"{at}.example", tls=item, name=str(at)) for at, item in enumerate((tls, other, third))),
            ),
        ),
        secrets=known,
    )
    found = {item.name: item.body for item in secrets.resources(Memo(), view)}
    assert sorted(found) == [
        "kubernetes://edge/ecdsa",
        "kubernetes://partners#ca",
        "kubernetes://rsa",
        "kubernetes://shared-cacert#ca",
    ]
    assert b"partners-ca" in found["kubernetes://partners#ca"] and b"revoked" in found["kubernetes://partners#ca"]
    assert b"stapled" in found["kubernetes://rsa"]


def test_what_stands_before_one_gateway_comes_before_what_the_mesh_says() -> None:
    view = gateway_view((gateway("gw", http_server("*")),))
    topology = GatewayTopology(trusted_proxies=3, client_certificates="FORWARD_ONLY", proxy_protocol=True)
    told = replace(view, instance=replace(view.instance, topology=topology))
    listener = decoded(gateways.resources(Memo(), told))["0.0.0.0_80"]
    assert [item.name for item in listener.listener_filters] == ["envoy.filters.listener.proxy_protocol"]
    manager = unpacked(listener.filter_chains[0])
    assert (manager.xff_num_trusted_hops, manager.forward_client_cert_details) == (3, manager.FORWARD_ONLY)
    assert not manager.HasField("set_current_client_cert_details")
