"""Gateways: which servers share what, which names are served, and whose secrets leave the control plane."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.envoy.translate.samples import (
    answer,
    decoded,
    gateway,
    gateway_view,
    http_server,
    https_server,
    meta,
    plain,
    unpacked,
    virtual_service,
)

from headrace.envoy.resources import ResourceSet, XdsResource
from headrace.envoy.translate import gateways, secrets
from headrace.envoy.translate.gateway_servers import intersection, merged_ports
from headrace.envoy.translate.memo import Memo
from headrace.envoy.validation import refusal
from headrace.model.gateway import Server, ServerTls, ServerTlsMode
from headrace.model.security import Secret
from headrace.model.traffic import VirtualService

SIMPLE = ServerTls(ServerTlsMode.SIMPLE, credentials=("cert",))
MUTUAL = ServerTls(ServerTlsMode.MUTUAL, credentials=("cert",))


def built(*args: Any, **settings: Any) -> dict[str, Any]:
    return decoded(gateways.resources(Memo(), gateway_view(*args, **settings)))


def bodies(host: Any) -> list[str]:
    written = [route.direct_response.body for route in host.routes]
    return [body.inline_string or body.inline_bytes.decode() for body in written]


def test_names_are_istios() -> None:
    found = built((gateway("gw", http_server("*"), https_server("a.example", tls=SIMPLE, name="web")),))
    assert set(found) == {"0.0.0.0_80", "0.0.0.0_443", "http.80", "https.443.web.gw.edge"}


def test_listeners_bind_where_the_proxy_says() -> None:
    found = built((gateway("gw", http_server("*")),), bind="127.0.0.8", port_map=((80, 18080),))
    address = found["127.0.0.8_18080"].address.socket_address
    assert (address.address, address.port_value) == ("127.0.0.8", 18080)
    assert "http.18080" in found


def test_http_servers_of_several_gateways_share_a_port() -> None:
    one, two = gateway("one", http_server("a.example")), gateway("two", http_server("b.example"), namespace="other")
    rules = (
        virtual_service("a", ("a.example",), answer(None, "a"), gateways=("edge/one",)),
        virtual_service("b", ("b.example",), answer(None, "b"), gateways=("other/two",)),
    )
    hosts = {host.name: bodies(host) for host in built((one, two), rules)["http.80"].virtual_hosts}
    assert hosts == {"a.example:80": ["a"], "b.example:80": ["b"]}


def test_a_port_carries_http_or_tls_and_the_older_wins() -> None:
    ports = merged_ports(
        [gateway("old", http_server("*", port=8443)), gateway("new", https_server("*", tls=SIMPLE, port=8443))],
        "0.0.0.0",
        (),
    )
    assert [[server.gateway for server in port.servers] for port in ports] == [["edge/old"]]


def test_a_host_of_a_tls_port_belongs_to_the_older_server() -> None:
    ports = merged_ports(
        [
            gateway("old", https_server("a.example", tls=SIMPLE)),
            gateway("new", https_server("a.example", tls=SIMPLE), https_server("b.example", tls=SIMPLE, name="b")),
        ],
        "0.0.0.0",
        (),
    )
    assert [server.route_name for server in ports[0].servers] == ["https.443.https.old.edge", "https.443.b.new.edge"]


def test_a_name_of_a_tls_port_is_one_whatever_namespace_it_is_for() -> None:
    one, two = https_server("one/a.example", tls=SIMPLE), https_server("two/a.example", tls=SIMPLE, name="b")
    found = built((gateway("gw", one, two),))["0.0.0.0_443"]
    assert [list(chain.filter_chain_match.server_names) for chain in found.filter_chains] == [["a.example"]]


def test_tls_servers_are_told_apart_by_sni() -> None:
    found = built(
        (gateway("gw", https_server("b.example", "a.example", tls=SIMPLE), https_server("*", tls=MUTUAL, name="x")),)
    )["0.0.0.0_443"]
    assert [item.name for item in found.listener_filters] == ["envoy.filters.listener.tls_inspector"]
    names = [tuple(chain.filter_chain_match.server_names) for chain in found.filter_chains]
    assert names == [("a.example", "b.example"), ()]
    assert [unpacked(chain).rds.route_config_name for chain in found.filter_chains] == [
        "https.443.https.gw.edge",
        "https.443.x.gw.edge",
    ]


def test_servers_without_a_rule_make_no_listener() -> None:
    passthrough = https_server("*", tls=ServerTls(ServerTlsMode.PASSTHROUGH))
    tcp = Server(9000, "TCP", "tcp", (("*", "*"),))
    assert built((gateway("gw", passthrough, tcp),)) == {}


@pytest.mark.parametrize(
    ("server", "hosts", "namespace", "expected"),
    [
        ((("*", "*"),), ("a.example",), "x", ["a.example"]),
        ((("*", "*.example"),), ("a.example", "other.org"), "x", ["a.example"]),
        ((("*", "a.example"),), ("*.example",), "x", ["a.example"]),
        ((("*", "a.example"),), ("*",), "x", ["a.example"]),
        ((("ns", "*"),), ("a.example",), "x", []),
        ((("ns", "*"),), ("a.example",), "ns", ["a.example"]),
        ((("*", "*.example"),), ("example",), "x", []),
        ((("*", "*.example"),), ("*.b.example",), "x", ["*.b.example"]),
    ],
)
def test_hosts_are_served_where_both_sides_offer_them(
    server: tuple[tuple[str, str], ...], hosts: tuple[str, ...], namespace: str, expected: list[str]
) -> None:
    assert intersection(server, hosts, namespace) == expected


def test_same_host_routes_append_in_order_and_catch_alls_move_last() -> None:
    rules = (
        virtual_service("one", ("a.example",), answer("/one", "1"), answer(None, "all")),
        virtual_service("two", ("a.example",), answer("/two", "2")),
    )
    (host,) = built((gateway("gw", http_server("*")),), rules)["http.80"].virtual_hosts
    assert bodies(host) == ["1", "2", "all"]
    assert host.include_request_attempt_count


def test_hosts_with_the_same_routes_are_one_virtual_host() -> None:
    rule = virtual_service("one", ("b.example", "a.example"), answer(None, "x"))
    (host,) = built((gateway("gw", http_server("*")),), (rule,))["http.80"].virtual_hosts
    assert (host.name, list(host.domains)) == ("a.example:80", ["a.example", "b.example"])


def test_virtual_services_of_the_mesh_do_not_reach_a_gateway() -> None:
    rule = virtual_service("one", ("a.example",), answer(None, "x"), gateways=("mesh",))
    (host,) = built((gateway("gw", http_server("*")),), (rule,))["http.80"].virtual_hosts
    assert (host.name, list(host.domains), list(host.routes)) == ("blackhole:80", ["*"], [])


@pytest.mark.parametrize("rules", [(), (virtual_service("a", ("a.example",), answer(None, "x")),)])
def test_https_redirect_covers_every_host_of_the_server(rules: tuple[VirtualService, ...]) -> None:
    found = built((gateway("gw", http_server("a.example", "b.example", redirect=True)),), rules)["http.80"]
    assert {domain for host in found.virtual_hosts for domain in host.domains} == {"a.example", "b.example"}
    assert all(plain(host)["require_tls"] == "ALL" for host in found.virtual_hosts)


def test_https_redirect_sends_nobody_from_https_to_https() -> None:
    tls = ServerTls(ServerTlsMode.SIMPLE, credentials=("cert",), https_redirect=True)
    rules = (virtual_service("a", ("a.example",), answer(None, "x")),)
    found = built((gateway("gw", https_server("a.example", tls=tls, name="web")),), rules, port_map=((443, 8443),))
    (host,) = found["https.443.web.gw.edge"].virtual_hosts
    assert bodies(host) == ["x"]


def test_secrets_are_exactly_those_that_are_named() -> None:
    def secret(name: str, **data: bytes) -> Secret:
        return Secret(meta("Secret", name, "edge"), {key.replace("_", "."): value for key, value in data.items()})

    pair = {"tls_crt": b"chain", "tls_key": b"PRIVATE"}
    known = {
        "cert": secret("cert", **pair, ca_crt=b"ca"),
        "generic": secret("generic", cert=b"chain", key=b"PRIVATE", cacert=b"generic-ca"),
        "split": secret("split", **pair),
        "split-cacert": secret("split-cacert", ca_crt=b"split-ca"),
        "unnamed": secret("unnamed", **pair),
        "half": secret("half", tls_crt=b"chain"),
    }

    def server(name: str, mode: ServerTlsMode, credential: str) -> Server:
        return https_server(f"{name}.example", tls=ServerTls(mode, credentials=(credential,)), name=name)

    servers = (
        server("a", ServerTlsMode.SIMPLE, "cert"),
        server("b", ServerTlsMode.MUTUAL, "generic"),
        server("c", ServerTlsMode.MUTUAL, "split"),
        server("d", ServerTlsMode.SIMPLE, "missing"),
        server("e", ServerTlsMode.SIMPLE, "half"),
    )
    view = gateway_view((gateway("gw", *servers),), secrets=known)
    found: dict[str, XdsResource] = {item.name: item for item in secrets.resources(Memo(), view)}
    assert sorted(found) == [
        "kubernetes://cert",
        "kubernetes://generic",
        "kubernetes://generic-cacert",
        "kubernetes://split",
        "kubernetes://split-cacert",
    ]
    assert b"generic-ca" in found["kubernetes://generic-cacert"].body
    assert b"split-ca" in found["kubernetes://split-cacert"].body
    assert b"PRIVATE" not in found["kubernetes://split-cacert"].body
    assert b"PRIVATE" in found["kubernetes://cert"].body
    assert "PRIVATE" not in repr(found)


def test_files_of_a_server_are_secrets_of_their_own() -> None:
    tls = ServerTls(ServerTlsMode.MUTUAL, certificates=(("/c.pem", "/k.pem"),), ca_certificates="/ca.pem")
    view = gateway_view((gateway("gw", https_server("*", tls=tls)),))
    found = {item.name: item.body for item in secrets.resources(Memo(), view)}
    assert sorted(found) == ["file-cert:/c.pem~/k.pem", "file-root:/ca.pem"]
    assert b"/k.pem" in found["file-cert:/c.pem~/k.pem"]
    assert refusal({"files": ResourceSet.collect(gateways.resources(Memo(), view))}) is None


def test_envoy_accepts_a_gateway_with_everything() -> None:
    servers = (
        http_server("*", redirect=True),
        http_server("a.example", port=8080),
        https_server("a.example", tls=SIMPLE, name="a"),
        https_server("b.example", tls=MUTUAL, name="b"),
        https_server("c.example", tls=ServerTls(ServerTlsMode.ISTIO_MUTUAL), name="c"),
        https_server("d.example", tls=ServerTls(ServerTlsMode.OPTIONAL_MUTUAL, credentials=("d",)), name="d"),
    )
    rules = (virtual_service("one", ("a.example", "b.example"), answer("/x", "x"), answer(None, "y")),)
    view = gateway_view((gateway("gw", *servers),), rules)
    assert refusal({"gateway": ResourceSet.collect(gateways.resources(Memo(), view))}) is None
