"""Loopback capture in real Envoys: who may use a replica's proxy, where names lead, and who may reach a replica."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest
from tests.flows.translated_rig import PASSWORD, USER, echo, free_port, loopback, mesh

SERVER, CLIENT = "127.0.83.1", "127.0.83.2"
DOCUMENTS = """
apiVersion: v1
kind: Service
metadata: {{name: chat}}
spec:
  selector: {{app: chat}}
  ports: [{{name: http, port: 80, targetPort: {port}}}, {{name: http-alt, port: 8080, targetPort: {port}}}]
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: chat}}
spec: {{address: 127.0.83.1, labels: {{app: chat}}, serviceAccount: chat}}
---
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {{name: client}}
spec: {{command: [run], serviceAccountName: client}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: istio-system}}
spec: {{mtls: {{mode: {mode}}}}}
"""
REGISTRY_ONLY = """
---
apiVersion: headrace.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}
"""


async def ask(url: str, proxy: str = "") -> tuple[int, str]:
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as session,
        session.get(url, proxy=proxy or None) as answer,
    ):
        return answer.status, await answer.text()


async def test_a_request_passes_two_sidecars_and_the_credentials_stay_behind() -> None:
    async with echo() as app:
        port = free_port(SERVER)
        async with mesh(DOCUMENTS.format(port=port, mode="STRICT")) as running:
            server = loopback(running.described("sidecar/default/chat"), SERVER, ((port, app),))
            client = loopback(running.described("sidecar/default/client"), CLIENT)
            await running.run(server)
            await running.run(client)
            proxy = f"http://{CLIENT}:{client.capture.outbound_port}"
            mine = f"http://{USER}:{PASSWORD}@{CLIENT}:{client.capture.outbound_port}"

            assert (await ask("http://chat/", proxy))[0] == 401
            guess = proxy.replace("//", f"//{USER}:guess@")
            assert (await ask("http://chat/", guess))[0] == 401

            for name in ("chat", "chat.default:80", "chat:8080", "chat.default.svc.cluster.local"):
                status, body = await ask(f"http://{name}/v1/models?x=1", mine)
                assert status == 200, (name, body)
                seen = json.loads(body)
                assert seen["path"] == "/v1/models?x=1"
                assert "proxy-authorization" not in seen["headers"]
                assert "URI=spiffe://cluster.local/ns/default/sa/client" in seen["headers"]["x-forwarded-client-cert"]

            assert (await ask(f"http://127.0.0.1:{app}/direct", mine))[0] == 200, "ALLOW_ANY forwards by name"
            assert (await ask("http://chat:9999/", mine))[0] == 503, "a port that chat has not got: not in the mesh"

            with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
                await ask(f"http://{SERVER}:{port}/")


async def test_permissive_takes_plaintext_too_and_registry_only_refuses_strangers() -> None:
    async with echo() as app:
        port = free_port(SERVER)
        async with mesh(DOCUMENTS.format(port=port, mode="PERMISSIVE") + REGISTRY_ONLY) as running:
            server = loopback(running.described("sidecar/default/chat"), SERVER, ((port, app),))
            client = loopback(running.described("sidecar/default/client"), CLIENT)
            await asyncio.gather(running.run(server), running.run(client))
            status, body = await ask(f"http://{SERVER}:{port}/plain")
            assert status == 200
            assert "x-forwarded-client-cert" not in json.loads(body)["headers"]
            mine = f"http://{USER}:{PASSWORD}@{CLIENT}:{client.capture.outbound_port}"
            assert (await ask("http://chat/", mine))[0] == 200
            assert (await ask(f"http://127.0.0.1:{app}/", mine))[0] == 502
