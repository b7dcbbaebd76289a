"""Loopback capture: names with ports, one listener a port, and what the proxy's own listener demands."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.envoy.translate.samples import decoded, plain, unpacked, view

from headrace.envoy.resources import ResourceSet
from headrace.envoy.translate import loopback
from headrace.envoy.translate.memo import Memo
from headrace.envoy.translate.virtual_hosts import with_port
from headrace.envoy.validation import refusal
from headrace.model.mesh import MeshConfig, OutboundMode
from headrace.model.proxy import Capture, CaptureKind
from headrace.model.security import MtlsMode

CAPTURE = Capture(CaptureKind.LOOPBACK, 15001, "app:{SHA}0DPiKuNIrrVmD8IUCuw1hQxNqZc=", ((8000, 41000),))


def built(*ports: tuple[int, str], **settings: Any) -> dict[str, Any]:
    return decoded(loopback.resources(Memo(), view(*ports, capture=CAPTURE, **settings)))


@pytest.mark.parametrize(
    ("domains", "port", "expected"),
    [
        (["chat"], 8000, ["chat:8000"]),
        (["chat"], 80, ["chat:80", "chat"]),
        (["*.example.com"], 8000, ["*.example.com:8000"]),
        (["chat:8000"], 8000, ["chat:8000"]),
        (["[::1]"], 8000, ["[::1]:8000"]),
        (["10.0.0.1"], 80, ["10.0.0.1:80", "10.0.0.1"]),
    ],
)
def test_a_domain_gets_its_port(domains: list[str], port: int, expected: list[str]) -> None:
    assert with_port(domains, port) == expected


def test_each_port_listens_on_the_replicas_own_address_and_leads_to_the_process() -> None:
    found = built((8000, "HTTP"), (9000, "TCP"))
    assert {name for name in found if name.startswith("127.")} == {
        "127.0.0.9_8000",
        "127.0.0.9_9000",
        "127.0.0.9_15001",
    }
    assert "virtualInbound" not in found
    for port, local in ((8000, 41000), (9000, 9000)):
        (endpoint,) = found[f"inbound|{port}||"].load_assignment.endpoints[0].lb_endpoints
        address = endpoint.endpoint.address.socket_address
        assert (address.address, address.port_value) == ("127.0.0.1", local)


def test_strict_ports_have_no_chain_for_plaintext() -> None:
    found = built((8000, "HTTP"), (9000, "TCP"), mode=MtlsMode.STRICT)
    for name in ("127.0.0.9_8000", "127.0.0.9_9000"):
        assert [chain.HasField("transport_socket") for chain in found[name].filter_chains] == [True]


def test_an_undeclared_port_carries_http_because_only_http_is_captured() -> None:
    (chain,) = built((7000, "UNDECLARED"), mode=MtlsMode.STRICT)["127.0.0.9_7000"].filter_chains
    assert unpacked(chain) is not None


def test_the_proxy_demands_credentials_before_anything_else_and_forwards_none() -> None:
    found = built()
    (chain,) = found["127.0.0.9_15001"].filter_chains
    first = plain(unpacked(chain))["http_filters"][0]
    assert first["name"] == "envoy.filters.http.basic_auth"
    assert first["typed_config"]["authentication_header"] == "proxy-authorization"
    assert first["typed_config"]["users"] == {"inline_string": CAPTURE.credentials}
    assert list(found["http_proxy"].request_headers_to_remove) == ["proxy-authorization"]


def test_unknown_hosts_are_refused_where_only_the_registry_may_be_called() -> None:
    found = built(mesh=MeshConfig(outbound_mode=OutboundMode.REGISTRY_ONLY))
    host = found["http_proxy"].virtual_hosts[-1]
    assert (host.name, host.routes[0].direct_response.status) == ("block_all", 502)
    assert "AllowAnyDynamicDNSCluster" not in found
    names = [item.name for item in unpacked(found["127.0.0.9_15001"].filter_chains[0]).http_filters]
    assert "envoy.filters.http.dynamic_forward_proxy" not in names


def test_envoy_accepts_it() -> None:
    ports = ((8000, "HTTP"), (9000, "TCP"), (7000, "UNDECLARED"), (5000, "GRPC"))
    sets = {
        mode.value: ResourceSet.collect(loopback.resources(Memo(), view(*ports, capture=CAPTURE, mode=mode)))
        for mode in (MtlsMode.STRICT, MtlsMode.PERMISSIVE, MtlsMode.DISABLE)
    }
    assert refusal(sets) is None
