"""A translated gateway in a real Envoy: HTTPS with certificates from Secret documents, clients' certificates demanded
where the Gateway says so, and a redirect from HTTP."""

from __future__ import annotations

import asyncio
import json
import ssl
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from tests.flows.certificates import client_context, made, secret
from tests.flows.translated_rig import echo, free_port, loopback, mesh

GATEWAY, SERVER = "127.0.84.1", "127.0.84.2"
DOCUMENTS = """
apiVersion: v1
kind: Pod
metadata: {{name: door, namespace: istio-system, labels: {{istio: ingressgateway}}}}
spec: {{serviceAccountName: door, containers: [{{name: proxy}}]}}
status: {{podIP: 127.0.84.1}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: door}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - port: {{number: 80, name: http, protocol: HTTP}}
    hosts: ["*"]
    tls: {{httpsRedirect: true}}
  - port: {{number: 443, name: public, protocol: HTTPS}}
    hosts: [public.example.com]
    tls: {{mode: SIMPLE, credentialName: public}}
  - port: {{number: 443, name: partners, protocol: HTTPS}}
    hosts: [partners.example.com]
    tls: {{mode: MUTUAL, credentialName: partners}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: chat}}
spec:
  hosts: ["*.example.com"]
  gateways: [door]
  http: [{{route: [{{destination: {{host: chat}}}}]}}]
---
apiVersion: v1
kind: Service
metadata: {{name: chat}}
spec: {{selector: {{app: chat}}, ports: [{{name: http, port: 80, targetPort: {port}}}]}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: chat}}
spec: {{address: 127.0.84.2, labels: {{app: chat}}, serviceAccount: chat}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: istio-system}}
spec: {{mtls: {{mode: STRICT}}}}
"""


class _Here(aiohttp.abc.AbstractResolver):
    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list:
        return [{"hostname": host, "host": GATEWAY, "port": port, "family": 2, "proto": 0, "flags": 0}]

    async def close(self) -> None:
        pass


async def ask(url: str, context: ssl.SSLContext | bool = True) -> tuple[int, str, str]:
    connector = aiohttp.TCPConnector(resolver=_Here(), ssl=context)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(10)) as session,
        session.get(url, allow_redirects=False) as answer,
    ):
        return answer.status, answer.headers.get("location", ""), await answer.text()


async def test_https_gateway_with_credentials_of_its_namespace(tmp_path: Path) -> None:
    root, other = made("root.example.com"), made("other.example.com")
    public, partners = made("public.example.com", root), made("partners.example.com", root)
    friend, stranger = made("friend", root), made("stranger", other)
    secrets = secret("public", tls_crt=public.certificate_pem, tls_key=public.key_pem) + secret(
        "partners", cert=partners.certificate_pem, key=partners.key_pem, cacert=root.certificate_pem
    )
    async with echo() as app:
        port, http, https = free_port(SERVER), free_port(GATEWAY), free_port(GATEWAY)
        async with mesh(DOCUMENTS.format(port=port) + secrets) as running:
            server = loopback(running.described("sidecar/default/chat"), SERVER, ((port, app),))
            door = replace(
                running.described("gateway/istio-system/door"), bind=GATEWAY, port_map=((80, http), (443, https))
            )
            await asyncio.gather(running.run(server), running.run(door))
            plain = client_context(root, tmp_path)

            status, _, body = await ask(f"https://public.example.com:{https}/v1/chat", plain)
            seen = json.loads(body)
            assert (status, seen["path"]) == (200, "/v1/chat")
            assert "sa/door" in seen["headers"]["x-forwarded-client-cert"], "the gateway's own identity inside the mesh"

            status, location, _ = await ask(f"http://public.example.com:{http}/x")
            assert (status, location) == (301, f"https://public.example.com:{https}/x")

            known = client_context(root, tmp_path, friend)
            assert (await ask(f"https://partners.example.com:{https}/", known))[0] == 200
            refused = (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)
            with pytest.raises(refused):
                await ask(f"https://partners.example.com:{https}/", plain)
            with pytest.raises(refused):
                await ask(f"https://partners.example.com:{https}/", client_context(root, tmp_path, stranger))
            with pytest.raises(refused):
                await ask(f"https://unknown.example.com:{https}/", plain)
