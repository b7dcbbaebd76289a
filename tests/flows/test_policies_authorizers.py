"""CUSTOM policies in a real Envoy, with authorizers that really answer: over HTTP, over gRPC, and not at all."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
from aiohttp import web
from envoy.service.auth.v3 import external_auth_pb2
from tests.flows.policy_rig import guarded

SETTINGS = """
  extensionProviders:
  - name: over-http
    envoyExtAuthzHttp:
      service: asker.example
      port: %HTTP%
      timeout: 2s
      includeRequestHeadersInCheck: [x-user]
      includeAdditionalHeadersInCheck: {x-mesh: here}
      headersToUpstreamOnAllow: [x-checked]
      headersToDownstreamOnDeny: [x-why]
  - name: over-grpc
    envoyExtAuthzGrpc: {service: asker.example, port: %GRPC%, timeout: 2s}
  - name: dead
    envoyExtAuthzHttp: {service: asker.example, port: 1, timeout: 1s, statusOnError: "503"}
  - name: dead-open
    envoyExtAuthzHttp: {service: asker.example, port: 1, timeout: 1s, failOpen: true}
"""
ASKER = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: asker}
spec:
  hosts: [asker.example]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports:
  - {number: %HTTP%, name: http, protocol: HTTP}
  - {number: %GRPC%, name: grpc, protocol: GRPC}
  - {number: 1, name: http-dead, protocol: HTTP}
  endpoints: [{address: 127.0.0.1}]
"""
POLICY = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: %NAME%}
spec: {action: CUSTOM, provider: {name: %PROVIDER%}, rules: [%RULE%]}
"""


@contextlib.asynccontextmanager
async def asker() -> AsyncIterator[tuple[int, int, list[dict[str, str]]]]:
    """An authorizer over HTTP and over gRPC: its ports, and what it was asked. It allows the user `good`, and
    connections from identities that are called `web`."""
    asked: list[dict[str, str]] = []

    async def http(request: web.Request) -> web.Response:
        asked.append({"path": request.path, **{name.lower(): value for name, value in request.headers.items()}})
        good = request.headers.get("x-user") == "good"
        return web.Response(status=200 if good else 418, headers={"x-checked": "yes", "x-why": "not good"})

    async def check(request: Any, context: Any) -> Any:
        attributes = request.attributes
        headers = dict(attributes.request.http.headers)
        asked.append({"path": attributes.request.http.path, "principal": attributes.source.principal, **headers})
        web_caller = attributes.source.principal.endswith("/sa/web")
        good = headers.get("x-user") == "good" if headers else web_caller
        answer = external_auth_pb2.CheckResponse()
        answer.status.code = 0 if good else 7
        if not good:
            answer.denied_response.status.code = 403
            answer.denied_response.body = "not good"
        return answer

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", http)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(
        check, external_auth_pb2.CheckRequest.FromString, external_auth_pb2.CheckResponse.SerializeToString
    )
    handler = grpc.method_handlers_generic_handler("envoy.service.auth.v3.Authorization", {"Check": method})
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield site._server.sockets[0].getsockname()[1], port, asked  # type: ignore[union-attr]
    finally:
        await server.stop(None)
        await runner.cleanup()


def documents(*policies: tuple[str, str], http: int, grpc_port: int) -> tuple[str, str]:
    """Documents and MeshConfig's settings; each policy is (authorizer, rule)."""
    text = ASKER
    for number, (provider, rule) in enumerate(policies):
        own = POLICY.replace("%NAME%", f"p{number}").replace("%PROVIDER%", provider).replace("%RULE%", rule)
        text += own
    filled = [part.replace("%HTTP%", str(http)).replace("%GRPC%", str(grpc_port)) for part in (text, SETTINGS)]
    return filled[0], filled[1]


def paths(path: str) -> str:
    return f"{{to: [{{operation: {{paths: [{path}]}}}}]}}"


async def test_an_authorizer_over_http_decides_what_its_policy_matches() -> None:
    async with asker() as (http, grpc_port, asked):
        text, settings = documents(("over-http", paths("/asked*")), http=http, grpc_port=grpc_port)
        async with guarded(text, settings=settings) as chat:
            assert (await chat.ask("/free")).status == 200
            assert asked == []
            refused = await chat.ask("/asked/x", headers={"x-user": "bad", "x-secret": "s"})
            assert (refused.status, refused.headers["x-why"]) == (418, "not good")
            assert asked[-1]["x-mesh"] == "here" and asked[-1]["x-user"] == "bad"
            assert "x-secret" not in asked[-1]
            allowed = await chat.ask("/asked/x", headers={"x-user": "good", "x-checked": "forged"})
            assert allowed.status == 200
            assert allowed.seen["headers"]["x-checked"] == "yes"
            assert await chat.connect() == b"tcp:hello", "over HTTP nobody is asked about connections"


async def test_an_authorizer_over_grpc_is_asked_about_requests_and_connections() -> None:
    async with asker() as (http, grpc_port, asked):
        text, settings = documents(("over-grpc", "{}"), http=http, grpc_port=grpc_port)
        async with guarded(text, settings=settings) as chat:
            refused = await chat.ask("/x")
            assert (refused.status, refused.body) == (403, "not good")
            assert asked[-1]["principal"] == "spiffe://cluster.local/ns/default/sa/web"
            assert (await chat.ask("/x", headers={"x-user": "good"})).status == 200
            assert await chat.connect("ns/default/sa/web") == b"tcp:hello"
            assert await chat.connect("ns/default/sa/other") == b""


async def test_without_an_answer_the_request_is_refused_unless_it_may_pass() -> None:
    async with asker() as (http, grpc_port, _):
        policies = [("dead", paths("/dead")), ("dead-open", paths("/open")), ("nowhere", paths("/nowhere"))]
        text, settings = documents(*policies, http=http, grpc_port=grpc_port)
        async with guarded(text, settings=settings) as chat:
            assert (await chat.ask("/dead")).status == 503
            assert (await chat.ask("/open")).status == 200
            assert (await chat.ask("/nowhere")).status == 403
            assert (await chat.ask("/free")).status == 200


async def test_two_authorizers_are_each_asked_about_their_own() -> None:
    async with asker() as (http, grpc_port, asked):
        policies = [("over-http", paths("/http, /both")), ("over-grpc", paths("/grpc, /both"))]
        text, settings = documents(*policies, http=http, grpc_port=grpc_port)
        async with guarded(text, settings=settings) as chat:
            assert (await chat.ask("/http")).status == 418
            assert (await chat.ask("/grpc")).status == 403
            assert len(asked) == 2
            assert (await chat.ask("/both", headers={"x-user": "good"})).status == 200
            assert len(asked) == 4, "both have a say"
            assert (await chat.ask("/both")).status in (403, 418)


async def test_a_deny_policy_still_holds_after_an_authorizer_allowed() -> None:
    async with asker() as (http, grpc_port, _):
        text, settings = documents(("over-http", "{}"), http=http, grpc_port=grpc_port)
        deny = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny}
spec: {action: DENY, rules: [{to: [{operation: {paths: [/denied]}}]}]}
"""
        async with guarded(text + deny, settings=settings) as chat:
            assert (await chat.ask("/denied", headers={"x-user": "good"})).status == 403
            assert (await chat.ask("/other", headers={"x-user": "good"})).status == 200
