"""What a running mesh adds: guards against the revoked, and an end to connections before their certificates end."""

from __future__ import annotations

from dataclasses import replace

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2 as http_pb2

from headrace.envoy.module_filter import GUARD_FILTER
from headrace.envoy.translate.hcm import Direction, HcmSettings, http_connection_manager
from headrace.envoy.translate.inbound_chains import ChainSettings, ChainTarget, chains_for
from headrace.envoy.translate.lives import bound_client_side, bound_server_side, speaks_mesh_tls
from headrace.model.destination import ClientTls, TlsMode
from headrace.model.mesh import MeshConfig
from headrace.model.security import MtlsMode
from headrace.model.service import Protocol

RUNNING = MeshConfig(guarded=True, connection_life=1100.0)
OFFLINE = MeshConfig()


def chains(protocol: Protocol, mode: MtlsMode, mesh: MeshConfig, module: bool) -> list[listener_pb2.FilterChain]:
    target = ChainTarget("inbound|80||", 80, protocol, "x", ("a", "b"), "op")
    return chains_for(target, mode, ChainSettings(mesh, module))


@pytest.mark.parametrize("protocol", [Protocol.HTTP, Protocol.TCP, Protocol.UNDECLARED])
def test_every_chain_of_mutual_tls_begins_with_the_guard(protocol: Protocol) -> None:
    for mode in (MtlsMode.STRICT, MtlsMode.PERMISSIVE, MtlsMode.DISABLE):
        for chain in chains(protocol, mode, RUNNING, True):
            names = [item.name for item in chain.filters]
            assert (names[0] == GUARD_FILTER) == chain.HasField("transport_socket"), names
            assert GUARD_FILTER not in names[1:]


def test_offline_and_without_the_module_there_is_no_guard() -> None:
    for mesh, module in ((OFFLINE, True), (RUNNING, False)):
        for chain in chains(Protocol.HTTP, MtlsMode.STRICT, mesh, module):
            assert [item.name for item in chain.filters] != []
            assert all(item.name != GUARD_FILTER for item in chain.filters)


def test_ways_out_have_the_guard_of_requests_and_the_way_in_has_not() -> None:
    for direction in Direction:
        settings = HcmSettings(direction, "x", RUNNING, rds="80", module=True)
        names = [item.name for item in http_connection_manager(settings).http_filters]
        assert (GUARD_FILTER in names) == (direction is not Direction.INBOUND)
        plain = http_connection_manager(replace(settings, mesh=OFFLINE))
        assert GUARD_FILTER not in [item.name for item in plain.http_filters]


def test_the_client_s_side_ends_first_and_a_shorter_written_bound_stays() -> None:
    options = http_pb2.HttpProtocolOptions()
    bound_client_side(options, RUNNING)
    common = options.common_http_protocol_options
    assert common.max_connection_duration.seconds == 1000
    assert b"\x42\x09\x09" in common.SerializeToString(), "jitter of ten percent reaches the life, and no more"
    manager = hcm_pb2.HttpConnectionManager()
    bound_server_side(manager, RUNNING)
    assert manager.common_http_protocol_options.max_connection_duration.seconds == 1375
    assert manager.http1_safe_max_connection_duration
    common.max_connection_duration.FromSeconds(7)
    bound_client_side(options, RUNNING)
    assert common.max_connection_duration.seconds == 7
    untouched = hcm_pb2.HttpConnectionManager()
    bound_server_side(untouched, OFFLINE)
    assert untouched == hcm_pb2.HttpConnectionManager()


def test_only_the_mesh_s_own_tls_is_bounded() -> None:
    cluster = cluster_pb2.Cluster()
    assert not speaks_mesh_tls(cluster, None)
    assert not speaks_mesh_tls(cluster, ClientTls(mode=TlsMode.SIMPLE))
    assert speaks_mesh_tls(cluster, ClientTls(mode=TlsMode.ISTIO_MUTUAL))
    cluster.transport_socket_matches.add(name="tlsMode-istio")
    assert speaks_mesh_tls(cluster, None)
