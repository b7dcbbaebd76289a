"""The server side of a sidecar: which connections get in, and where they go."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from tests.unit.envoy.translate.outbound_rig import Rig, http_options
from tests.unit.envoy.translate.samples import decoded, plain, unpacked, view
from tests.unit.registry.meshes import Mesh, port, rule, service, sidecar, workload

from headrace.envoy.resources import ResourceSet
from headrace.envoy.translate import inbound
from headrace.envoy.translate.memo import Memo
from headrace.envoy.validation import refusal
from headrace.model.destination import ConnectionPool, PortPolicy, TrafficPolicy
from headrace.model.mesh import MeshConfig
from headrace.model.security import MtlsMode
from headrace.model.service import Protocol as Wire

S, P, D = MtlsMode.STRICT, MtlsMode.PERMISSIVE, MtlsMode.DISABLE


def listener(**settings: Any) -> Any:
    ports = settings.pop("ports", ((8000, "HTTP"),))
    return decoded(inbound.resources(Memo(), view(*ports, **settings)))["virtualInbound"]


def chains(message: Any, port: int) -> list[tuple[str, tuple[str, ...], bool, bool]]:
    """(transport, alpn, TLS ends here, HTTP) of every chain of a port, in order."""
    return [
        (
            chain.filter_chain_match.transport_protocol,
            tuple(chain.filter_chain_match.application_protocols),
            chain.HasField("transport_socket"),
            unpacked(chain) is not None,
        )
        for chain in message.filter_chains
        if chain.filter_chain_match.destination_port.value == port
    ]


@pytest.mark.parametrize(
    ("protocol", "mode", "count"),
    [
        ("HTTP", S, 1), ("HTTP", P, 2), ("HTTP", D, 1),
        ("TCP", S, 1), ("TCP", P, 3), ("TCP", D, 1),
        ("UNDECLARED", S, 2), ("UNDECLARED", P, 5), ("UNDECLARED", D, 2),
    ],
)  # fmt: skip
def test_number_of_chains_is_istios(protocol: str, mode: MtlsMode, count: int) -> None:
    assert len(chains(listener(ports=((8000, protocol),), mode=mode), 8000)) == count


def test_strict_takes_only_the_meshs_tls() -> None:
    message = listener(ports=((8000, "HTTP"), (9000, "TCP"), (7000, "UNDECLARED")), mode=S)
    for number in (0, 7000, 8000, 9000):
        assert all(tls for _, _, tls, _ in chains(message, number)), number


def test_permissive_tells_the_mesh_by_alpn_from_other_tls() -> None:
    (mesh, other, raw) = chains(listener(ports=((9000, "TCP"),)), 9000)
    assert mesh[0] == "tls" and "istio" in mesh[1] and mesh[2]
    assert other == ("tls", (), False, False)
    assert raw == ("raw_buffer", (), False, False)


def test_port_level_modes_use_the_workloads_port_and_reach_ports_without_a_service() -> None:
    message = listener(ports=((8000, "HTTP"),), mode=S, port_modes=((8000, D), (9999, D)))
    assert chains(message, 8000) == [("", (), False, True)]
    assert [tls for _, _, tls, _ in chains(message, 9999)] == [False, False]
    assert all(tls for _, _, tls, _ in chains(message, 0))


def test_own_port_is_a_black_hole() -> None:
    (chain,) = [c for c in listener().filter_chains if c.filter_chain_match.destination_port.value == 15006]
    assert plain(chain)["filters"][0]["typed_config"]["cluster"] == "BlackHoleCluster"


def test_server_demands_a_client_certificate_of_the_trust_domain_or_an_alias() -> None:
    mesh = MeshConfig(trust_domain="a.example", trust_domain_aliases=("b.example",))
    message = listener(mode=S, mesh=mesh)
    (chain,) = [c for c in message.filter_chains if c.filter_chain_match.destination_port.value == 8000]
    context = tls_pb2.DownstreamTlsContext()
    assert chain.transport_socket.typed_config.Unpack(context)
    assert context.require_client_certificate.value
    validation = context.common_tls_context.combined_validation_context
    prefixes = [item.matcher.prefix for item in validation.default_validation_context.match_typed_subject_alt_names]
    assert prefixes == ["spiffe://a.example/", "spiffe://b.example/"]
    assert validation.validation_context_sds_secret_config.name == "ROOTCA"
    assert plain(context.common_tls_context.tls_params) == {
        "tls_minimum_protocol_version": "TLSv1_3",
        "tls_maximum_protocol_version": "TLSv1_3",
    }


def test_inspectors_are_off_where_nothing_needs_them() -> None:
    message = listener(ports=((8000, "HTTP"), (9000, "TCP")), mode=P, port_modes=((9000, D),))
    filters = {item.name.rpartition(".")[2]: item for item in message.listener_filters}
    assert list(filters) == ["original_dst", "tls_inspector", "http_inspector"]
    off = filters["tls_inspector"].filter_disabled.or_match.rules
    assert [rule.destination_port_range.start for rule in off] == [9000, 15006]
    off = filters["http_inspector"].filter_disabled.or_match.rules
    assert [rule.destination_port_range.start for rule in off] == [8000, 9000, 15006]


def test_inbound_route_has_no_time_limit_and_retries_only_what_was_not_sent() -> None:
    message = listener(ports=((8000, "HTTP"), (5000, "GRPC")))
    routes = {}
    for chain in message.filter_chains:
        manager = unpacked(chain)
        if manager is not None:
            routes[chain.filter_chain_match.destination_port.value] = manager.route_config.virtual_hosts[0].routes[0]
    assert plain(routes[8000].route)["timeout"] == "0s"
    assert plain(routes[8000].route)["retry_policy"] == {"retry_on": "reset-before-request", "num_retries": 2}
    assert not routes[5000].route.HasField("retry_policy")


def test_caller_is_named_to_the_application() -> None:
    managers = [manager for chain in listener().filter_chains if (manager := unpacked(chain)) is not None]
    for manager in managers:
        found = plain(manager)
        assert found["forward_client_cert_details"] == "APPEND_FORWARD"
        assert found["set_current_client_cert_details"] == {"subject": True, "dns": True, "uri": True}


def test_clusters_go_to_the_meant_address_from_the_magic_source() -> None:
    found = decoded(inbound.resources(Memo(), view((8000, "HTTP"), (5000, "GRPC"))))
    for name in ("inbound|8000||", "inbound|5000||", "InboundPassthroughCluster"):
        assert plain(found[name])["type"] == "ORIGINAL_DST"
        assert found[name].upstream_bind_config.source_address.address == "127.0.0.6"
    assert not found["inbound|8000||"].typed_extension_protocol_options
    assert "explicit_http_config" in str(plain(found["inbound|5000||"]))


def test_replicas_of_one_workload_share_their_resources() -> None:
    memo = Memo()
    first = inbound.resources(memo, view((8000, "HTTP"), mesh=(mesh := MeshConfig())))
    assert inbound.resources(memo, view((8000, "HTTP"), mesh=mesh)) is first
    assert memo.built["inbound"] == 1


def test_envoy_accepts_every_mode_of_every_protocol() -> None:
    ports = ((8000, "HTTP"), (8001, "HTTP2"), (9000, "TCP"), (7000, "UNDECLARED"), (5000, "GRPC"), (5001, "GRPC-Web"))
    mesh = MeshConfig(access_log_file="/dev/stdout", access_log_encoding="JSON")
    sets = {
        mode.value: ResourceSet.collect(inbound.resources(Memo(), view(*ports, mode=mode, mesh=mesh)))
        for mode in (S, P, D)
    }
    assert refusal(sets) is None


def test_both_ends_have_the_connection_pool_of_the_services_rule() -> None:
    policy = TrafficPolicy(
        connection_pool=ConnectionPool(max_connections=7, http2_max_requests=9),
        ports=(PortPolicy(90, connection_pool=ConnectionPool(max_connections=3)),),
    )
    chat = service("chat", port(80, target=8000), port(90, Wire.TCP, target=9000), port(70, target=7000))
    other = service("other", port(70, target=6000), selector={"app": "chat"})
    found = Rig(Mesh().put(chat, other, rule("chat", policy=policy))).clusters(sidecar("chat"))

    def limits(name: str) -> tuple[int, int]:
        (threshold,) = found[name].circuit_breakers.thresholds
        return threshold.max_connections.value, threshold.max_requests.value

    unlimited = 2**32 - 1
    assert limits("inbound|8000||") == limits("outbound|80||chat.default.svc.cluster.local") == (7, 9)
    assert limits("inbound|9000||") == (3, unlimited)
    assert limits("inbound|6000||") == (unlimited, unlimited)


def test_a_pool_never_keeps_connections_longer_than_the_application() -> None:
    for written, kept in ((0.5, "0.500s"), (60.0, "1.500s"), (0.0, "1.500s")):
        policy = TrafficPolicy(connection_pool=ConnectionPool(http_idle_timeout=written, max_requests_per_connection=5))
        mesh = Mesh().put(service("chat"), workload("chat"), rule("chat", policy=policy))
        options = http_options(Rig(mesh).clusters(sidecar("chat"))["inbound|8000||"])
        assert plain(options)["common_http_protocol_options"] == {
            "idle_timeout": kept,
            "max_requests_per_connection": 5,
        }
