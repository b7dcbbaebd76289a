"""Routes in a real Envoy: what a VirtualService and a DestinationRule say is what requests meet."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp
import pytest
from aiohttp import web
from multidict import CIMultiDictProxy
from tests.flows.translated_rig import PASSWORD, USER, free_port, loopback, mesh

CLIENT = "127.0.84.2"
DOCUMENTS = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: api}}
spec:
  hosts: [api.example]
  ports: [{{name: http, number: 80, protocol: HTTP}}]
  resolution: STATIC
  endpoints:
  - {{address: 127.0.0.1, ports: {{http: {one}}}, labels: {{version: one}}}}
  - {{address: 127.0.0.1, ports: {{http: {two}}}, labels: {{version: two}}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: dead}}
spec:
  hosts: [dead.example]
  ports: [{{name: http, number: 80, protocol: HTTP}}]
  resolution: STATIC
  endpoints: [{{address: 127.0.0.1, ports: {{http: {one}}}}}, {{address: 127.0.0.1, ports: {{http: 1}}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: api}}
spec:
  host: api.example
  subsets:
  - {{name: one, labels: {{version: one}}}}
  - name: two
    labels: {{version: two}}
    trafficPolicy:
      outlierDetection: {{consecutive5xxErrors: 2, interval: 1s, baseEjectionTime: 30s, maxEjectionPercent: 100}}
  - name: sticky
    trafficPolicy: {{loadBalancer: {{consistentHash: {{httpHeaderName: x-user}}}}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: api}}
spec:
  hosts: [api.example, alias.example]
  http:
  - match: [{{uri: {{prefix: /headers}}}}]
    headers:
      request: {{set: {{x-set: route}}, add: {{x-add: more}}, remove: [x-gone]}}
      response: {{set: {{x-answer: "yes"}}}}
    rewrite: {{uri: /rewritten, authority: inner.example}}
    route: [{{destination: {{host: api.example, subset: one}}}}]
  - match: [{{uri: {{regex: "/models/[^/]+/chat"}}, ignoreUriCase: false}}]
    rewrite: {{uriRegexRewrite: {{match: "/models/([^/]+)/chat", rewrite: "/chat/\\\\1"}}}}
    route: [{{destination: {{host: api.example, subset: one}}}}]
  - match: [{{headers: {{x-canary: {{exact: "two"}}}}, withoutHeaders: {{x-no: {{}}}}}}]
    route: [{{destination: {{host: api.example, subset: two}}}}]
  - match: [{{queryParams: {{model: {{prefix: two}}}}, method: {{exact: POST}}}}]
    route: [{{destination: {{host: api.example, subset: two}}}}]
  - match: [{{uri: {{exact: /old}}}}]
    redirect: {{uri: /new, authority: new.example, redirectCode: 308}}
  - match: [{{uri: {{exact: /direct}}}}]
    directResponse: {{status: 418, body: {{string: "short and stout"}}}}
  - match: [{{uri: {{prefix: /slow}}}}]
    timeout: 0.2s
    route: [{{destination: {{host: api.example, subset: one}}}}]
  - match: [{{uri: {{prefix: /retried}}}}]
    retries: {{attempts: 2, retryOn: "503", backoff: 1ms}}
    route: [{{destination: {{host: api.example, subset: one}}}}]
  - match: [{{uri: {{prefix: /once}}}}]
    retries: {{attempts: 0}}
    route: [{{destination: {{host: api.example, subset: one}}}}]
  - match: [{{uri: {{prefix: /fault}}}}]
    fault: {{abort: {{httpStatus: 503, percentage: {{value: 100}}}}}}
    route: [{{destination: {{host: api.example}}}}]
  - match: [{{uri: {{prefix: /mirrored}}}}]
    mirrors: [{{destination: {{host: api.example, subset: two}}}}]
    route: [{{destination: {{host: api.example, subset: one}}}}]
  - match: [{{uri: {{prefix: /cors}}}}]
    corsPolicy: {{allowOrigins: [{{exact: "https://app.example"}}], allowMethods: [POST], maxAge: 60s}}
    route: [{{destination: {{host: api.example, subset: one}}}}]
  - match: [{{uri: {{prefix: /sticky}}}}]
    route: [{{destination: {{host: api.example, subset: sticky}}}}]
  - match: [{{uri: {{prefix: /client}}, sourceLabels: {{app: client}}}}]
    directResponse: {{status: 201}}
  - match: [{{uri: {{prefix: /client}}, sourceLabels: {{app: other}}}}]
    directResponse: {{status: 202}}
  - match: [{{uri: {{prefix: /two}}}}]
    route: [{{destination: {{host: api.example, subset: two}}}}]
  - route:
    - destination: {{host: api.example, subset: one}}
      weight: 75
      headers: {{response: {{set: {{x-weight: "75"}}}}}}
    - {{destination: {{host: api.example, subset: two}}, weight: 25}}
---
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {{name: client}}
spec: {{command: [run], serviceAccountName: client, labels: {{app: client}}}}
"""


@dataclass
class Server:
    """A server that says who it is and remembers what it was asked; paths below `failing` answer 503."""

    name: str
    port: int = 0
    asked: list[web.Request] = field(default_factory=list)
    failing: tuple[str, ...] = ()
    slow: tuple[str, ...] = ("/slow",)

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request)
        if request.path.startswith(self.slow):
            await asyncio.sleep(5)
        status = 503 if request.path.startswith(self.failing) else 200
        return web.json_response({"name": self.name, "path": request.path_qs}, status=status)


@contextlib.asynccontextmanager
async def serving(name: str) -> AsyncIterator[Server]:
    server = Server(name, free_port())
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", server.port).start()
    try:
        yield server
    finally:
        await runner.cleanup()


@dataclass
class Answer:
    status: int
    name: str
    path: str
    text: str
    headers: CIMultiDictProxy[str]


@dataclass
class Running:
    """A client sidecar and the two servers behind `api.example`."""

    proxy: str
    one: Server
    two: Server
    session: aiohttp.ClientSession

    async def ask(
        self, path: str, method: str = "GET", host: str = "api.example", headers: dict[str, str] | None = None
    ) -> Answer:
        url = f"http://{host}{path}"
        async with self.session.request(
            method, url, proxy=self.proxy, headers=headers, allow_redirects=False
        ) as answer:
            body = await answer.read()
            told = {} if not body.startswith(b"{") else await answer.json()
            name, seen = told.get("name", ""), told.get("path", "")
            return Answer(answer.status, name, seen, body.decode(), answer.headers)


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[Running]:
    timeout = aiohttp.ClientTimeout(10)
    async with (
        serving("one") as one,
        serving("two") as two,
        aiohttp.ClientSession(timeout=timeout) as session,
        mesh(DOCUMENTS.format(one=one.port, two=two.port)) as documents,
    ):
        client = loopback(documents.described("sidecar/default/client"), CLIENT)
        await documents.run(client)
        proxy = f"http://{USER}:{PASSWORD}@{CLIENT}:{client.capture.outbound_port}"
        yield Running(proxy, one, two, session)


async def test_matches_choose_and_what_is_written_happens() -> None:
    async with running() as api:
        found = await api.ask("/headers/x", headers={"x-gone": "1", "x-add": "mine"})
        (seen,) = api.one.asked
        assert (found.status, found.path, found.headers["x-answer"]) == (200, "/rewritten/x", "yes")
        assert (seen.headers["x-set"], seen.headers.getall("x-add")) == ("route", ["mine", "more"])
        assert "x-gone" not in seen.headers
        assert seen.host == "inner.example"

        assert (await api.ask("/models/qwen/chat?a=1")).path == "/chat/qwen?a=1"
        assert (await api.ask("/x", headers={"x-canary": "two"})).name == "two"
        assert (await api.ask("/any?model=two-b", "POST")).name == "two"

        moved = await api.ask("/old")
        assert (moved.status, moved.headers["location"]) == (308, "http://new.example/new")
        told = await api.ask("/direct")
        assert (told.status, told.text) == (418, "short and stout")
        assert (await api.ask("/client")).status == 201
        assert (await api.ask("/direct", host="alias.example")).status == 418


async def test_timeouts_retries_and_faults() -> None:
    async with running() as api:
        assert (await api.ask("/slow")).status == 504
        api.one.failing = ("/retried", "/once")
        api.one.asked.clear()
        assert (await api.ask("/retried")).status == 503
        assert len(api.one.asked) == 3, "two retries"
        api.one.asked.clear()
        assert (await api.ask("/once")).status == 503
        assert len(api.one.asked) == 1
        api.one.asked.clear()
        assert (await api.ask("/fault")).status == 503
        assert not api.one.asked


async def test_a_dead_endpoint_is_tried_around_by_default() -> None:
    async with running() as api:
        assert [(await api.ask("/", host="dead.example")).status for _ in range(20)] == [200] * 20


async def test_the_split_and_headers_of_one_part() -> None:
    async with running() as api:
        answers = [await api.ask(f"/split/{at}") for at in range(400)]
        count = Counter(answer.name for answer in answers)
        assert 50 <= count["two"] <= 150, count  # 25 % of 400: more than five standard deviations on either side
        assert {answer.name for answer in answers if "x-weight" in answer.headers} == {"one"}


async def test_a_mirror_receives_a_copy_and_nobody_waits_for_it() -> None:
    async with running() as api:
        api.two.slow = ("/mirrored",)
        assert [(await api.ask("/mirrored")).status for _ in range(10)] == [200] * 10
        async with asyncio.timeout(5):
            while len(api.two.asked) < 10:
                await asyncio.sleep(0.01)
        assert {request.host for request in api.two.asked} == {"api.example"}, "no -shadow suffix"


async def test_cross_origin_preflight_is_answered_by_the_proxy() -> None:
    async with running() as api:
        asking = {"origin": "https://app.example", "access-control-request-method": "POST"}
        found = await api.ask("/cors", "OPTIONS", headers=asking)
        assert (found.status, found.headers["access-control-allow-origin"]) == (200, "https://app.example")
        assert found.headers["access-control-max-age"] == "60"
        assert not api.one.asked


async def test_a_user_stays_with_one_endpoint() -> None:
    async with running() as api:
        by_user = {}
        for user in range(16):
            answers = [await api.ask("/sticky", headers={"x-user": str(user)}) for _ in range(5)]
            by_user[user] = {answer.name for answer in answers}
        assert all(len(names) == 1 for names in by_user.values())
        assert {name for names in by_user.values() for name in names} == {"one", "two"}


async def test_a_sick_endpoint_is_ejected_without_panic() -> None:
    async with running() as api:
        api.two.failing = ("/two",)
        assert [(await api.ask("/two")).status for _ in range(2)] == [503, 503]
        api.two.asked.clear()
        refused = [await api.ask("/two") for _ in range(5)]
        assert [answer.status for answer in refused] == [503] * 5
        assert not api.two.asked, "an ejected endpoint gets nothing, also where it is the last one"


@pytest.mark.parametrize("path", ["/%00", "/..%2f", "/" + "a" * 4000])
async def test_odd_paths_are_answered(path: str) -> None:
    async with running() as api:
        assert (await api.ask(path)).status in (200, 400)
