"""The native module in a real Envoy: it is loaded and called, and whatever is wrong with it is said in one line."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from tests.flows.envoy_process import EnvoyProcess, running_envoy

from headrace.envoy import module as native
from headrace.envoy.binary import pinned_envoy
from headrace.envoy.module_filter import MODULE_NAME, module_filter

needs_module = pytest.mark.skipif(
    not native.module_path().is_file(),
    reason="the native module is not built here (no Rust compiler when headrace was installed)",
)
BIG_BODY = b"x" * 300_000


def bootstrap(admin: Path, *, with_module: bool) -> bytes:
    filters: list[dict[str, Any]] = []
    if with_module:
        filters.append(json_format.MessageToDict(module_filter(), preserving_proto_field_name=True))
    router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
    filters.append({"name": "router", "typed_config": {"@type": router}})
    hcm = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    manager = {
        "@type": hcm,
        "stat_prefix": "test",
        "http_filters": filters,
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "any",
                    "domains": ["*"],
                    "routes": [
                        {"match": {"prefix": "/loop"}, "route": {"cluster": "itself"}},
                        {
                            "match": {"prefix": "/"},
                            "direct_response": {"status": 200, "body": {"inline_string": "through"}},
                        },
                    ],
                }
            ]
        },
    }
    listener = {
        "name": "front",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "hcm", "typed_config": manager}]}],
    }
    clusters = [{"name": "itself", "type": "STATIC", "load_assignment": {"cluster_name": "itself"}}]
    return json.dumps(
        {
            "admin": {"address": {"pipe": {"path": str(admin)}}},
            "static_resources": {"listeners": [listener], "clusters": clusters},
        }
    ).encode()


def ask(envoy: EnvoyProcess, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*envoy.listener_address("front"), timeout=10)
    try:
        connection.request(method, path, body=body or None)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("with_module", [pytest.param(True, marks=needs_module), False])
def test_requests_pass_with_and_without_the_module(tmp_path: Path, with_module: bool) -> None:
    admin = tmp_path / "admin.sock"
    environment = {native.SEARCH_PATH: str(native.module_path().parent)}
    with running_envoy(bootstrap(admin, with_module=with_module), admin, environment) as envoy:
        assert ask(envoy, "GET", "/hello") == (200, b"through")
        assert ask(envoy, "POST", "/hello", BIG_BODY) == (200, b"through")
        assert ask(envoy, "GET", "/loop")[0] == 503  # a local reply passes the module's hook too
        loaded = f"lib{MODULE_NAME}.so" in Path(f"/proc/{envoy.process.pid}/maps").read_text()
        assert loaded == with_module
        assert ("abi version v0.2.0 matched" in envoy.log_text().lower()) == with_module


@needs_module
def test_every_hook_that_envoy_looks_for_is_there() -> None:
    hook = re.compile(rb"envoy_dynamic_module_on_http_filter[a-z_]*\0")
    content = pinned_envoy().read_bytes()
    wanted = {name.rstrip(b"\0") for name in hook.findall(content)}
    assert len(wanted) > 20
    have = native.module_path().read_bytes()
    assert {name for name in wanted if name + b"\0" not in have} == set()


@needs_module
def test_a_good_module_is_usable_and_the_answer_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "module.json"
    check = native.check_module(cache)
    assert check == native.ModuleCheck(True, "", native.module_path())
    assert check.environment() == {native.SEARCH_PATH: str(native.module_path().parent)}
    assert cache.stat().st_mode & 0o777 == 0o600

    def no_more_processes(*_: object, **__: object) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(subprocess, "run", no_more_processes)
    assert native.check_module(cache) == check


@needs_module
def test_a_kept_answer_does_not_hold_for_another_module(tmp_path: Path) -> None:
    cache = tmp_path / "module.json"
    assert native.check_module(cache).usable
    assert not native.check_module(cache, module=_changed_abi(tmp_path)).usable


@needs_module
def test_a_module_of_another_abi_is_reported(tmp_path: Path) -> None:
    wrong = _changed_abi(tmp_path)
    assert native.module_abi(wrong) == "v9.9.9"
    check = native.check_module(module=wrong)
    assert not check.usable
    assert check.environment() == {}
    assert "made for ABI 'v9.9.9', Envoy 1.40.0 needs v0.2.0" in check.problem
    assert check.problem.endswith("the mesh goes on without it and balances by least_request")
    assert "\n" not in check.problem


@needs_module
def test_a_truncated_module_is_reported(tmp_path: Path) -> None:
    broken = tmp_path / native.FILE_NAME
    whole = native.module_path().read_bytes()
    broken.write_bytes(whole[:4096] + b"headrace-module-abi=v0.2.0\0")
    check = native.check_module(module=broken)
    assert not check.usable
    assert "crashes when it loads it (signal 7)" in check.problem
    assert "\n" not in check.problem


def test_a_file_that_is_no_library_is_reported(tmp_path: Path) -> None:
    broken = tmp_path / native.FILE_NAME
    broken.write_bytes(b"no library, but headrace-module-abi=v0.2.0\0")
    check = native.check_module(module=broken)
    assert not check.usable
    assert "refuses it: Failed to load dynamic module" in check.problem
    assert "\n" not in check.problem


def test_a_missing_module_is_reported_with_a_remedy(tmp_path: Path) -> None:
    check = native.check_module(module=tmp_path / native.FILE_NAME)
    assert check.path is None
    assert "install a Rust compiler, then install headrace again" in check.problem


def test_an_envoy_of_another_version_is_reported(tmp_path: Path) -> None:
    other = tmp_path / "envoy"
    other.write_text("#!/bin/sh\necho 'envoy  version: abc123/1.41.2/Clean/RELEASE/BoringSSL'\n")
    other.chmod(0o755)
    module = tmp_path / native.FILE_NAME
    module.write_bytes(b"headrace-module-abi=v0.2.0\0")
    check = native.check_module(envoy=other, module=module)
    assert "is Envoy 1.41.2, the module needs 1.40.0" in check.problem


def _changed_abi(directory: Path) -> Path:
    path = directory / native.FILE_NAME
    path.write_bytes(native.module_path().read_bytes().replace(b"abi=v0.2.0\0", b"abi=v9.9.9\0"))
    return path
