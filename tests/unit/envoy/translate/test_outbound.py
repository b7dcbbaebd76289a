"""Outbound listeners of the transparent shape: who takes which connection, and where it goes."""

from __future__ import annotations

from typing import Any

from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from tests.unit.envoy.translate.outbound_rig import Rig
from tests.unit.envoy.translate.samples import unpacked
from tests.unit.registry.meshes import Mesh, entry, pod, port, service

from headrace.model.mesh import MeshConfig, OutboundMode
from headrace.model.service import Protocol, Resolution


def listeners(*items: Any, config: MeshConfig | None = None) -> dict[str, Any]:
    return Rig(Mesh(config or MeshConfig()).put(*items)).listeners()


def tcp(chain: Any) -> str:
    """The cluster that a filter chain passes everything on to."""
    found = tcp_proxy_pb2.TcpProxy()
    assert chain.filters[0].typed_config.Unpack(found)
    return str(found.cluster)


def test_the_virtual_listener() -> None:
    found = listeners()["virtualOutbound"]
    assert found.use_original_dst.value
    assert found.address.socket_address.port_value == 15001
    loop, rest = found.filter_chains
    assert (loop.filter_chain_match.destination_port.value, tcp(loop)) == (15001, "BlackHoleCluster")
    assert tcp(rest) == "PassthroughCluster"


def test_registry_only_refuses_what_nobody_knows() -> None:
    found = listeners(service("chat"), config=MeshConfig(outbound_mode=OutboundMode.REGISTRY_ONLY))
    assert tcp(found["virtualOutbound"].filter_chains[1]) == "BlackHoleCluster"
    assert tcp(found["0.0.0.0_8000"].default_filter_chain) == "BlackHoleCluster"


def test_http_is_routed_by_name_whatever_the_address() -> None:
    found = listeners(service("a"), service("b", addresses=("10.0.0.1",)))
    assert sorted(found) == ["0.0.0.0_8000", "virtualInbound", "virtualOutbound"]
    listener = found["0.0.0.0_8000"]
    assert not listener.bind_to_port.value
    (chain,) = listener.filter_chains
    assert chain.filter_chain_match.transport_protocol == "raw_buffer"
    assert list(chain.filter_chain_match.application_protocols) == ["http/1.1", "h2c"]
    assert unpacked(chain).rds.route_config_name == "8000"
    assert tcp(listener.default_filter_chain) == "PassthroughCluster"
    assert [item.name.rpartition(".")[2] for item in listener.listener_filters] == ["http_inspector"]


def test_tcp_at_the_services_address() -> None:
    listener = listeners(service("db", port(5432, Protocol.TCP), addresses=("10.0.0.5",)))["10.0.0.5_5432"]
    (chain,) = listener.filter_chains
    assert tcp(chain) == "outbound|5432||db.default.svc.cluster.local"
    assert not listener.listener_filters


def test_tcp_without_an_address_belongs_to_the_first_service() -> None:
    found = listeners(service("a", port(5432, Protocol.TCP)), service("b", port(5432, Protocol.TCP)))
    assert tcp(found["0.0.0.0_5432"].filter_chains[0]) == "outbound|5432||a.default.svc.cluster.local"


def test_tls_without_an_address_by_sni() -> None:
    hosts = ("a.example.com", "b.example.com")
    item = entry(*hosts, ports=(port(443, Protocol.TLS),), resolution=Resolution.DNS)
    listener = listeners(item)["0.0.0.0_443"]
    found = {chain.filter_chain_match.server_names[0]: tcp(chain) for chain in listener.filter_chains}
    assert found == {host: f"outbound|443||{host}" for host in hosts}
    assert [item.name.rpartition(".")[2] for item in listener.listener_filters] == ["tls_inspector"]


def test_an_undeclared_protocol_is_sniffed() -> None:
    listener = listeners(service("chat", port(8000, Protocol.UNDECLARED), addresses=("10.0.0.1",)))["10.0.0.1_8000"]
    (chain,) = listener.filter_chains
    assert unpacked(chain).rds.route_config_name == "chat.default.svc.cluster.local:8000"
    assert tcp(listener.default_filter_chain) == "outbound|8000||chat.default.svc.cluster.local"


def test_http_and_tls_on_one_port() -> None:
    item = entry("a.example.com", ports=(port(443, Protocol.TLS),), resolution=Resolution.DNS)
    listener = listeners(service("chat", port(443)), item)["0.0.0.0_443"]
    sni, http = listener.filter_chains
    assert list(sni.filter_chain_match.server_names) == ["a.example.com"]
    assert unpacked(http).rds.route_config_name == "443"


def test_udp_has_no_listener() -> None:
    assert sorted(listeners(service("dns", port(53, Protocol.UDP)))) == ["virtualInbound", "virtualOutbound"]


def test_an_undeclared_protocol_without_an_address_shares_the_listener_of_the_port() -> None:
    listener = listeners(service("chat", port(8000, Protocol.UNDECLARED)))["0.0.0.0_8000"]
    (chain,) = listener.filter_chains
    assert unpacked(chain).rds.route_config_name == "8000"
    assert tcp(listener.default_filter_chain) == "outbound|8000||chat.default.svc.cluster.local"


def test_an_undeclared_protocol_with_an_address_makes_no_listener_on_any_address() -> None:
    rig = Rig(Mesh().put(service("chat", port(8000, Protocol.UNDECLARED), addresses=("10.0.0.1",))))
    assert "0.0.0.0_8000" not in rig.listeners()
    assert sorted(rig.routes()) == ["chat.default.svc.cluster.local:8000"]


def test_a_headless_service_is_at_its_endpoints_and_nowhere_else() -> None:
    ports = (port(5432, Protocol.TCP), port(7000, Protocol.UNDECLARED), port(8000))
    mesh = Mesh().put(service("db", *ports, headless=True), pod("db", "10.0.0.1"))
    rig = Rig(mesh)
    found = {name for name in rig.listeners() if not name.startswith("virtual")}
    assert found == {"10.0.0.1_5432", "10.0.0.1_7000", "0.0.0.0_8000"}
    assert tcp(rig.listeners()["10.0.0.1_5432"].filter_chains[0]) == "outbound|5432||db.default.svc.cluster.local"
    mesh.put(pod("db", "10.0.0.2"))
    assert "10.0.0.2_5432" in rig.listeners()
    assert "10.0.0.1_5432" not in rig.listeners()


def test_a_block_of_addresses_is_a_chain_and_not_the_whole_port() -> None:
    mongo = entry("mongo.example.com", ports=(port(27018, Protocol.MONGO),), addresses=("192.192.192.192/24",))
    listener = listeners(mongo)["0.0.0.0_27018"]
    (chain,) = listener.filter_chains
    (block,) = chain.filter_chain_match.prefix_ranges
    assert (block.address_prefix, block.prefix_len.value) == ("192.192.192.0", 24)
    assert tcp(chain) == "outbound|27018||mongo.example.com"
    assert tcp(listener.default_filter_chain) == "PassthroughCluster"
    assert not listener.listener_filters


def test_http_to_a_block_of_a_port_nobody_declared() -> None:
    blk = entry("blk.example.com", ports=(port(7000, Protocol.UNDECLARED),), addresses=("192.0.2.0/24",))
    http, clear, other, _ = listeners(blk)["0.0.0.0_7000"].filter_chains
    assert unpacked(http).rds.route_config_name == "7000"
    matches = [chain.filter_chain_match for chain in (http, clear, other)]
    assert [match.prefix_ranges[0].prefix_len.value for match in matches] == [24, 24, 24]
    assert [match.transport_protocol for match in matches] == ["raw_buffer", "raw_buffer", ""]


def test_a_block_belongs_to_the_oldest_service_that_has_it() -> None:
    ports = (port(9999, Protocol.TCP),)
    one = entry("a.example.com", ports=ports, addresses=("192.0.2.1/24",))
    two = entry("b.example.com", ports=ports, addresses=("192.0.2.7/24", "198.51.100.0/24"))
    first, second = listeners(two, one)["0.0.0.0_9999"].filter_chains
    blocks = {
        tcp(chain): [item.address_prefix for item in chain.filter_chain_match.prefix_ranges]
        for chain in (first, second)
    }
    assert blocks == {"outbound|9999||a.example.com": ["192.0.2.0"], "outbound|9999||b.example.com": ["198.51.100.0"]}


def test_no_listener_has_the_address_of_a_virtual_one() -> None:
    taken = service("odd", port(15006), port(15001, Protocol.TCP), port(15090))
    assert sorted(listeners(taken)) == ["0.0.0.0_15090", "virtualInbound", "virtualOutbound"]


def test_addresses_and_blocks_of_one_service_are_both_listened_for() -> None:
    mixed = entry("m.example.com", ports=(port(7000, Protocol.TCP),), addresses=("192.0.2.1", "198.51.100.0/24"))
    assert {name for name in listeners(mixed) if name.endswith("_7000")} == {"192.0.2.1_7000", "0.0.0.0_7000"}


def test_mysql_meets_nobody_and_http_and_bytes_are_told_apart() -> None:
    first = service("db", port(3306, Protocol.MYSQL), port(9000, Protocol.TCP))
    second = service("web", port(3306), port(9000))
    found = listeners(first, second)
    assert tcp(found["0.0.0.0_3306"].filter_chains[0]) == "outbound|3306||db.default.svc.cluster.local"
    assert not found["0.0.0.0_3306"].listener_filters
    shared = found["0.0.0.0_9000"]
    assert unpacked(shared.filter_chains[0]).rds.route_config_name == "9000"
    assert tcp(shared.default_filter_chain) == "outbound|9000||db.default.svc.cluster.local"
