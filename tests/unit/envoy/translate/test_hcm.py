"""Connection managers: filter order, defaults and access logs."""

from __future__ import annotations

import json

import pytest
from tests.unit.envoy.translate.samples import plain

from headrace.envoy.translate.hcm import Direction, HcmSettings, http_connection_manager
from headrace.model.mesh import MeshConfig


def manager(direction: Direction = Direction.OUTBOUND, mesh: MeshConfig | None = None, module: bool = False) -> dict:
    settings = HcmSettings(direction, "test", mesh or MeshConfig(), rds="80", module=module)
    return plain(http_connection_manager(settings))


def test_filters_stand_in_istios_order_with_the_module_first() -> None:
    names = [item["name"].rpartition(".")[2] for item in manager(module=True)["http_filters"]]
    assert names == ["dynamic_modules", "grpc_stats", "fault", "cors", "router"]
    module = manager(module=True)["http_filters"][0]["typed_config"]
    assert module["dynamic_module_config"]["name"] == "headrace_envoy"
    assert module["filter_name"] == "noop"
    assert "dynamic_modules" not in str(manager())


@pytest.mark.parametrize("direction", list(Direction))
def test_defaults_are_istios(direction: Direction) -> None:
    found = manager(direction)
    assert found["normalize_path"] is True
    assert "merge_slashes" not in found
    assert found["path_with_escaped_slashes_action"] == "KEEP_UNCHANGED"
    assert found["stream_idle_timeout"] == "0s"
    assert found["upgrade_configs"] == [{"upgrade_type": "websocket"}]
    assert found["use_remote_address"] is (direction is Direction.GATEWAY)
    assert found["rds"]["config_source"] == {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"}


def test_only_a_gateway_replaces_what_came_about_the_client() -> None:
    assert "forward_client_cert_details" not in manager(Direction.OUTBOUND)
    assert manager(Direction.INBOUND)["forward_client_cert_details"] == "APPEND_FORWARD"
    gateway = manager(Direction.GATEWAY)
    assert gateway["forward_client_cert_details"] == "SANITIZE_SET"
    assert gateway["set_current_client_cert_details"] == {"subject": True, "cert": True, "dns": True, "uri": True}


def test_no_access_log_unless_asked_for() -> None:
    assert "access_log" not in manager()


def test_default_text_log_is_istios_line() -> None:
    log = manager(mesh=MeshConfig(access_log_file="/dev/stdout"))["access_log"][0]["typed_config"]
    line = log["log_format"]["text_format_source"]["inline_string"]
    assert log["path"] == "/dev/stdout"
    assert line.startswith(
        '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE%'
    )
    assert line.endswith("%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n")
    assert line.count("%") == 48


def test_own_text_format_gets_its_newline() -> None:
    mesh = MeshConfig(access_log_file="/dev/stdout", access_log_format="%RESPONSE_CODE%")
    log = manager(mesh=mesh)["access_log"][0]["typed_config"]
    assert log["log_format"]["text_format_source"]["inline_string"] == "%RESPONSE_CODE%\n"


@pytest.mark.parametrize(
    ("written", "expected"),
    [(json.dumps({"code": "%RESPONSE_CODE%"}), {"code": "%RESPONSE_CODE%"}), ("{not json", None), ("[1]", None)],
)
def test_json_log_has_the_written_fields_or_istios(written: str, expected: dict | None) -> None:
    mesh = MeshConfig(access_log_file="/x", access_log_encoding="JSON", access_log_format=written)
    fields = manager(mesh=mesh)["access_log"][0]["typed_config"]["log_format"]["json_format"]
    if expected is None:
        assert fields["upstream_cluster"] == "%UPSTREAM_CLUSTER_RAW%"
        assert len(fields) == 24
    else:
        assert fields == expected
