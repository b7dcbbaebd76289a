"""What VirtualServices and DestinationRules say beyond HTTP routes, in a real Envoy: TCP and TLS rules, delegates,
localities, warm-up, PROXY protocol, tunnels, retry budgets. One Envoy for all of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from tests.flows.envoy_process import EnvoyProcess
from tests.flows.translated_rig import Mesh, free_port, mesh, reachable

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLIENT, STORE, NAMES, GATE, PROXIED = (f"127.0.86.{number}" for number in range(1, 6))
WARMING = 4.0
DOCUMENTS = """
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {name: client}
spec:
  command: [run]
  labels: {app: client, tier: batch, topology.kubernetes.io/region: eu, topology.kubernetes.io/zone: a}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: store}
spec:
  hosts: [store.example]
  addresses: [%STORE%]
  ports: [{name: tcp, number: %PORT%, protocol: TCP}]
  resolution: STATIC
  endpoints:
  - {address: 127.0.0.1, ports: {tcp: %one%}, labels: {version: one}}
  - {address: 127.0.0.1, ports: {tcp: %two%}, labels: {version: two}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: store}
spec: {host: store.example, subsets: [{name: one, labels: {version: one}}, {name: two, labels: {version: two}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: store}
spec:
  hosts: [store.example]
  tcp:
  - match: [{sourceLabels: {tier: live}}]
    route: [{destination: {host: store.example, subset: one}}]
  - match: [{sourceLabels: {tier: batch}, port: %PORT%}]
    route:
    - {destination: {host: store.example, subset: one}, weight: 50}
    - {destination: {host: names.example}, weight: 50}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: names}
spec:
  hosts: [names.example]
  addresses: [%NAMES%]
  ports: [{name: tls, number: %PORT%, protocol: TLS}]
  resolution: STATIC
  endpoints: [{address: 127.0.0.1, ports: {tls: %two%}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: names}
spec:
  hosts: [names.example, "*.names.example"]
  tls:
  - match: [{sniHosts: [a.names.example, names.example]}]
    route: [{destination: {host: store.example, subset: one}}]
  - match: [{sniHosts: ["*.names.example"]}]
    route: [{destination: {host: names.example}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: gate}
spec:
  hosts: [gate.example]
  addresses: [%GATE%]
  ports: [{name: tcp, number: %PORT%, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 127.0.0.1, ports: {tcp: %gate%}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: gate}
spec: {host: gate.example, trafficPolicy: {tunnel: {targetHost: inner.example, targetPort: 7000}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: proxied}
spec:
  hosts: [proxied.example]
  addresses: [%PROXIED%]
  ports: [{name: tcp, number: %PORT%, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 127.0.0.1, ports: {tcp: %two%}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: proxied}
spec: {host: proxied.example, trafficPolicy: {proxyProtocol: {version: V1}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: proxied-for-others}
spec:
  host: proxied.example
  workloadSelector: {matchLabels: {app: other}}
  trafficPolicy: {proxyProtocol: {version: V2}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: web}
spec:
  hosts: [web.example]
  ports: [{name: http, number: %HTTP%, protocol: HTTP}]
  resolution: STATIC
  endpoints:
  - {address: 127.0.0.1, ports: {http: %near%}, locality: eu/a, labels: {at: near}}
  - {address: 127.0.0.1, ports: {http: %far%}, locality: us/a, labels: {at: far}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web}
spec:
  host: web.example
  trafficPolicy:
    outlierDetection: {consecutive5xxErrors: 2, interval: 1s, baseEjectionTime: 300s, maxEjectionPercent: 100}
  subsets:
  - name: spread
    trafficPolicy:
      loadBalancer: {localityLbSetting: {distribute: [{from: eu/*, to: {us/*: 100}}]}}
  - name: thrifty
    labels: {at: far}
    trafficPolicy: {retryBudget: {percent: 0, minRetryConcurrency: 1}, outlierDetection: {consecutive5xxErrors: 0}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec:
  hosts: [web.example]
  http:
  - match: [{uri: {prefix: /spread}}]
    route: [{destination: {host: web.example, subset: spread}}]
  - match: [{uri: {prefix: /thrifty}}]
    retries: {attempts: 3, retryOn: 5xx, retryIgnorePreviousHosts: false, backoff: 50ms}
    route: [{destination: {host: web.example, subset: thrifty}}]
  - match: [{uri: {prefix: /shop}}]
    headers: {response: {set: {x-by: root}}}
    delegate: {name: shop, namespace: other}
  - match: [{uri: {prefix: /warm}}]
    route: [{destination: {host: warm.example, port: {number: 80}}}]
  - retries: {attempts: 0}
    route: [{destination: {host: web.example}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop, namespace: other}
spec:
  exportTo: [default]
  http:
  - match: [{uri: {exact: /shop/cart}}]
    directResponse: {status: 299, body: {string: cart}}
  - match: [{uri: {prefix: /elsewhere}}]
    directResponse: {status: 298}
  - directResponse: {status: 297}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: warm}
spec:
  hosts: [warm.example]
  ports: [{name: http, number: 80, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 127.0.0.1, ports: {http: %old%}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: warm}
spec:
  host: warm.example
  trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 4s, minimumPercent: 1}}}
"""
KNOWN = ["HR0002"]
"""A route of the delegate lies outside of its root's, which `check` says."""


@dataclass
class Speaker:
    """A TCP server that greets each connection by its own name once it was sent something, and remembers what."""

    name: str
    port: int = 0
    heard: list[bytes] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            self.heard.append(await reader.read(4096))
            writer.write(self.name.encode())
            await over(reader, writer)


async def over(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """End a connection without losing what was said: closed with bytes unread, the system would reset it."""
    writer.write_eof()
    while await reader.read(4096):
        pass
    writer.close()


async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A proxy that answers CONNECT and then says back what it was asked and sent."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        asked = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        sent = await reader.read(100)
        writer.write(asked.split(b"\r\n")[0] + b"|" + sent)
        await over(reader, writer)


@dataclass
class Site:
    """An HTTP server that says who it is; `failing`: it answers 503, after a moment."""

    name: str
    port: int = 0
    failing: bool = False
    asked: int = 0

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.failing:
            await asyncio.sleep(0.1)
        return web.Response(text=self.name, status=503 if self.failing else 200)


@dataclass
class Running:
    """A client's sidecar and all that it calls."""

    running: Mesh
    envoy: EnvoyProcess
    documents: Callable[..., str]
    port: int
    http: int
    speakers: dict[str, Speaker]
    sites: dict[str, Site]
    session: aiohttp.ClientSession
    began: float

    async def say(self, address: str, data: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(address, self.port)
        writer.write(data)
        async with asyncio.timeout(30):
            answer = await reader.read(-1)
        writer.close()
        return answer

    async def ask(self, path: str) -> tuple[int, str, str]:
        async with self.session.get(f"http://{CLIENT}:{self.http}{path}", headers={"host": "web.example"}) as answer:
            return answer.status, await answer.text(), answer.headers.get("x-by", "")

    async def statistic(self, name: str) -> int:
        found = json.loads(await asyncio.to_thread(self.envoy.admin, f"/stats?format=json&filter={name}"))
        return sum(int(item["value"]) for item in found["stats"] if "value" in item)


def hello(name: str) -> bytes:
    """What a TLS client says first, with this SNI."""
    sent = ssl.MemoryBIO()
    context = ssl.create_default_context()
    client = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return sent.read()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def meshed() -> AsyncIterator[Running]:
    speakers = {name: Speaker(name) for name in ("one", "two")}
    sites = {name: Site(name) for name in ("near", "far", "old", "new")}
    async with contextlib.AsyncExitStack() as stack:
        for speaker in speakers.values():
            server = await asyncio.start_server(speaker.serve, "127.0.0.1", 0)
            stack.push_async_callback(server.wait_closed)
            stack.callback(server.close)
            speaker.port = server.sockets[0].getsockname()[1]
        gate = await asyncio.start_server(tunnel, "127.0.0.1", 0)
        stack.callback(gate.close)
        for site in sites.values():
            app = web.Application()
            app.router.add_route("*", "/{rest:.*}", site.answer)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site.port = free_port()
            await web.TCPSite(runner, "127.0.0.1", site.port).start()
        numbers = {"PORT": free_port(STORE), "HTTP": free_port(CLIENT), "gate": gate.sockets[0].getsockname()[1]}
        numbers |= {name: item.port for name, item in (*speakers.items(), *sites.items())}
        places = {"STORE": STORE, "NAMES": NAMES, "GATE": GATE, "PROXIED": PROXIED}

        def documents(text: str = DOCUMENTS) -> str:
            for name, value in {**numbers, **places}.items():
                text = text.replace(f"%{name}%", str(value))
            return text

        running = await stack.enter_async_context(mesh(documents()))
        running.known = KNOWN
        running.shape = reachable(CLIENT)
        envoy = await running.run(running.described("sidecar/default/client"))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield Running(
            running, envoy, documents, numbers["PORT"], numbers["HTTP"], speakers, sites, session, time.monotonic()
        )


async def test_tcp_goes_by_the_callers_labels_and_by_weight(meshed: Running) -> None:
    found = Counter([await meshed.say(STORE, b"hello") for _ in range(40)])
    assert set(found) == {b"one", b"two"}
    assert min(found.values()) >= 5


async def test_tls_goes_by_sni(meshed: Running) -> None:
    assert await meshed.say(NAMES, hello("a.names.example")) == b"one"
    assert await meshed.say(NAMES, hello("names.example")) == b"one"
    assert await meshed.say(NAMES, hello("b.names.example")) == b"two"


async def test_a_tunnel_asks_the_proxy_for_its_target(meshed: Running) -> None:
    assert await meshed.say(GATE, b"inside") == b"CONNECT inner.example:7000 HTTP/1.1|inside"


async def test_a_connection_begins_with_whose_it_is(meshed: Running) -> None:
    """V1: the rule with a workloadSelector is for others."""
    meshed.speakers["two"].heard.clear()
    assert await meshed.say(PROXIED, b"hello") == b"two"
    assert meshed.speakers["two"].heard[0].startswith(b"PROXY TCP4 127.0.0.1 ")


async def test_a_delegate_answers_within_its_roots_route(meshed: Running) -> None:
    assert await meshed.ask("/shop/cart") == (299, "cart", "root")
    assert (await meshed.ask("/shop/other"))[0] == 297
    assert (await meshed.ask("/elsewhere"))[0] == 200


async def test_a_share_of_nothing_is_none(meshed: Running) -> None:
    assert {(await meshed.ask("/spread"))[1] for _ in range(8)} == {"far"}


async def test_retries_stay_within_their_budget(meshed: Running) -> None:
    far = meshed.sites["far"]
    far.failing, far.asked = True, 0
    try:
        answers = await asyncio.gather(*(meshed.ask("/thrifty") for _ in range(12)))
    finally:
        far.failing = False
    assert {status for status, *_ in answers} == {503}
    assert 12 < far.asked < 12 + 3 * 12
    assert await meshed.statistic("thrifty.*upstream_rq_retry_overflow") > 0


async def test_the_near_endpoint_is_called_until_it_is_sick(meshed: Running) -> None:
    assert {(await meshed.ask("/"))[1] for _ in range(8)} == {"near"}
    meshed.sites["near"].failing = True
    try:
        async with asyncio.timeout(30):
            while (await meshed.ask("/"))[1] != "far":
                pass
        assert {await meshed.ask("/") for _ in range(8)} == {(200, "far", "")}
    finally:
        meshed.sites["near"].failing = False


async def test_a_new_endpoint_warms_up(meshed: Running) -> None:
    """The old endpoint is warm when the new one comes, which then gets much less than its half."""
    while time.monotonic() - meshed.began < WARMING + 0.5:
        assert (await meshed.ask("/warm"))[1] == "old"
        await asyncio.sleep(0.05)
    more = "{address: 127.0.0.1, ports: {http: %old%}}"
    both = DOCUMENTS.replace(more, f"{more}, {more.replace('%old%', '%new%')}")
    await meshed.running.change(meshed.documents(both))
    meshed.sites["old"].asked = meshed.sites["new"].asked = 0
    first = time.monotonic()
    await asyncio.gather(*(meshed.ask("/warm") for _ in range(40)))
    weight = min(1.0, 0.25 + (time.monotonic() - first) / WARMING)
    assert meshed.sites["new"].asked <= 40 * weight / (1 + weight) + 3
    async with asyncio.timeout(30):
        while meshed.sites["new"].asked < 20:
            await meshed.ask("/warm")
