"""A real Envoy with the native module's pool filter and policy before simulated model servers."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.flows.envoy_process import EnvoyProcess, running_envoy, wait_until

from headrace.envoy import module as native
from headrace.envoy.module_filter import MODULE_NAME
from headrace.inference.simulated_server import ServerSettings, SimulatedServer

STATISTICS = "dynamicmodulescustom.headrace_"
_STRING = "type.googleapis.com/google.protobuf.StringValue"
_TYPED_STRUCT = "type.googleapis.com/xds.type.v3.TypedStruct"
_LB_TYPE = (
    "type.googleapis.com/envoy.extensions.load_balancing_policies.dynamic_modules.v3.DynamicModulesLoadBalancerConfig"
)
_HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_CODEC = "type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"
_HTTP2 = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def module_directory() -> Path:
    """Where the module under test lies: HEADRACE_TEST_MODULE_DIR, or the installed one."""
    return Path(os.environ.get("HEADRACE_TEST_MODULE_DIR") or native.module_path().parent)


def _has_pools() -> bool:
    file = module_directory() / native.FILE_NAME
    return file.is_file() and b"headrace_first_token_ms" in file.read_bytes()


needs_pools = pytest.mark.skipif(
    not _has_pools(), reason=f"the native module in {module_directory()} is not built, or has no pools"
)


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl, the client over HTTP/2, is not installed")


class Upstreams:
    """Model servers on loopback ports, each of its own, in one thread's event loop."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.ports: list[int] = []
        self._runners: list[web.AppRunner] = []
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Any) -> Any:
        """The coroutine's answer."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def add(self, app: web.Application) -> int:
        """Start a server; its port."""
        port: int = self.run(self._start(app))
        self.ports.append(port)
        return port

    async def _start(self, app: web.Application) -> int:
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self._runners.append(runner)
        port: int = runner.addresses[0][1]
        return port

    def kill(self, at: int) -> None:
        """Stop a server, breaking its connections."""
        self.run(self._runners[at].cleanup())

    def close(self) -> None:
        """Stop all."""
        for runner in self._runners:
            self.run(runner.cleanup())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


@contextlib.contextmanager
def upstreams() -> Iterator[Upstreams]:
    """No servers yet."""
    servers = Upstreams()
    try:
        yield servers
    finally:
        servers.close()


def simulated(**settings: Any) -> web.Application:
    """A simulated model server."""
    return SimulatedServer(ServerSettings(**settings)).app()


@dataclass
class PoolBootstrap:
    """What Envoy is given: one listener `front`, and one cluster of each name with these ports.

    `policy` are the settings of the load-balancing policy beside the pool's name; None: plain round robin and no
    filter. Routes are prefixes with the rest of Envoy's route action.
    """

    admin: Path
    clusters: dict[str, list[int]]
    policy: dict[str, Any] | None = field(default_factory=dict)
    routes: list[dict[str, Any]] = field(default_factory=lambda: [{"prefix": "/", "route": {"cluster": "models"}}])
    filter_settings: dict[str, Any] = field(default_factory=lambda: {"debug_headers": True})
    log: Path | None = None
    http2: bool = False
    manager_settings: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The bootstrap as JSON."""
        listener = {
            "name": "front",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
            "filter_chains": [{"filters": [{"name": "hcm", "typed_config": self._manager()}]}],
        }
        clusters = [self._cluster(name, ports) for name, ports in self.clusters.items()]
        resources = {"listeners": [listener], "clusters": clusters}
        admin = {"address": {"pipe": {"path": str(self.admin)}}}
        return json.dumps({"admin": admin, "static_resources": resources}).encode()

    def _manager(self) -> dict[str, Any]:
        routes = [
            {"match": {"prefix": route["prefix"]}, **{k: v for k, v in route.items() if k != "prefix"}}
            for route in self.routes
        ]
        filters: list[dict[str, Any]] = []
        if self.policy is not None:
            if self.policy.get("keepalive_seconds"):
                filters.append(module_filter("keepalive"))
            filters.append(pool_filter(self.filter_settings))
        router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
        filters.append({"name": "router", "typed_config": {"@type": router}})
        manager: dict[str, Any] = {
            "@type": _HCM,
            "stat_prefix": "front",
            "http_filters": filters,
            "route_config": {"virtual_hosts": [{"name": "any", "domains": ["*"], "routes": routes}]},
        }
        manager |= self.manager_settings
        if self.log is not None:
            manager["access_log"] = [_access_log(self.log)]
        return manager

    def _cluster(self, name: str, ports: list[int]) -> dict[str, Any]:
        address = [{"endpoint": {"address": _socket_address(port)}} for port in ports]
        cluster: dict[str, Any] = {
            "name": name,
            "type": "STATIC",
            "connect_timeout": "1s",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": address}]},
        }
        if self.policy is not None:
            cluster["load_balancing_policy"] = pool_policy({"pool": "test/models", **self.policy})
        options: dict[str, Any] = {"@type": _HTTP2, "explicit_http_config": {"http_protocol_options": {}}}
        if self.http2:
            options["explicit_http_config"] = {"http2_protocol_options": {}}
        if self.policy and self.policy.get("resend"):
            options["http_filters"] = [module_filter("attempt"), {"name": "codec", "typed_config": {"@type": _CODEC}}]
        cluster["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options
        }
        return cluster


def _socket_address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def pool_filter(settings: dict[str, Any]) -> dict[str, Any]:
    """The HTTP filter `pool`."""
    return module_filter("pool", json.dumps(settings))


def module_filter(name: str, settings: str = "") -> dict[str, Any]:
    """A filter of the module."""
    return {
        "name": name,
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter",
            "dynamic_module_config": {"name": MODULE_NAME, "do_not_close": True},
            "filter_name": name,
            "filter_config": {"@type": _STRING, "value": settings},
        },
    }


def pool_policy(settings: dict[str, Any]) -> dict[str, Any]:
    """The load-balancing policy `pool`."""
    value = {
        "dynamic_module_config": {"name": MODULE_NAME, "do_not_close": True},
        "lb_policy_name": "pool",
        "lb_policy_config": {"@type": _STRING, "value": json.dumps(settings)},
    }
    typed = {"@type": _TYPED_STRUCT, "type_url": _LB_TYPE, "value": value}
    extension = {"name": "envoy.load_balancing_policies.dynamic_modules", "typed_config": typed}
    return {"policies": [{"typed_extension_config": extension}]}


def _access_log(path: Path) -> dict[str, Any]:
    texts = ("pool", "model", "reason", "endpoint", "outcome")
    numbers = (
        "attempts",
        "resent",
        "predicted_ms",
        "queue_ms",
        "ttft_ms",
        "tokens_estimated",
        "tokens_cached",
        "tokens_in",
        "tokens_out",
    )
    fields = {key: f"%DYNAMIC_METADATA(headrace:{key})%" for key in (*texts, *numbers)}
    fields |= {"status": "%RESPONSE_CODE%", "details": "%RESPONSE_CODE_DETAILS%"}
    return {
        "name": "file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": str(path),
            "log_format": {
                "json_format": {**fields, "status": "%RESPONSE_CODE%", "details": "%RESPONSE_CODE_DETAILS%"}
            },
        },
    }


@contextlib.contextmanager
def pool_envoy(
    bootstrap: PoolBootstrap, more: Mapping[str, str] | None = None, workers: int = 1
) -> Iterator[EnvoyProcess]:
    """Envoy with the module, and with `more` in its environment; `workers`: its threads."""
    environment = {native.SEARCH_PATH: str(module_directory()), **(more or {})}
    with running_envoy(bootstrap.encode(), bootstrap.admin, environment, workers) as envoy:
        wait_until(lambda: envoy.listener_address("front")[1], "the listener listens")
        yield envoy


@dataclass(frozen=True)
class Answer:
    """What a client got."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float

    @property
    def endpoint(self) -> str:
        return self.headers.get("x-headrace-endpoint", "")


def connect(envoy: EnvoyProcess, timeout: float = 20.0) -> http.client.HTTPConnection:
    """A connection to the listener."""
    return http.client.HTTPConnection(*envoy.listener_address("front"), timeout=timeout)


def chat(prompt: str, tokens: int = 1, **more: Any) -> bytes:
    """The body of a chat completion."""
    message = {"role": "user", "content": prompt}
    return json.dumps({"model": "m", "messages": [message], "max_tokens": tokens, **more}).encode()


def ask(envoy: EnvoyProcess, body: bytes, path: str = "/v1/chat/completions", **headers: str) -> Answer:
    """One request, answered whole."""
    begin = time.monotonic()
    with contextlib.closing(connect(envoy)) as connection:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", path, body=body, headers={"content-type": "application/json", **named})
        response = connection.getresponse()
        content = response.read()
        headers_found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers_found, content, time.monotonic() - begin)


def ask_http2(
    envoy: EnvoyProcess, body: bytes, path: str = "/v1/chat/completions"
) -> subprocess.CompletedProcess[bytes]:
    """One request over HTTP/2 without TLS: the answer's body on curl's standard output, its headers on the other."""
    host, port = envoy.listener_address("front")
    command = ["curl", "-sS", "-N", "-D", "/dev/stderr", "--http2-prior-knowledge", "--max-time", "30"]
    command += ["-H", "content-type: application/json", "--data-binary", "@-", f"http://{host}:{port}{path}"]
    return subprocess.run(command, input=body, capture_output=True, timeout=40, check=True)


def in_threads(count: int, work: Any) -> list[Any]:
    """`work(0)` to `work(count - 1)` at once; their answers in order."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(count) as executor:
        return list(executor.map(work, range(count)))


def counters(envoy: EnvoyProcess, name: str) -> dict[str, int]:
    """The module's counters of this name, by their labels."""
    prefix = STATISTICS + name
    found = envoy.stats(re.escape(prefix))
    return {key[len(prefix) :].lstrip("."): value for key, value in found.items()}


def log_lines(path: Path) -> list[dict[str, Any]]:
    """The access log's lines."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
