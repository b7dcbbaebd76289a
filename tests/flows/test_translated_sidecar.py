"""Sidecars and ServiceEntries in real Envoys: Unix sockets on both sides, what a Sidecar hides, names that are looked
up when they are called, and protocols that are told by the first bytes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from tests.flows.translated_rig import PASSWORD, USER, echo, free_port, loopback, mesh

CLIENT, SERVER = "127.0.86.2", "127.0.86.3"
PODS = """
apiVersion: v1
kind: Pod
metadata: {{name: client, labels: {{app: client}}}}
spec: {{serviceAccountName: client, containers: [{{name: app}}]}}
status: {{podIP: 127.0.86.2}}
---
apiVersion: v1
kind: Pod
metadata: {{name: server, labels: {{app: server}}}}
spec: {{serviceAccountName: server, containers: [{{name: app}}]}}
status: {{podIP: 127.0.86.3}}
---
"""
BY_PROXY = (
    PODS
    + """
apiVersion: v1
kind: Service
metadata: {{name: server}}
spec: {{selector: {{app: server}}, ports: [{{name: http, port: 80, targetPort: {target}}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: hidden, namespace: other}}
spec: {{ports: [{{name: http, port: 80}}]}}
---
apiVersion: v1
kind: Endpoints
metadata: {{name: hidden, namespace: other}}
subsets: [{{addresses: [{{ip: 127.0.0.1}}], ports: [{{name: http, port: {echo}}}]}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: socket}}
spec:
  hosts: [socket.example]
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: STATIC
  endpoints: [{{address: "unix://{socket}"}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: wild}}
spec:
  hosts: ["*.localhost"]
  ports: [{{number: {echo}, name: http, protocol: HTTP}}]
  resolution: DYNAMIC_DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: anywhere}}
spec: {{hosts: [localhost], ports: [{{number: {echo}, name: http, protocol: HTTP}}]}}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: client}}
spec:
  workloadSelector: {{labels: {{app: client}}}}
  egress: [{{hosts: ["./*"]}}]
  outboundTrafficPolicy: {{mode: REGISTRY_ONLY}}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: server}}
spec:
  workloadSelector: {{labels: {{app: server}}}}
  ingress: [{{port: {{number: {target}, protocol: HTTP}}, defaultEndpoint: "unix://{socket}"}}]
"""
)


@contextlib.asynccontextmanager
async def listening(path: Path) -> AsyncIterator[None]:
    """An HTTP server on a Unix socket, which says who called it."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=request.headers.get("x-forwarded-client-cert", "nobody").rpartition("URI=")[2])

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()
    try:
        yield
    finally:
        await runner.cleanup()


@pytest.mark.asyncio
async def test_sockets_names_and_what_a_sidecar_hides(tmp_path: Path) -> None:
    socket, target = tmp_path / "app.sock", free_port(SERVER)
    async with contextlib.AsyncExitStack() as stack:
        port = await stack.enter_async_context(echo())
        await stack.enter_async_context(listening(socket))
        documents = BY_PROXY.format(target=target, echo=port, socket=socket)
        running = await stack.enter_async_context(mesh(documents))
        await running.run(loopback(running.described("sidecar/default/server"), SERVER))
        client = loopback(running.described("sidecar/default/client"), CLIENT)
        await running.run(client)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        proxy = f"http://{USER}:{PASSWORD}@{CLIENT}:{client.capture.outbound_port}"

        async def ask(url: str) -> tuple[int, str]:
            async with session.get(url, proxy=proxy) as answer:
                return answer.status, (await answer.text())[:60]

        assert await ask("http://server/") == (200, "spiffe://cluster.local/ns/default/sa/client")
        assert await ask("http://socket.example/") == (200, "nobody")
        assert (await ask(f"http://any.localhost:{port}/x"))[0] == 200
        assert (await ask(f"http://localhost:{port}/x"))[0] == 200
        assert (await ask("http://hidden.other/"))[0] == 502
        assert (await ask(f"http://127.0.0.1:{port}/"))[0] == 502


SNIFFED = (
    PODS
    + """
apiVersion: v1
kind: Service
metadata: {{name: server}}
spec: {{selector: {{app: server}}, ports: [{{name: any, port: {port}, targetPort: {target}}}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: server}}
spec:
  hosts: [server]
  http: [{{headers: {{response: {{set: {{x-routed: "yes"}}}}}}, route: [{{destination: {{host: server}}}}]}}]
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: client}}
spec:
  workloadSelector: {{labels: {{app: client}}}}
  egress:
  - {{port: {{number: {port}}}, bind: {client}, captureMode: NONE, hosts: ["./*"]}}
  - {{port: {{number: 0, protocol: HTTP}}, bind: "unix://{socket}", hosts: ["./*"]}}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: server}}
spec:
  workloadSelector: {{labels: {{app: server}}}}
  ingress: [{{port: {{number: {target}}}, captureMode: NONE, defaultEndpoint: "127.0.0.1:{app}"}}]
"""
)


async def both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers HTTP as HTTP and anything else by itself, turned round."""
    line = await reader.readline()
    if line.endswith(b"HTTP/1.1\r\n"):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
    else:
        writer.write(line.rstrip()[::-1] + b"\n")
    await writer.drain()
    writer.close()


@pytest.mark.asyncio
async def test_http_and_bytes_share_a_port_at_both_ends(tmp_path: Path) -> None:
    """Listeners that Sidecars bind for real, so that the test needs no redirection of the kernel."""
    port, target, socket = free_port(CLIENT), free_port(SERVER), tmp_path / "out.sock"
    application = await asyncio.start_server(both, "127.0.0.1", 0)
    at = application.sockets[0].getsockname()[1]
    documents = SNIFFED.format(port=port, target=target, app=at, client=CLIENT, socket=socket)
    async with application, mesh(documents) as running, aiohttp.ClientSession() as session:
        server = await running.run(running.described("sidecar/default/server"))
        await running.run(running.described("sidecar/default/client"))
        async with session.get(f"http://{CLIENT}:{port}/", headers={"host": "server"}) as answer:
            assert (answer.status, await answer.text(), answer.headers.get("x-routed")) == (200, "ok", "yes")
        reader, writer = await asyncio.open_connection(CLIENT, port)
        writer.write(b"Headrace\n")
        assert await asyncio.wait_for(reader.readline(), 30) == b"ecardaeH\n"
        writer.close()
        connector = aiohttp.UnixConnector(str(socket))
        async with (
            aiohttp.ClientSession(connector=connector) as local,
            local.get(f"http://server:{port}/") as answer,
        ):
            assert (answer.status, answer.headers.get("x-routed")) == (200, "yes")
        stats = (await asyncio.to_thread(server.admin, f"/stats?filter=listener.{SERVER}_{target}.*handshake")).decode()
        assert "ssl.handshake: 0" not in stats
        assert "ssl.handshake" in stats
