"""RBAC policies, evaluated as Envoy does, on what translation makes of AuthorizationPolicy documents."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.envoy.trace.filters import passed
from headrace.envoy.trace.proxy import follow
from headrace.envoy.trace.rbac import matching
from headrace.envoy.trace.request import Content, Request, Tls

WEB = "spiffe://cluster.local/ns/shop/sa/web"


def rules(permission: dict[str, Any], principal: dict[str, Any]) -> dict[str, Any]:
    return {"policies": {"p": {"permissions": [permission], "principals": [principal]}}}


ANY: dict[str, Any] = {"any": True}


@pytest.mark.parametrize(
    ("permission", "fits"),
    [
        ({"url_path": {"path": {"prefix": "/admin"}}}, True),
        ({"url_path": {"path": {"exact": "/admin"}}}, False),
        ({"destination_port": 8000}, True),
        ({"destination_port": 8001}, False),
        ({"destination_ip": {"address_prefix": "10.0.0.0", "prefix_len": 8}}, True),
        ({"header": {"name": ":method", "string_match": {"exact": "GET"}}}, True),
        ({"not_rule": {"any": True}}, False),
        ({"or_rules": {"rules": [{"destination_port": 1}, {"any": True}]}}, True),
        ({"and_rules": {"rules": [{"destination_port": 1}, {"any": True}]}}, False),
        ({"uri_template": {"typed_config": {"path_template": "/admin/*"}}}, True),
        ({"uri_template": {"typed_config": {"path_template": "/*"}}}, False),
        ({"uri_template": {"typed_config": {"path_template": "/**"}}}, True),
        ({"requested_server_name": {"exact": "a"}}, False),
        ({"something_new": {}}, False),
    ],
)
def test_permissions(permission: dict[str, Any], fits: bool) -> None:
    request = Request("10.1.2.3", 8000, "chat", "/admin/x?q=1")
    assert (matching(rules(permission, ANY), request) == "p") is fits


@pytest.mark.parametrize(
    ("principal", "fits"),
    [
        ({"authenticated": {"principal_name": {"exact": WEB}}}, True),
        ({"authenticated": {"principal_name": {"safe_regex": {"regex": ".*/ns/other/.*"}}}}, False),
        ({"not_id": {"authenticated": {}}}, False),
        ({"direct_remote_ip": {"address_prefix": "10.9.0.0", "prefix_len": 16}}, True),
        ({"remote_ip": {"address_prefix": "10.8.0.0", "prefix_len": 16}}, False),
        ({"header": {"name": "x-user", "present_match": True}}, False),
        ({"and_ids": {"ids": [ANY, ANY]}}, True),
        ({"or_ids": {"ids": [{"not_id": ANY}]}}, False),
    ],
)
def test_principals(principal: dict[str, Any], fits: bool) -> None:
    request = Request("10.1.2.3", 8000, source="10.9.0.1", identity=WEB)
    assert (matching(rules(ANY, principal), request) == "p") is fits


def test_nobody_without_a_certificate_is_authenticated() -> None:
    assert matching(rules(ANY, {"authenticated": {}}), Request("10.0.0.1", 1)) is None


def rbac(**config: Any) -> dict[str, Any]:
    return {"name": "envoy.filters.http.rbac", "typed_config": config}


def test_allow_deny_log_and_shadow() -> None:
    hit, miss = rules(ANY, ANY), rules({"not_rule": ANY}, ANY)
    request = Request("10.0.0.1", 80)
    _, refusal = passed([rbac(rules={"action": "DENY"} | hit)], request, {})
    assert refusal is not None
    assert (refusal.code, refusal.status, refusal.policy) == ("denied", 403, "p")
    _, refusal = passed([rbac(rules=miss)], request, {})
    assert refusal is not None
    assert (refusal.code, refusal.policy) == ("not-allowed", "")
    steps, refusal = passed(
        [rbac(rules={"action": "DENY"} | miss), rbac(rules={"action": "LOG"} | hit), rbac(rules=hit)], request, {}
    )
    assert refusal is None
    assert [step.what for step in steps] == ["authorization", "audit", "authorization"]
    steps, refusal = passed([rbac(shadow_rules={"action": "DENY"} | hit)], request, {})
    assert refusal is None
    assert steps[0].what == "dry run"


def test_a_connection_is_refused_without_a_status() -> None:
    deny = {"name": "envoy.filters.network.rbac", "typed_config": {"rules": {"action": "DENY"} | rules(ANY, ANY)}}
    _, refusal = passed([deny], Request("10.0.0.1", 80, content=Content.TCP), {})
    assert refusal is not None
    assert refusal.status == 0


def proxy(**chain: Any) -> dict[str, Any]:
    place = {"socket_address": {"address": "10.0.0.1", "port_value": 80}}
    tcp = {"name": "envoy.filters.network.tcp_proxy", "typed_config": {"cluster": "c"}}
    return {
        "listeners": [{"name": "l", "address": place, "filter_chains": [{"filters": [tcp], **chain}]}],
        "routes": [],
    }


@pytest.mark.parametrize(
    ("tls", "certificate", "code"),
    [
        (Tls.PLAIN, False, "tls-required"),
        (Tls.SIMPLE, False, ""),
        (Tls.SIMPLE, True, "client-certificate-required"),
        (Tls.MESH, True, ""),
    ],
)
def test_handshakes(tls: Tls, certificate: bool, code: str) -> None:
    socket = {"typed_config": {"require_client_certificate": certificate}}
    request = Request("10.0.0.1", 80, direct=True, tls=tls, content=Content.TCP)
    hop = follow(proxy(transport_socket=socket), request)
    assert (hop.refusal.code if hop.refusal else "") == code
