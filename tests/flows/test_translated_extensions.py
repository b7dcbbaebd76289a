"""What documents attach to a real Envoy: a Lua filter of an EnvoyFilter, a Wasm module, CEL that decides what is
logged, spans to a collector; and what becomes of a patch that Envoy refuses."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from tests.flows import wasm_module
from tests.flows.translated_rig import Mesh, echo, free_port, loopback, mesh

SERVER = "127.0.86.1"
DEADLINE = 30.0
DOCUMENTS = """
apiVersion: v1
kind: Service
metadata: {{name: chat}}
spec:
  selector: {{app: chat}}
  ports: [{{name: http, port: 80, targetPort: {port}}}]
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: chat}}
spec: {{address: 127.0.86.1, labels: {{app: chat, version: v7}}, serviceAccount: chat}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: zipkin}}
spec:
  hosts: [zipkin.example.com]
  ports: [{{name: http, number: 9411, protocol: HTTP}}]
  resolution: STATIC
  endpoints: [{{address: 127.0.0.1, ports: {{http: {collector}}}}}]
---
apiVersion: headrace.dev/v1alpha1
kind: MeshConfig
metadata: {{name: mesh}}
spec:
  extensionProviders:
  - name: zipkin
    zipkin: {{service: zipkin.example.com, port: 9411}}
  - name: file
    envoyFileAccessLog: {{path: "{log}", logFormat: {{text: "%REQ(:PATH)% %RESPONSE_CODE%"}}}}
"""
LUA = """
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: lua}
spec:
  workloadSelector: {labels: {app: chat}}
  configPatches:
  - applyTo: HTTP_FILTER
    match:
      context: SIDECAR_INBOUND
      listener:
        filterChain:
          filter: {name: envoy.filters.network.http_connection_manager, subFilter: {name: envoy.filters.http.router}}
    patch:
      operation: INSERT_BEFORE
      value:
        name: answers
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua
          default_source_code:
            inline_string: 'function envoy_on_response(handle) handle:headers():replace("x-lua", "yes") end'
"""
ELSEWHERE = LUA.replace("name: lua}", "name: lua, namespace: other}")
DISCOVERED = """
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: discovered}
spec:
  configPatches:
  - applyTo: EXTENSION_CONFIG
    patch:
      operation: ADD
      value:
        name: later
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua
          default_source_code:
            inline_string: 'function envoy_on_response(handle) handle:headers():replace("x-later", "yes") end'
  - applyTo: HTTP_FILTER
    match:
      context: SIDECAR_INBOUND
      listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}
    patch:
      operation: INSERT_FIRST
      value:
        name: later
        config_discovery:
          config_source: {ads: {}, resource_api_version: V3}
          type_urls: [type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua]
"""
REFUSED = """
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: wrong}
spec:
  configPatches:
  - applyTo: HTTP_FILTER
    match:
      context: SIDECAR_INBOUND
      listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}
    patch:
      operation: INSERT_FIRST
      value:
        name: wrong
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua
          default_source_code: {inline_string: 'this is no Lua'}
"""
LOGGED = """
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: logs}
spec:
  accessLogging:
  - providers: [{name: file}]
    filter: {expression: 'request.url_path.startsWith("/kept") && response.code == 200'}
"""
TRACED = """
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: traces}
spec:
  tracing:
  - providers: [{name: zipkin}]
    randomSamplingPercentage: 100
    customTags:
      engine: {literal: {value: vllm}}
      tenant: {header: {name: x-tenant}}
"""
WASM = """
---
apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata: {{name: teapot}}
spec:
  selector: {{matchLabels: {{app: chat}}}}
  url: file://{path}
  phase: AUTHN
  match: [{{mode: {mode}}}]
  pluginConfig: {{word: tea}}
"""


@dataclass
class Rig:
    mesh: Mesh
    base: str
    port: int
    log: Path
    spans: list[dict[str, Any]] = field(default_factory=list)

    async def ask(self, path: str, **headers: str) -> tuple[int, str, dict[str, str]]:
        url = f"http://{SERVER}:{self.port}{path}"
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(DEADLINE)) as session,
            session.get(url, headers=headers) as answer,
        ):
            return answer.status, await answer.text(), {key.lower(): value for key, value in answer.headers.items()}


@contextlib.asynccontextmanager
async def collector(spans: list[dict[str, Any]]) -> AsyncIterator[int]:
    """A Zipkin collector; its port."""

    async def take(request: web.Request) -> web.Response:
        spans.extend(await request.json())
        return web.Response(status=202)

    app = web.Application()
    app.router.add_post("/api/v2/spans", take)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield port
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    spans: list[dict[str, Any]] = []
    async with echo() as app, collector(spans) as zipkin:
        port, log = free_port(SERVER), tmp_path / "access.log"
        base = DOCUMENTS.format(port=port, collector=zipkin, log=log)
        async with mesh(base) as running:
            await running.run(loopback(running.described("sidecar/default/chat"), SERVER, ((port, app),)))
            yield Rig(running, base, port, log, spans)


async def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.05)


async def test_patches_change_answers_and_reach_their_own_namespace_only(tmp_path: Path) -> None:
    async with rig(tmp_path) as running:
        assert "x-lua" not in (await running.ask("/"))[2]
        await running.mesh.change(running.base + ELSEWHERE)
        assert "x-lua" not in (await running.ask("/"))[2]
        await running.mesh.change(running.base + LUA)
        assert (await running.ask("/"))[2]["x-lua"] == "yes"
        await running.mesh.change(running.base + DISCOVERED)
        assert (await running.ask("/"))[2]["x-later"] == "yes"
        await running.mesh.change(running.base)
        assert "x-later" not in (await running.ask("/"))[2]


async def test_what_envoy_refuses_is_told_and_the_last_good_patch_stays(tmp_path: Path) -> None:
    async with rig(tmp_path) as running:
        await running.mesh.change(running.base + LUA)
        await running.mesh.change(running.base + REFUSED)
        _, hub = running.mesh.running["chat"]
        status = hub.status("chat")
        assert status is not None
        assert "script load error" in str(status.nacks)
        assert (await running.ask("/"))[2]["x-lua"] == "yes"


async def test_cel_decides_what_is_logged(tmp_path: Path) -> None:
    async with rig(tmp_path) as running:
        await running.mesh.change(running.base + LOGGED)
        for path in ("/kept/1", "/other", "/kept/2"):
            await running.ask(path)
        await until(lambda: running.log.exists() and "/kept/2" in running.log.read_text(), "no log")
        assert running.log.read_text().splitlines() == ["/kept/1 200", "/kept/2 200"]


async def test_spans_say_whose_they_are_and_what_documents_tag(tmp_path: Path) -> None:
    async with rig(tmp_path) as running:
        await running.mesh.change(running.base + TRACED)
        _, body, _ = await running.ask("/traced", **{"x-tenant": "red"})
        assert "x-b3-traceid" in json.loads(body)["headers"]
        await until(lambda: bool(running.spans), "no spans")
        tags = running.spans[0]["tags"]
        assert (tags["engine"], tags["tenant"]) == ("vllm", "red")
        assert (tags["istio.canonical_service"], tags["istio.canonical_revision"]) == ("chat", "v7")
        assert len(running.spans[0]["traceId"]) == 32


async def test_a_wasm_module_from_a_file_stands_before_the_application(tmp_path: Path) -> None:
    path = wasm_module.write(tmp_path)
    async with rig(tmp_path) as running:
        await running.mesh.change(running.base + WASM.format(path=path, mode="CLIENT"))
        assert (await running.ask("/"))[0] == 200
        await running.mesh.change(running.base + WASM.format(path=path, mode="SERVER"))
        status, body, _ = await running.ask("/")
        assert (status, body) == (wasm_module.STATUS, wasm_module.BODY.decode())


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ("failStrategy: FAIL_CLOSE", 403),
        ("failStrategy: FAIL_OPEN", 200),
        ("type: NETWORK\n  failStrategy: FAIL_OPEN", 200),
    ],
)
async def test_a_module_that_is_not_there_takes_no_listener_along(tmp_path: Path, settings: str, status: int) -> None:
    there, missing = wasm_module.write(tmp_path), tmp_path / "missing.wasm"
    async with rig(tmp_path) as running:
        broken = WASM.format(path=missing, mode="SERVER") + f"  {settings}\n"
        await running.mesh.change(running.base + broken + LUA)
        _, hub = running.mesh.running["chat"]
        told = hub.status("chat")
        assert told is not None
        ((refused,),) = (nack.resources for nack in told.nacks)
        assert refused.startswith("extensions.istio.io/trafficextension/default.teapot")
        found, _, headers = await running.ask("/")
        assert (found, headers.get("x-lua")) == (status, "yes"), "all else that changed is there"
        await running.mesh.change(running.base + WASM.format(path=there, mode="SERVER"))
        async with asyncio.timeout(
            DEADLINE
        ):  # workers take a module when they come to it, after Envoy has acknowledged
            while (await running.ask("/"))[0] != wasm_module.STATUS:
                await asyncio.sleep(0.05)
