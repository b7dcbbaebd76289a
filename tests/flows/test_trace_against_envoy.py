"""`headrace trace` and a real Envoy are asked the same requests, of the same configuration, and must agree: which
cluster took the request, with which path and host, or which answer it got instead."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from tests.flows.translated_rig import free_port, mesh

from headrace.app import offline
from headrace.envoy.trace.proxy import follow
from headrace.envoy.trace.request import Hop, Request

GATEWAY = "127.0.85.1"
CLIENT = "127.0.0.1"
SUBSETS = ("one", "two", "three")
ENTRIES = "".join(
    f"""
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{{{name: {name}, namespace: istio-system}}}}
spec:
  hosts: [{name}.example]
  ports: [{{{{name: http, number: 80, protocol: HTTP}}}}]
  resolution: STATIC
  endpoints: [{{{{address: 127.0.0.1, ports: {{{{http: {{{name}}}}}}}}}}}]
"""
    for name in SUBSETS
)
DOCUMENTS = (
    """
apiVersion: v1
kind: Pod
metadata: {{name: door, namespace: istio-system, labels: {{istio: ingressgateway}}}}
spec: {{serviceAccountName: door, containers: [{{name: proxy}}]}}
status: {{podIP: 127.0.85.1}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: door, namespace: istio-system}}
spec:
  selector: {{istio: ingressgateway}}
  servers: [{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: ["*"]}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: exact, namespace: istio-system}}
spec:
  hosts: [a.example.com]
  gateways: [door]
  http:
  - match: [{{uri: {{exact: /exact}}}}, {{uri: {{prefix: /PRE}}, ignoreUriCase: true}}]
    route: [{{destination: {{host: one.example}}}}]
  - match: [{{uri: {{regex: "/v[0-9]+/.*"}}, headers: {{x-user: {{prefix: a}}}}}}]
    rewrite: {{uriRegexRewrite: {{match: "^/v([0-9]+)/", rewrite: '/version\\1/'}}}}
    route: [{{destination: {{host: two.example}}}}]
  - match: [{{withoutHeaders: {{x-user: {{}}}}, method: {{exact: PUT}}}}]
    rewrite: {{uri: /put, authority: inner.example}}
    route: [{{destination: {{host: three.example}}}}]
  - match: [{{queryParams: {{model: {{exact: big}}}}}}]
    directResponse: {{status: 418}}
  - match: [{{uri: {{prefix: /old}}}}]
    redirect: {{uri: /new, redirectCode: 308}}
  - match: [{{uri: {{prefix: /v1}}}}]
    rewrite: {{uri: /api}}
    route: [{{destination: {{host: one.example}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: wild, namespace: istio-system}}
spec:
  hosts: ["*.example.com"]
  gateways: [door]
  http:
  - match: [{{headers: {{x-user: {{regex: "a|b"}}}}}}]
    route: [{{destination: {{host: two.example}}}}]
  - route: [{{destination: {{host: three.example}}}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: refused, namespace: istio-system}}
spec:
  selector: {{matchLabels: {{istio: ingressgateway}}}}
  action: DENY
  rules:
  - to: [{{operation: {{paths: ["*/secret"], methods: [GET]}}}}]
  - when: [{{key: "request.headers[x-user]", values: ["bad*"]}}]
    to: [{{operation: {{notHosts: ["b.example.com"]}}}}]
"""
    + ENTRIES
)
HOSTS = ("a.example.com", "A.example.com", "b.example.com", "c.d.example.com", "nobody.org")
PATHS = ("/", "/exact", "/exact/", "/pre/x", "/v1", "/v2/chat", "/v1/secret", "/old/x", "/v1/x?model=big", "/x?model=b")
USERS = (None, "", "a", "b", "bad")
METHODS = ("GET", "PUT")


@dataclass(frozen=True)
class Outcome:
    """What became of a request: the backend that answered with path and host, or a status (and a location)."""

    backend: str = ""
    path: str = ""
    host: str = ""
    status: int = 200
    location: str = ""


def foretold(hop: Hop) -> Outcome:
    if hop.refusal is not None:
        return Outcome(status=hop.refusal.status)
    if hop.answer:
        status, _, rest = hop.answer.partition(" ")
        return Outcome(status=int(status), location=rest.removeprefix("to ") if rest.startswith("to ") else "")
    (share,) = hop.shares
    return Outcome(share.cluster.split("|")[3].partition(".")[0], share.request.path, share.request.host)


async def met(session: aiohttp.ClientSession, port: int, request: Request) -> Outcome:
    headers = {"host": request.host, **dict(request.headers)}
    url = f"http://{GATEWAY}:{port}{request.path}"
    async with session.request(request.method, url, headers=headers, allow_redirects=False) as answer:
        if "x-backend" in answer.headers:
            return Outcome(answer.headers["x-backend"], answer.headers["x-path"], answer.headers["x-host"])
        return Outcome(status=answer.status, location=answer.headers.get("location", ""))


@contextlib.asynccontextmanager
async def backend(name: str) -> Any:
    async def reply(request: web.Request) -> web.Response:
        return web.Response(headers={"x-backend": name, "x-path": request.path_qs, "x-host": request.host})

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", reply)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield port
    finally:
        await runner.cleanup()


def requests(port: int) -> list[Request]:
    return [
        Request(
            GATEWAY,
            port,
            host,
            path,
            method,
            headers=() if user is None else (("x-user", user),),
            source=CLIENT,
            direct=True,
        )
        for host, path, user, method in itertools.product(HOSTS, PATHS, USERS, METHODS)
    ]


@pytest.mark.asyncio
async def test_the_evaluator_and_envoy_agree() -> None:
    async with contextlib.AsyncExitStack() as stack:
        ports = {name: await stack.enter_async_context(backend(name)) for name in SUBSETS}
        one = await stack.enter_async_context(mesh(DOCUMENTS.format(**ports)))
        port = free_port(GATEWAY)
        proxy = replace(one.described("gateway/istio-system/door"), bind=GATEWAY, port_map=((80, port),))
        await one.run(proxy)
        held = one.running[proxy.name][1]
        assert held.status(proxy.name) is not None
        path = one.directory / "documents.yaml"
        resources = offline.as_data(offline.translate(offline.load([path]), proxy))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        asked = requests(port)
        real = await asyncio.wait_for(asyncio.gather(*(met(session, port, request) for request in asked)), 60)
        told = [foretold(follow(resources, request)) for request in asked]
        assert [
            (request.method, request.host, request.path, request.headers, mine, theirs)
            for request, mine, theirs in zip(asked, told, real, strict=True)
            if mine != theirs
        ] == []
        assert {item.backend for item in real} == {"", *SUBSETS}
        assert {item.status for item in real} == {200, 308, 403, 404, 418}
