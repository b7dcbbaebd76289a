"""Credentials that a sidecar puts into requests: the server gets them over TLS, the application never has them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web
from tests.flows.envoy_process import EnvoyProcess
from tests.flows.test_translated_origination import Authority
from tests.flows.translated_rig import PASSWORD, USER, Mesh, free_port, loopback, mesh

from headrace.model.proxy import Proxy

CLIENT = "127.0.85.3"
OLD, NEW = "sk-old-4f1c9a7be2", "sk-new-93d05b16fc"
DOCUMENTS = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: api}}
spec:
  hosts: [api.example]
  ports: [{{name: http, number: 80, protocol: HTTP}}]
  resolution: {resolution}
  endpoints: [{{address: {address}, ports: {{http: {port}}}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: api}}
spec: {{host: api.example, trafficPolicy: {{tls: {{mode: SIMPLE, caCertificates: {ca}}}}}}}
---
apiVersion: headrace.dev/v1alpha1
kind: InferencePolicy
metadata: {{name: api, annotations: {{galley.istio.io/analyze-suppress: HR0107}}}}
spec:
  targetRefs: [{{group: networking.istio.io, kind: ServiceEntry, name: api}}]
  credential: {{secretRef: {{name: api-key}}{more}}}
---
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {{name: client}}
spec: {{command: [run], serviceAccountName: client}}
---
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {{name: client, namespace: other}}
spec: {{command: [run], serviceAccountName: client}}
"""
SECRET = """
---
apiVersion: v1
kind: Secret
metadata: {{name: api-key}}
type: Opaque
data: {{token: {token}}}
"""


@dataclass
class Provider:
    """A model API that somebody else runs: HTTPS, and it remembers the headers of every request."""

    ca: Path
    port: int = 0
    seen: list[Mapping[str, str]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.seen.append({name.lower(): value for name, value in request.headers.items()})
        assert len(request.headers.getall("authorization", [])) <= 1
        return web.Response(text="ok")

    def documents(self, token: str | None, more: str = "", resolution: str = "STATIC") -> str:
        address = "localhost" if resolution == "DNS" else "127.0.0.1"
        found = DOCUMENTS.format(port=self.port, ca=self.ca, more=more, resolution=resolution, address=address)
        return found if token is None else found + SECRET.format(token=base64.b64encode(token.encode()).decode())

    def authorizations(self) -> list[str | None]:
        return [headers.get("authorization") for headers in self.seen]


@contextlib.asynccontextmanager
async def provider(directory: Path) -> AsyncIterator[Provider]:
    ca = Authority(directory, "ca")
    found = Provider(ca.path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*ca.issue("server", "api.example"))
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", found.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    found.port = free_port()
    await web.TCPSite(runner, "127.0.0.1", found.port, ssl_context=context).start()
    try:
        yield found
    finally:
        await runner.cleanup()


async def started(running: Mesh, name: str = "sidecar/default/client") -> tuple[Proxy, EnvoyProcess]:
    client = loopback(running.described(name), CLIENT)
    return client, await running.run(client)


async def ask(client: Proxy, **headers: str) -> int:
    """The status that the client's application gets from http://api.example/."""
    proxy = f"http://{USER}:{PASSWORD}@{CLIENT}:{client.capture.outbound_port}"
    timeout = aiohttp.ClientTimeout(30)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get("http://api.example/v1/models", proxy=proxy, headers=headers) as answer,
    ):
        await answer.read()
        return answer.status


async def test_the_server_gets_what_the_application_does_not_have(tmp_path: Path) -> None:
    async with provider(tmp_path) as api, mesh(api.documents(OLD)) as running:
        client, _ = await started(running)
        assert await ask(client) == 200
        assert await ask(client, authorization="Bearer of-the-application") == 200
        assert api.authorizations() == [f"Bearer {OLD}"] * 2


async def test_another_header_and_no_prefix_to_a_server_found_by_name(tmp_path: Path) -> None:
    async with provider(tmp_path) as api:
        documents = api.documents(OLD, ', header: X-Api-Key, prefix: ""', "DNS")
        async with mesh(documents) as running:
            client, _ = await started(running)
            assert await ask(client, authorization="mine") == 200
            assert api.seen[0]["x-api-key"] == OLD
            assert api.authorizations() == ["mine"]


async def test_a_proxy_of_another_namespace_gets_no_credential(tmp_path: Path) -> None:
    async with provider(tmp_path) as api, mesh(api.documents(OLD)) as running:
        client, envoy = await started(running, "sidecar/other/client")
        assert await ask(client) == 200
        assert api.authorizations() == [None]
        assert b"credential://" not in envoy.admin("/config_dump")


async def test_without_its_secret_nothing_is_sent(tmp_path: Path) -> None:
    async with provider(tmp_path) as api, mesh(api.documents(None)) as running:
        client, _ = await started(running)
        assert await ask(client, authorization="Bearer of-the-application") == 401
        await running.change(api.documents(OLD))
        assert await until(client, 200)
        await running.change(api.documents(None))
        assert await until(client, 401)
        assert set(api.authorizations()) == {f"Bearer {OLD}"}


async def until(client: Proxy, status: int) -> bool:
    """Whether the client gets this status within 30 s: workers learn of a secret shortly after it is acknowledged."""
    async with asyncio.timeout(30):
        while await ask(client) != status:
            await asyncio.sleep(0.02)
    return True


async def test_a_new_value_costs_no_request(tmp_path: Path) -> None:
    async with provider(tmp_path) as api, mesh(api.documents(OLD)) as running:
        client, envoy = await started(running)
        changed = asyncio.Event()
        statuses: list[int] = []

        async def go_on() -> None:
            while not changed.is_set() or f"Bearer {NEW}" not in api.authorizations():
                statuses.append(await ask(client))

        async with asyncio.timeout(60):
            asking = asyncio.create_task(go_on())
            while len(statuses) < 20:
                await asyncio.sleep(0.01)
            before = envoy.stats("cluster_manager.cluster_(added|modified)")
            await running.change(api.documents(NEW))
            changed.set()
            await asking
        assert set(statuses) == {200}
        found = api.authorizations()
        assert set(found) == {f"Bearer {OLD}", f"Bearer {NEW}"}
        assert found == sorted(found, key=lambda value: value == f"Bearer {NEW}")
        assert envoy.stats("cluster_manager.cluster_(added|modified)") == before


async def test_the_value_is_shown_nowhere(tmp_path: Path) -> None:
    async with provider(tmp_path) as api, mesh(api.documents(OLD)) as running:
        client, envoy = await started(running)
        assert await ask(client) == 200
        shown = envoy.admin("/config_dump?include_eds") + envoy.admin("/stats") + envoy.log_text().encode()
        assert b"credential://default/api" in shown
        for text in (OLD, f"Bearer {OLD}"):
            assert text.encode() not in shown
            assert base64.b64encode(text.encode()) not in shown
        dump = json.loads(envoy.admin("/config_dump"))
        assert "[redacted]" in json.dumps(dump) or "W3JlZGFjdGVkXQ==" in json.dumps(dump)


ELSEWHERE = """
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: copies}}
spec:
  hosts: [copies.example]
  ports: [{{name: http, number: 80, protocol: HTTP}}]
  resolution: STATIC
  endpoints: [{{address: 127.0.0.1, ports: {{http: {port}}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: api}}
spec:
  hosts: [api.example]
  http:
  - route: [{{destination: {{host: api.example}}}}]
    mirror: {{host: copies.example}}
---
apiVersion: headrace.dev/v1alpha1
kind: MeshConfig
metadata: {{name: default}}
spec: {{accessLogFile: /dev/stderr, accessLogEncoding: JSON}}
"""


async def test_neither_a_copy_nor_the_default_access_log_has_it(tmp_path: Path) -> None:
    copied: asyncio.Queue[str | None] = asyncio.Queue()

    async def take(request: web.Request) -> web.Response:
        await copied.put(request.headers.get("authorization"))
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", take)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        async with provider(tmp_path) as api, mesh(api.documents(OLD) + ELSEWHERE.format(port=port)) as running:
            client, envoy = await started(running)
            assert await ask(client, authorization="mine") == 200
            async with asyncio.timeout(30):
                assert await copied.get() == "mine"
                while "/v1/models" not in envoy.log_text():
                    await asyncio.sleep(0.05)
            assert api.authorizations() == [f"Bearer {OLD}"]
            assert OLD not in envoy.log_text()
    finally:
        await runner.cleanup()
