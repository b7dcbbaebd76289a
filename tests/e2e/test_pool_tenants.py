"""Tenants of a pool, told apart by a header, by a claim of a verified token and by the certificate of the caller: the
bound of one tenant's queue binds that tenant and nobody else."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.e2e.asking import burst, needs_module
from tests.e2e.conftest import StartMesh
from tests.e2e.running import RunningMesh, until
from tests.e2e.strangers import Signer, tls
from tests.flows.token_rig import ISSUER, Ec, claims

pytestmark = needs_module
KEY = Ec()
JWKS = json.dumps({"keys": [KEY.jwk]})
FAIRNESS = {
    "by-header": "{key: header, name: x-team, tenantQueue: {depth: 2}}",
    "by-claim": "{key: jwtClaim, name: org.team, tenantQueue: {depth: 2}}",
    "by-identity": "{key: identity, tenantQueue: {depth: 2}}",
}
"""Each service of the same two servers is a pool of its own, with one place and room for two waiting of each tenant."""
DOCUMENTS = """\
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {name: chat}
spec:
  command: [headrace, model-server, --model, chat, --slots, "32"]
  engine: vllm
  labels: {app: chat}
  ports: [{name: http, port: 8000}]
  readinessProbe: {httpGet: {path: /health}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: door}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: ["*"], tls: {mode: ISTIO_MUTUAL}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ways}
spec:
  hosts: ["*"]
  gateways: [door]
  http:
""" + "".join(
    f"""\
  - match: [{{uri: {{prefix: /{name}/}}}}]
    rewrite: {{uri: /}}
    route: [{{destination: {{host: {name}}}}}]
    timeout: 60s
"""
    for name in FAIRNESS
)
POOLS = "---\n".join(
    f"""\
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{selector: {{app: chat}}, ports: [{{name: http, port: 8000}}]}}
---
apiVersion: headrace.dev/v1alpha1
kind: InferencePolicy
metadata: {{name: {name}}}
spec:
  targetRefs: [{{kind: Service, name: {name}}}]
  admission: {{concurrency: 1, queue: {{depth: 20, time: 20s}}, fairness: {fairness}}}
"""
    for name, fairness in FAIRNESS.items()
)
TOKENS = f"""\
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: tokens, namespace: istio-system}}
spec:
  selector: {{matchLabels: {{istio: ingressgateway}}}}
  jwtRules: [{{issuer: "{ISSUER}", jwks: '{JWKS}'}}]
"""
TAKEN = Counter({"200": 3, "429 tenant-full": 3})
"""What becomes of six at once of one tenant: one runs, two wait, three are too many."""


@pytest.fixture(scope="module")
def mesh(start_mesh: StartMesh) -> RunningMesh:
    return start_mesh({"mesh.yaml": DOCUMENTS, "pools.yaml": POOLS, "tokens.yaml": TOKENS})


def url_of(mesh: RunningMesh, scheme: str) -> str:
    urls = [url for url in mesh.status()["gateways"][0]["urls"] if url.startswith(f"{scheme}://")]
    return str(urls[0])


def token(team: str) -> dict[str, str]:
    """A header with a token of the team, which is a nested claim."""
    return {"authorization": f"Bearer {KEY.token(claims(org={'team': team}))}"}


async def fates(url: str, count: int, headers: dict[str, str], context: ssl.SSLContext | None = None) -> Counter[str]:
    """What becomes of so many requests at once, each of half a second."""
    body = {"messages": [{"role": "user", "content": "go"}], "max_tokens": 100}

    async def one(session: aiohttp.ClientSession) -> str:
        async with session.post(f"{url}/v1/chat/completions", json=body, ssl=context or False) as answer:
            await answer.read()
            return f"{answer.status} {answer.headers.get('x-headrace-reason', '')}".strip()

    timeout = aiohttp.ClientTimeout(total=40.0)
    async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
        return Counter(await asyncio.gather(*(one(session) for _ in range(count))))


async def greedy_and_modest(*callers: Any) -> list[Counter[str]]:
    """Six requests of the first caller at once, and then, while they wait, two of the second."""
    (url, headers, context), (other_url, other_headers, other_context) = callers
    greedy = asyncio.create_task(fates(url, 6, headers, context))
    await asyncio.sleep(0.2)
    modest = await fates(other_url, 2, other_headers, other_context)
    return [await greedy, modest]


def test_by_a_header(mesh: RunningMesh) -> None:
    url = f"{url_of(mesh, 'http')}/by-header"
    assert burst(url, ["warm"])[0].status == 200
    a, b = asyncio.run(greedy_and_modest((url, {"x-team": "a"}, None), (url, {"x-team": "b"}, None)))
    assert (a, b) == (TAKEN, Counter({"200": 2}))


def test_by_a_claim_of_a_verified_token(mesh: RunningMesh) -> None:
    url = f"{url_of(mesh, 'http')}/by-claim"
    assert burst(url, ["warm"])[0].status == 200
    a, b = asyncio.run(greedy_and_modest((url, token("a"), None), (url, token("b"), None)))
    assert (a, b) == (TAKEN, Counter({"200": 2}))
    forged = {"authorization": token("c")["authorization"][:-8] + "AAAAAAAA"}
    assert asyncio.run(fates(url, 1, forged)) == Counter({"401": 1})
    a, nobody = asyncio.run(greedy_and_modest((url, {}, None), (url, {"x-team": "b"}, None)))
    assert (a, nobody) == (TAKEN, Counter({"429 tenant-full": 2})), "who has no token is one tenant"


def test_by_the_certificate_of_the_caller(mesh: RunningMesh, tmp_path: Path) -> None:
    url = f"{url_of(mesh, 'https')}/by-identity"
    signer = Signer.load(mesh.state / "ca")
    one, other = (
        tls(signer.client(f"spiffe://cluster.local/ns/default/sa/{name}", tmp_path)) for name in ("one", "other")
    )
    until(lambda: asyncio.run(fates(url, 1, {}, one)) == Counter({"200": 1}), "the first answer")
    a, b = asyncio.run(greedy_and_modest((url, {}, one), (url, {}, other)))
    assert (a, b) == (TAKEN, Counter({"200": 2}))
    plain = f"{url_of(mesh, 'http')}/by-identity"
    a, nobody = asyncio.run(greedy_and_modest((plain, {"x-team": "a"}, None), (plain, {"x-team": "b"}, None)))
    assert (a, nobody) == (TAKEN, Counter({"429 tenant-full": 2})), "who has no certificate is one tenant"
