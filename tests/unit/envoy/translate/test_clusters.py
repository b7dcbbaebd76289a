"""Clusters: what a DestinationRule and the defaults make of a service."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2
from tests.unit.envoy.translate.outbound_rig import Rig, http_options, tls_context
from tests.unit.registry.meshes import Mesh, entry, port, rule, service, subset, workload

from headrace.envoy.resources import SECRET
from headrace.model.destination import (
    ClientTls,
    ConnectionPool,
    ConsistentHash,
    LbPolicy,
    LoadBalancer,
    OutlierDetection,
    PortPolicy,
    TcpKeepalive,
    TlsMode,
    TrafficPolicy,
)
from headrace.model.mesh import MeshConfig
from headrace.model.service import InlineEndpoint, Protocol, Resolution
from headrace.model.workload import Engine

Cluster = cluster_pb2.Cluster
CHAT = "outbound|8000||chat.default.svc.cluster.local"
V1 = "outbound|8000|v1|chat.default.svc.cluster.local"
UNLIMITED = 2**32 - 1


def chat(*extra: Any, policy: TrafficPolicy | None = None, config: MeshConfig | None = None) -> dict[str, Any]:
    """Clusters of a mesh with the service `chat` and its workload, under `policy`."""
    mesh = Mesh(config or MeshConfig()).put(service("chat"), workload("chat"), *extra)
    if policy is not None:
        mesh.put(rule("chat", policy=policy))
    return Rig(mesh).clusters()


def shaped(**policy: Any) -> Any:
    """The cluster of `chat` under a rule with these blocks."""
    return chat(policy=TrafficPolicy(**policy))[CHAT]


class TestDefaults:
    def test_of_a_service(self) -> None:
        cluster = chat()[CHAT]
        assert cluster.type == Cluster.EDS
        assert cluster.eds_cluster_config.service_name == CHAT
        assert cluster.lb_policy == Cluster.LEAST_REQUEST
        assert cluster.connect_timeout.seconds == 10
        (limits,) = cluster.circuit_breakers.thresholds
        for name in ("max_connections", "max_pending_requests", "max_requests", "max_retries"):
            assert getattr(limits, name).value == UNLIMITED
        assert not cluster.HasField("outlier_detection")
        assert not cluster.HasField("upstream_connection_options")
        assert not cluster.typed_extension_protocol_options

    def test_the_fixed_clusters(self) -> None:
        clusters = chat()
        assert clusters["BlackHoleCluster"].type == Cluster.STATIC
        through = clusters["PassthroughCluster"]
        assert (through.type, through.lb_policy) == (Cluster.ORIGINAL_DST, Cluster.CLUSTER_PROVIDED)
        assert http_options(through).HasField("use_downstream_protocol_config")

    def test_metadata_says_what_shaped_it(self) -> None:
        about = chat(rule("chat", subset("v1")))[V1].metadata.filter_metadata["istio"]
        assert about["subset"] == "v1"
        assert about["config"].endswith("/namespaces/default/destination-rule/chat")
        assert about["services"][0]["host"] == "chat.default.svc.cluster.local"

    def test_every_port_but_udp_has_a_cluster(self) -> None:
        mesh = Mesh().put(service("dns", port(53, Protocol.UDP), port(80)))
        assert [name for name in Rig(mesh).clusters() if "dns" in name] == [
            "outbound|80||dns.default.svc.cluster.local"
        ]

    def test_a_model_server_is_connected_to_in_seconds(self) -> None:
        mesh = Mesh().put(service("chat"), workload("chat", engine=Engine.VLLM))
        assert Rig(mesh).clusters()[CHAT].connect_timeout.seconds == 2


class TestDiscovery:
    @pytest.mark.parametrize(
        ("resolution", "kind"),
        [(Resolution.DNS, Cluster.STRICT_DNS), (Resolution.DNS_ROUND_ROBIN, Cluster.LOGICAL_DNS)],
    )
    def test_by_name(self, resolution: Resolution, kind: int) -> None:
        cluster = Rig(Mesh().put(entry("api.example.com", resolution=resolution))).clusters()[
            "outbound|80||api.example.com"
        ]
        assert cluster.type == kind
        (group,) = cluster.load_assignment.endpoints
        (found,) = group.lb_endpoints
        assert found.endpoint.address.socket_address.address == "api.example.com"
        assert found.endpoint.address.socket_address.port_value == 80

    def test_by_name_without_endpoints_is_left_out(self) -> None:
        item = entry("api.example.com", resolution=Resolution.DNS, workload_selector={"app": "none"})
        assert "outbound|80||api.example.com" not in Rig(Mesh().put(item)).clusters()

    def test_static_entries_have_assignments(self) -> None:
        item = entry("api.example.com", endpoints=(InlineEndpoint("10.0.0.1"),))
        assert Rig(Mesh().put(item)).clusters()["outbound|80||api.example.com"].type == Cluster.EDS

    def test_none_goes_to_the_original_destination(self) -> None:
        cluster = Rig(Mesh().put(entry("*.example.com", resolution=Resolution.NONE))).clusters()[
            "outbound|80||*.example.com"
        ]
        assert (cluster.type, cluster.lb_policy) == (Cluster.ORIGINAL_DST, Cluster.CLUSTER_PROVIDED)

    def test_passthrough_makes_an_original_destination_of_it(self) -> None:
        rig = Rig(Mesh().put(service("chat"), workload("chat")))
        rig.mesh.put(rule("chat", policy=TrafficPolicy(LoadBalancer(LbPolicy.PASSTHROUGH))))
        cluster = rig.clusters()[CHAT]
        assert (cluster.type, cluster.lb_policy) == (Cluster.ORIGINAL_DST, Cluster.CLUSTER_PROVIDED)
        assert not cluster.HasField("eds_cluster_config")
        assert CHAT not in rig.endpoints()

    def test_passthrough_balances_where_addresses_lead_nowhere(self) -> None:
        rig = Rig(Mesh(MeshConfig(routed=False)).put(service("chat"), workload("chat")))
        rig.mesh.put(rule("chat", policy=TrafficPolicy(LoadBalancer(LbPolicy.PASSTHROUGH))))
        cluster = rig.clusters()[CHAT]
        assert (cluster.type, cluster.lb_policy) == (Cluster.EDS, Cluster.LEAST_REQUEST)
        assert CHAT in rig.endpoints()


class TestLoadBalancer:
    @pytest.mark.parametrize(
        ("simple", "expected"),
        [
            (LbPolicy.UNSPECIFIED, Cluster.LEAST_REQUEST),
            (LbPolicy.LEAST_REQUEST, Cluster.LEAST_REQUEST),
            (LbPolicy.ROUND_ROBIN, Cluster.ROUND_ROBIN),
            (LbPolicy.RANDOM, Cluster.RANDOM),
        ],
    )
    def test_simple(self, simple: LbPolicy, expected: int) -> None:
        assert shaped(load_balancer=LoadBalancer(simple)).lb_policy == expected

    def test_ring_hash_with_istios_size(self) -> None:
        cluster = shaped(load_balancer=LoadBalancer(consistent_hash=ConsistentHash(header="x-user")))
        assert cluster.lb_policy == Cluster.RING_HASH
        assert cluster.ring_hash_lb_config.minimum_ring_size.value == 1024

    def test_maglev(self) -> None:
        key = ConsistentHash(use_source_ip=True, maglev=True, maglev_table_size=1009)
        cluster = shaped(load_balancer=LoadBalancer(consistent_hash=key))
        assert cluster.lb_policy == Cluster.MAGLEV
        assert cluster.maglev_lb_config.table_size.value == 1009


class TestPool:
    def test_limits_and_timeouts(self) -> None:
        pool = ConnectionPool(
            max_connections=1,
            connect_timeout=0.5,
            tcp_keepalive=TcpKeepalive(probes=3, time=60, interval=5),
            max_connection_duration=300,
            http1_max_pending_requests=2,
            http2_max_requests=3,
            max_requests_per_connection=4,
            max_retries=5,
            http_idle_timeout=30,
        )
        cluster = shaped(connection_pool=pool)
        (limits,) = cluster.circuit_breakers.thresholds
        assert limits.max_connections.value == 1
        assert limits.max_pending_requests.value == 2
        assert limits.max_requests.value == 3
        assert limits.max_retries.value == 5
        assert cluster.connect_timeout.nanos == 500_000_000
        alive = cluster.upstream_connection_options.tcp_keepalive
        assert (alive.keepalive_probes.value, alive.keepalive_time.value, alive.keepalive_interval.value) == (3, 60, 5)
        common = http_options(cluster).common_http_protocol_options
        assert common.idle_timeout.seconds == 30
        assert common.max_requests_per_connection.value == 4
        assert common.max_connection_duration.seconds == 300
        assert http_options(cluster).explicit_http_config.HasField("http_protocol_options")

    def test_the_tcp_idle_timeout_counts_where_http_has_none(self) -> None:
        cluster = shaped(connection_pool=ConnectionPool(tcp_idle_timeout=7))
        assert http_options(cluster).common_http_protocol_options.idle_timeout.seconds == 7

    def test_http2_by_upgrade_with_a_stream_limit(self) -> None:
        cluster = shaped(connection_pool=ConnectionPool(h2_upgrade_policy="UPGRADE", max_concurrent_streams=9))
        h2 = http_options(cluster).explicit_http_config.http2_protocol_options
        assert h2.max_concurrent_streams.value == 9

    def test_the_clients_protocol_beats_the_upgrade(self) -> None:
        cluster = shaped(connection_pool=ConnectionPool(h2_upgrade_policy="UPGRADE", use_client_protocol=True))
        assert http_options(cluster).HasField("use_downstream_protocol_config")

    @pytest.mark.parametrize("protocol", [Protocol.HTTP2, Protocol.GRPC, Protocol.GRPC_WEB])
    def test_declared_http2(self, protocol: Protocol) -> None:
        cluster = Rig(Mesh().put(service("chat", port(8000, protocol)))).clusters()[CHAT]
        assert http_options(cluster).explicit_http_config.HasField("http2_protocol_options")
        assert (
            "h2" in tls_context(cluster.transport_socket_matches[0].transport_socket).common_tls_context.alpn_protocols
        )

    def test_an_undeclared_protocol_follows_the_client(self) -> None:
        cluster = Rig(Mesh().put(service("chat", port(8000, Protocol.UNDECLARED)))).clusters()[CHAT]
        assert http_options(cluster).HasField("use_downstream_protocol_config")


class TestOutlierDetection:
    def test_the_articles_rule(self) -> None:
        settings = OutlierDetection(
            consecutive_5xx_errors=5, interval=10, base_ejection_time=180, max_ejection_percent=100
        )
        cluster = shaped(outlier_detection=settings)
        found = cluster.outlier_detection
        assert (found.consecutive_5xx.value, found.enforcing_consecutive_5xx.value) == (5, 100)
        assert (found.interval.seconds, found.base_ejection_time.seconds) == (10, 180)
        assert found.max_ejection_percent.value == 100
        assert found.enforcing_success_rate.value == 0
        assert found.HasField("enforcing_success_rate")
        assert cluster.common_lb_config.HasField("healthy_panic_threshold")
        assert cluster.common_lb_config.healthy_panic_threshold.value == 0

    def test_zero_switches_off_and_unset_keeps_envoys_defaults(self) -> None:
        found = shaped(outlier_detection=OutlierDetection(consecutive_5xx_errors=0)).outlier_detection
        assert found.HasField("enforcing_consecutive_5xx")
        assert found.enforcing_consecutive_5xx.value == 0
        for name in ("interval", "base_ejection_time", "max_ejection_percent", "consecutive_gateway_failure"):
            assert not found.HasField(name)

    def test_gateway_errors_and_local_failures(self) -> None:
        settings = OutlierDetection(
            consecutive_gateway_errors=3,
            split_external_local_origin_errors=True,
            consecutive_local_origin_failures=2,
            min_health_percent=40,
        )
        cluster = shaped(outlier_detection=settings)
        found = cluster.outlier_detection
        assert found.enforcing_consecutive_gateway_failure.value == 100
        assert found.consecutive_local_origin_failure.value == 2
        assert found.enforcing_consecutive_local_origin_failure.value == 100
        assert cluster.common_lb_config.healthy_panic_threshold.value == 40


class TestTls:
    def test_automatic(self) -> None:
        mutual, plain = chat()[CHAT].transport_socket_matches
        assert mutual.match["tlsMode"] == "istio"
        context = tls_context(mutual.transport_socket)
        assert context.sni == "outbound_.8000_._.chat.default.svc.cluster.local"
        common = context.common_tls_context
        assert list(common.alpn_protocols) == ["istio-peer-exchange", "istio"]
        assert common.tls_params.tls_maximum_protocol_version == common_pb2.TlsParameters.TLSv1_3
        assert common.tls_params.tls_minimum_protocol_version == common_pb2.TlsParameters.TLSv1_3
        rules = common.combined_validation_context.default_validation_context
        (san,) = rules.match_typed_subject_alt_names
        assert san.matcher.exact == "spiffe://cluster.local/ns/default/sa/default"
        assert plain.name == "tlsMode-disabled"
        assert not plain.match.fields

    def test_automatic_of_a_subset_has_its_own_sni(self) -> None:
        match = chat(rule("chat", subset("v1")))[V1].transport_socket_matches[0]
        assert tls_context(match.transport_socket).sni == "outbound_.8000_.v1_.chat.default.svc.cluster.local"

    def test_none_where_the_mesh_has_it_off_or_the_service_is_outside(self) -> None:
        off = chat(config=MeshConfig(enable_auto_mtls=False))[CHAT]
        assert not off.transport_socket_matches
        outside = Rig(Mesh().put(entry("api.example.com", endpoints=(InlineEndpoint("10.0.0.1"),)))).clusters()
        assert not outside["outbound|80||api.example.com"].transport_socket_matches

    def test_disable_is_plain(self) -> None:
        cluster = shaped(tls=ClientTls(TlsMode.DISABLE))
        assert not cluster.transport_socket_matches
        assert not cluster.HasField("transport_socket")

    def test_istio_mutual_is_for_every_endpoint(self) -> None:
        written = ClientTls(TlsMode.ISTIO_MUTUAL, sni="own.example", subject_alt_names=("spiffe://x/ns/a/sa/b",))
        cluster = shaped(tls=written)
        assert not cluster.transport_socket_matches
        context = tls_context(cluster.transport_socket)
        assert context.sni == "own.example"
        rules = context.common_tls_context.combined_validation_context.default_validation_context
        assert [item.matcher.exact for item in rules.match_typed_subject_alt_names] == ["spiffe://x/ns/a/sa/b"]

    def originated(self, tls: ClientTls) -> tuple[Any, Any]:
        mesh = Mesh().put(
            entry("api.example.com", ports=(port(443, Protocol.HTTPS),), resolution=Resolution.DNS),
            rule("api.example.com", policy=TrafficPolicy(tls=tls)),
        )
        cluster = Rig(mesh).clusters()["outbound|443||api.example.com"]
        return cluster, tls_context(cluster.transport_socket)

    def test_simple_verifies_the_name_it_asked_for_against_the_hosts_roots(self) -> None:
        cluster, context = self.originated(ClientTls(TlsMode.SIMPLE))
        upstream = http_options(cluster).upstream_http_protocol_options
        assert (upstream.auto_sni, upstream.auto_san_validation) == (True, True)
        common = context.common_tls_context
        assert common.combined_validation_context.validation_context_sds_secret_config.name == "file-root:system"
        assert common.tls_params.tls_maximum_protocol_version == common_pb2.TlsParameters.TLSv1_3

    def test_a_written_sni_is_used(self) -> None:
        cluster, context = self.originated(ClientTls(TlsMode.SIMPLE, sni="api", subject_alt_names=("api",)))
        assert context.sni == "api"
        assert not http_options(cluster).upstream_http_protocol_options.auto_sni

    def test_mutual_by_files_which_fail_alone(self) -> None:
        files = ClientTls(TlsMode.MUTUAL, client_certificate="/c.pem", private_key="/k.pem", ca_certificates="/ca.pem")
        mesh = Mesh().put(entry("api.example.com"), rule("api.example.com", policy=TrafficPolicy(tls=files)))
        rig = Rig(mesh)
        common = tls_context(rig.clusters()["outbound|80||api.example.com"].transport_socket).common_tls_context
        assert common.tls_certificate_sds_secret_configs[0].name == "file-cert:/c.pem~/k.pem"
        secrets = rig.parsed(SECRET)
        assert secrets["file-cert:/c.pem~/k.pem"].tls_certificate.private_key.filename == "/k.pem"
        assert secrets["file-root:/ca.pem"].validation_context.trusted_ca.filename == "/ca.pem"

    def test_mutual_by_credential(self) -> None:
        _, context = self.originated(ClientTls(TlsMode.MUTUAL, credential_name="up"))
        common = context.common_tls_context
        assert common.tls_certificate_sds_secret_configs[0].name == "kubernetes://up"
        root = common.combined_validation_context.validation_context_sds_secret_config
        assert root.name == "kubernetes://up-cacert"

    def test_verification_is_off_only_by_word(self) -> None:
        cluster, context = self.originated(ClientTls(TlsMode.SIMPLE, insecure_skip_verify=True))
        rules = context.common_tls_context.validation_context
        assert rules.trust_chain_verification == common_pb2.CertificateValidationContext.ACCEPT_UNTRUSTED
        assert not http_options(cluster).upstream_http_protocol_options.auto_san_validation


class TestInheritance:
    def test_a_subset_overrides_by_block(self) -> None:
        whole = TrafficPolicy(
            load_balancer=LoadBalancer(LbPolicy.ROUND_ROBIN), connection_pool=ConnectionPool(max_connections=1)
        )
        own = TrafficPolicy(connection_pool=ConnectionPool(http2_max_requests=7))
        cluster = chat(rule("chat", subset("v1", own), policy=whole))[V1]
        (limits,) = cluster.circuit_breakers.thresholds
        assert cluster.lb_policy == Cluster.ROUND_ROBIN
        assert (limits.max_connections.value, limits.max_requests.value) == (UNLIMITED, 7)

    def test_settings_of_a_port_replace_all_blocks(self) -> None:
        ports = (PortPolicy(8000, connection_pool=ConnectionPool(max_connections=3)),)
        whole = TrafficPolicy(load_balancer=LoadBalancer(LbPolicy.ROUND_ROBIN), ports=ports)
        cluster = chat(policy=whole)[CHAT]
        assert cluster.lb_policy == Cluster.LEAST_REQUEST
        assert cluster.circuit_breakers.thresholds[0].max_connections.value == 3

    def test_settings_of_a_subsets_port_replace_the_rules_too(self) -> None:
        own = TrafficPolicy(ports=(PortPolicy(8000, outlier_detection=OutlierDetection()),))
        whole = TrafficPolicy(load_balancer=LoadBalancer(LbPolicy.ROUND_ROBIN))
        clusters = chat(rule("chat", subset("v1", own), policy=whole))
        assert clusters[V1].lb_policy == Cluster.LEAST_REQUEST
        assert clusters[CHAT].lb_policy == Cluster.ROUND_ROBIN
