"""Policies at a gateway in a real Envoy: routes by claim, and what comes in from outside."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import aiohttp
from tests.flows.token_rig import ISSUER, Ec, Rsa, claims, key_set, tampered
from tests.flows.translated_rig import echo, free_port, loopback, mesh

GATEWAY, SERVER = "127.0.86.1", "127.0.86.2"
DOCUMENTS = """
apiVersion: v1
kind: Pod
metadata:
  name: door
  namespace: edge
  labels: {istio: door, gateway.networking.k8s.io/gateway-name: door}
spec: {serviceAccountName: door, containers: [{name: proxy}]}
status: {podIP: 127.0.86.1}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: door, namespace: edge}
spec:
  selector: {istio: door}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: chat, namespace: edge}
spec:
  hosts: [chat.example]
  gateways: [door]
  http:
  - match: [{headers: {"@request.auth.claims.groups": {exact: beta}}}]
    route: [{destination: {host: chat}, headers: {request: {set: {x-route: beta}}}}]
  - match: [{withoutHeaders: {"@request.auth.claims[org][name]": {prefix: acme}}, headers: {x-outside: {}}}]
    route: [{destination: {host: chat}, headers: {request: {set: {x-route: outside}}}}]
  - route: [{destination: {host: chat}, headers: {request: {set: {x-route: all}}}}]
---
apiVersion: v1
kind: Service
metadata: {name: chat, namespace: edge}
spec: {selector: {app: chat}, ports: [{name: http, port: 80, targetPort: %PORT%}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: chat, namespace: edge}
spec: {address: 127.0.86.2, labels: {app: chat}, serviceAccount: chat}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: edge}
spec:
  selector: {matchLabels: {istio: door}}
  jwtRules: [%RULE%]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: at-the-door, namespace: edge}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: door}]
  action: DENY
  rules:
  - to: [{operation: {paths: [/admin*]}}]
    from: [{source: {notRequestPrincipals: ["*"]}}]
  - to: [{operation: {paths: [/far]}}]
    from: [{source: {remoteIpBlocks: [127.0.0.0/8]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-the-door, namespace: edge}
spec:
  selector: {matchLabels: {app: chat}}
  rules: [{from: [{source: {serviceAccounts: [door]}}]}]
"""


async def test_claims_choose_routes_and_only_verified_ones() -> None:
    rsa = Rsa()
    rule = json.dumps({"issuer": ISSUER, "jwks": key_set(rsa)})
    async with echo() as app, aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as session:
        port = free_port(SERVER)
        async with mesh(DOCUMENTS.replace("%PORT%", str(port)).replace("%RULE%", rule)) as running:
            door = running.described("gateway/edge/door")
            own = free_port(GATEWAY)
            door = replace(door, bind=GATEWAY, port_map=((80, own),), behind=())
            chat = loopback(running.described("sidecar/edge/chat"), SERVER, ((port, app),))
            await asyncio.gather(running.run(chat), running.run(door))

            async def ask(path: str, token: str = "", **headers: str) -> tuple[int, str]:
                sent = {"host": "chat.example", **headers} | ({"authorization": f"Bearer {token}"} if token else {})
                async with session.get(f"http://{GATEWAY}:{own}{path}", headers=sent) as answer:
                    body = await answer.text()
                    route = json.loads(body)["headers"]["x-route"] if answer.status == 200 else body
                    return answer.status, route

            beta = rsa.token(claims(groups=["alpha", "beta"]))
            assert await ask("/") == (200, "all")
            assert await ask("/", beta) == (200, "beta")
            assert await ask("/", rsa.token(claims(groups="beta"))) == (200, "beta")
            assert await ask("/", rsa.token(claims(groups=["alpha"]))) == (200, "all")
            assert await ask("/", **{"groups": "beta"}) == (200, "all"), "a header is no claim"
            assert (await ask("/", tampered(rsa.token(claims()), groups=["beta"])))[0] == 401
            assert (await ask("/", Ec().token(claims(groups=["beta"]))))[0] == 401
            acme = rsa.token(claims(org={"name": "acme inc"}))
            assert await ask("/", acme, **{"x-outside": "1"}) == (200, "all")
            assert await ask("/", **{"x-outside": "1"}) == (200, "outside")
            assert (await ask("/admin"))[0] == 403
            assert (await ask("/admin", beta))[0] == 200
            assert (await ask("/far"))[0] == 403
            forged = await ask("/far", **{"x-forwarded-for": "8.8.8.8"})
            assert forged[0] == 403, "the client's own x-forwarded-for is not believed"
