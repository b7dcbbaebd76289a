"""Servers that tell their load in the headers of their answers, behind a real Envoy with the native module."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from tests.flows.envoy_process import EnvoyProcess, wait_until
from tests.flows.module_rig import PoolBootstrap, ask, chat, needs_pools, pool_envoy, upstreams

pytestmark = needs_pools
ASKS, SAYS = "endpoint-load-metrics-format", "endpoint-load-metrics"


@dataclass
class Server:
    """Answers at once, and tells a load where it is asked, in the format that is asked for, as vLLM does."""

    waiting: float = 0.0
    says: str | None = None
    asked: list[str] = field(default_factory=list)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        return app

    async def _answer(self, request: web.Request) -> web.Response:
        wanted = request.headers.get(ASKS, "")
        self.asked.append(wanted)
        named = {"kv_cache_usage_perc": 0.5, "num_requests_waiting": self.waiting}
        headers = {}
        if self.says is not None:
            headers[SAYS] = self.says
        elif wanted == "json":
            headers[SAYS] = f"JSON {json.dumps({'named_metrics': named})}"
        elif wanted == "text":
            headers[SAYS] = "TEXT " + ", ".join(f"named_metrics.{name}={value}" for name, value in named.items())
        return web.json_response({"object": "chat.completion", "choices": []}, headers=headers)


@dataclass
class Rig:
    envoy: EnvoyProcess
    servers: dict[str, Server]

    def pick(self) -> str:
        answer = ask(self.envoy, chat("hello"))
        assert answer.status == 200 and SAYS not in answer.headers
        return answer.endpoint


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    servers = (Server(), Server())
    with upstreams() as started:
        ports = [started.add(server.app()) for server in servers]
        addresses = [f"127.0.0.1:{port}" for port in ports]
        settings = {"policy": "least-request", "orca": True}
        with pool_envoy(PoolBootstrap(tmp_path / "admin.sock", {"models": ports}, settings)) as envoy:
            yield Rig(envoy, dict(zip(addresses, servers, strict=True)))


def test_a_server_that_says_that_requests_wait_is_left_alone_for_five_seconds(rig: Rig) -> None:
    busy = rig.pick()
    rig.servers[busy].waiting = 9
    wait_until(lambda: rig.pick() == busy, "it tells")
    assert busy not in {rig.pick() for _ in range(20)}
    rig.servers[busy].waiting = 0
    wait_until(lambda: rig.pick() == busy, "it is asked again", 30.0)
    wait_until(lambda: rig.pick() != busy, "both are")


@pytest.mark.parametrize("said", ["JSON {", "TEXT named_metrics.num_requests_waiting=-1", "x" * 20_000, "\u00ff\u00fe"])
def test_what_is_no_load_is_no_harm(rig: Rig, said: str) -> None:
    for server in rig.servers.values():
        server.says = said
    assert {rig.pick() for _ in range(40)} == set(rig.servers)


def test_lies_fail_no_request(rig: Rig) -> None:
    for server in rig.servers.values():
        server.waiting = 1e300
    assert {rig.pick() for _ in range(40)} <= set(rig.servers)


def test_a_client_that_asks_gets_its_answer_and_others_never_do(rig: Rig) -> None:
    answer = ask(rig.envoy, chat("hello"), **{ASKS: "text"})
    assert answer.headers[SAYS] == "TEXT named_metrics.kv_cache_usage_perc=0.5, named_metrics.num_requests_waiting=0.0"
    rig.pick()
    asked = [wanted for server in rig.servers.values() for wanted in server.asked]
    assert sorted(asked) == ["json", "text"]


def test_without_the_setting_nobody_is_asked_and_headers_pass(tmp_path: Path) -> None:
    server = Server(says="TEXT eps=1")
    with upstreams() as started:
        bootstrap = PoolBootstrap(tmp_path / "admin.sock", {"models": [started.add(server.app())]})
        with pool_envoy(bootstrap) as envoy:
            assert ask(envoy, chat("hello")).headers[SAYS] == "TEXT eps=1"
    assert server.asked == [""]
