"""A Gateway of the Gateway API in a real Envoy: what its routes do to paths, which share of requests a missing backend
answers with 500, and a certificate of another namespace that grants it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
from tests.flows.certificates import client_context, made, secret
from tests.flows.translated_rig import echo, free_port, loopback, mesh

GATEWAY, SERVER = "127.0.85.1", "127.0.85.2"
DOCUMENTS = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: door}}
spec:
  gatewayClassName: istio
  listeners:
  - {{name: http, port: 80, protocol: HTTP}}
  - name: https
    port: 443
    protocol: HTTPS
    hostname: public.example
    tls: {{certificateRefs: [{{name: public, namespace: certs}}]}}
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {{name: door, namespace: certs}}
spec:
  from: [{{group: gateway.networking.k8s.io, kind: Gateway, namespace: default}}]
  to: [{{group: "", kind: Secret, name: public}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: chat}}
spec:
  parentRefs: [{{name: door}}]
  rules:
  - backendRefs: [{{name: chat, port: 80}}]
  - matches: [{{path: {{value: /old}}}}]
    filters: [{{type: URLRewrite, urlRewrite: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: /}}}}}}]
    backendRefs: [{{name: chat, port: 80}}]
  - matches: [{{path: {{value: /older}}}}]
    filters: [{{type: URLRewrite, urlRewrite: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: /new/}}}}}}]
    backendRefs: [{{name: chat, port: 80}}]
  - matches: [{{path: {{value: /whole}}}}]
    filters: [{{type: URLRewrite, urlRewrite: {{path: {{type: ReplaceFullPath, replaceFullPath: /one}}}}}}]
    backendRefs: [{{name: chat, port: 80}}]
  - matches: [{{path: {{value: /go}}}}]
    filters:
    - type: RequestRedirect
      requestRedirect: {{hostname: there.example, path: {{type: ReplacePrefixMatch, replacePrefixMatch: /}}}}
  - matches: [{{path: {{value: /half}}}}]
    backendRefs: [{{name: chat, port: 80}}, {{name: gone, port: 80}}]
  - matches: [{{path: {{value: /nobody}}}}]
    backendRefs: [{{name: chat, port: 80, weight: 0}}]
---
apiVersion: v1
kind: Service
metadata: {{name: chat}}
spec: {{selector: {{app: chat}}, ports: [{{name: http, port: 80, targetPort: {port}}}]}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: chat}}
spec: {{address: 127.0.85.2, labels: {{app: chat}}, serviceAccount: chat}}
"""
PATHS = {
    "/old": "/",
    "/old/": "/",
    "/old/a/b?q=1": "/a/b?q=1",
    "/oldest/a": "/oldest/a",
    "/older": "/new",
    "/older/a": "/new/a",
    "/whole/a/b?q=1": "/one?q=1",
}


async def test_paths_shares_and_certificates(tmp_path: Path) -> None:
    root = made("root.example")
    public = made("public.example", root)
    pair = secret("public", "certs", tls_crt=public.certificate_pem, tls_key=public.key_pem)
    async with echo() as app:
        port, http, https = free_port(SERVER), free_port(GATEWAY), free_port(GATEWAY)
        async with mesh(DOCUMENTS.format(port=port) + pair) as running:
            server = loopback(running.described("sidecar/default/chat"), SERVER, ((port, app),))
            door = replace(
                running.described("gateway/default/door-istio"), bind=GATEWAY, port_map=((80, http), (443, https))
            )
            await asyncio.gather(running.run(server), running.run(door))
            timeout = aiohttp.ClientTimeout(30)
            async with aiohttp.ClientSession(f"http://{GATEWAY}:{http}", timeout=timeout) as session:

                async def ask(path: str) -> tuple[int, Any]:
                    async with session.get(path, allow_redirects=False) as answer:
                        return answer.status, answer.headers.get("location") or await answer.text()

                for path, seen in PATHS.items():
                    status, text = await ask(path)
                    assert (status, json.loads(text)["path"]) == (200, seen), path
                assert await ask("/go/a") == (302, "http://there.example/a")
                assert (await ask("/nobody"))[0] == 500
                shares = Counter([(await ask("/half"))[0] for _ in range(60)])
                assert set(shares) == {200, 500} and 10 < shares[500] < 50, shares
            context = client_context(root, tmp_path)
            connector = aiohttp.TCPConnector(ssl=context)
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.get(
                    f"https://{GATEWAY}:{https}/x", server_hostname="public.example", headers={"host": "public.example"}
                ) as answer,
            ):
                assert answer.status == 200
