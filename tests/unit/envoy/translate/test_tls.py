"""TLS sockets: what is offered, what is demanded, where keys come from."""

from __future__ import annotations

from typing import Any

from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from tests.unit.envoy.translate.samples import plain

from headrace.envoy.translate.tls import gateway_downstream, mesh_upstream
from headrace.model.gateway import ServerTls, ServerTlsMode
from headrace.model.mesh import MeshConfig

MESH = MeshConfig(trust_domain="td.example")


def upstream(**settings: Any) -> dict:
    context = tls_pb2.UpstreamTlsContext()
    mesh_upstream(MESH, "sni", settings.pop("identities", ()), **settings).typed_config.Unpack(context)
    return plain(context)


def server(tls: ServerTls) -> dict:
    context = tls_pb2.DownstreamTlsContext()
    gateway_downstream(MESH, tls).typed_config.Unpack(context)
    return plain(context)


def sans(context: dict) -> list[dict]:
    validation = context["common_tls_context"]["combined_validation_context"]["default_validation_context"]
    return validation.get("match_typed_subject_alt_names", [])


def test_client_accepts_exactly_the_known_identities() -> None:
    found = upstream(identities=("spiffe://td.example/ns/b/sa/b", "spiffe://td.example/ns/a/sa/a"))
    assert sans(found) == [
        {"san_type": "URI", "matcher": {"exact": "spiffe://td.example/ns/a/sa/a"}},
        {"san_type": "URI", "matcher": {"exact": "spiffe://td.example/ns/b/sa/b"}},
    ]


def test_client_without_known_identities_still_wants_the_trust_domain() -> None:
    assert sans(upstream()) == [{"san_type": "URI", "matcher": {"prefix": "spiffe://td.example/"}}]


def test_client_speaks_tls_1_3_only_and_gets_keys_from_the_agent() -> None:
    found = upstream(http2=True)
    assert found["sni"] == "sni"
    common = found["common_tls_context"]
    assert set(common["tls_params"].values()) == {"TLSv1_3"}
    assert common["alpn_protocols"] == ["istio-peer-exchange", "istio", "h2"]
    (secret,) = common["tls_certificate_sds_secret_configs"]
    assert secret["name"] == "default"
    source = secret["sds_config"]["api_config_source"]
    assert source["api_type"] == "DELTA_GRPC"
    (service,) = source["grpc_services"]
    assert service["envoy_grpc"]["cluster_name"] == "agent"
    assert service["envoy_grpc"]["retry_policy"]["retry_back_off"] == {"base_interval": "0.100s", "max_interval": "1s"}


def test_simple_server_takes_its_credential_over_ads_and_no_client_certificate() -> None:
    found = server(ServerTls(ServerTlsMode.SIMPLE, credentials=("chat-cert",)))
    assert found["require_client_certificate"] is False
    common = found["common_tls_context"]
    assert common["tls_certificate_sds_secret_configs"] == [
        {"name": "kubernetes://chat-cert", "sds_config": {"ads": {}, "resource_api_version": "V3"}}
    ]
    assert "combined_validation_context" not in common
    assert common["tls_params"] == {"tls_minimum_protocol_version": "TLSv1_2"}


def test_mutual_server_demands_a_client_certificate_of_the_credentials_ca() -> None:
    tls = ServerTls(ServerTlsMode.MUTUAL, credentials=("chat",), subject_alt_names=("spiffe://a/b", "client.example"))
    found = server(tls)
    assert found["require_client_certificate"] is True
    validation = found["common_tls_context"]["combined_validation_context"]
    assert validation["validation_context_sds_secret_config"]["name"] == "kubernetes://chat-cacert"
    assert [(item["san_type"], item["matcher"]["exact"]) for item in sans(found)] == [
        ("URI", "spiffe://a/b"),
        ("DNS", "client.example"),
        ("IP_ADDRESS", "client.example"),
    ]


def test_optional_mutual_checks_a_certificate_that_is_shown() -> None:
    found = server(ServerTls(ServerTlsMode.OPTIONAL_MUTUAL, credentials=("chat",)))
    assert found["require_client_certificate"] is False
    assert "combined_validation_context" in found["common_tls_context"]


def test_files_and_protocol_bounds() -> None:
    tls = ServerTls(
        ServerTlsMode.MUTUAL,
        certificates=(("/c.pem", "/k.pem"),),
        ca_certificates="/ca.pem",
        min_protocol_version="TLSV1_3",
        max_protocol_version="TLSV1_3",
    )
    common = server(tls)["common_tls_context"]
    assert common["tls_certificate_sds_secret_configs"][0]["name"] == "file-cert:/c.pem~/k.pem"
    assert common["combined_validation_context"]["validation_context_sds_secret_config"]["name"] == "file-root:/ca.pem"
    assert common["tls_params"] == {
        "tls_minimum_protocol_version": "TLSv1_3",
        "tls_maximum_protocol_version": "TLSv1_3",
    }
