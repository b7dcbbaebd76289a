"""Pools with admission in a real Envoy: several pools, a listener with TLS, filters before the pool's, settings that
change while it runs; and servers that answer when told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from tests.flows.envoy_process import EnvoyProcess, wait_until
from tests.flows.module_rig import Answer, PoolBootstrap, ask, chat, counters, pool_policy

_CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"


@dataclass
class GatedBootstrap(PoolBootstrap):
    """`pools`: settings of the clusters that are pools, each of its own name; other clusters are plain. `before`: HTTP
    filters before the pool's. `socket`: the listener's transport socket. `spills`: cluster of a pool → cluster to which
    what overflows goes (the value of the header is that cluster's name). `dynamic`: clusters come from a file, which
    `change` replaces."""

    pools: dict[str, dict[str, Any]] = field(default_factory=dict)
    before: list[dict[str, Any]] = field(default_factory=list)
    socket: dict[str, Any] | None = None
    spills: dict[str, str] = field(default_factory=dict)
    dynamic: bool = False

    def encode(self) -> bytes:
        """The bootstrap as JSON."""
        found = json.loads(super().encode())
        static = found["static_resources"]
        chain = static["listeners"][0]["filter_chains"][0]
        if self.socket:
            chain["transport_socket"] = self.socket
        manager = chain["filters"][0]["typed_config"]
        manager["http_filters"][:0] = self.before
        host = manager["route_config"]["virtual_hosts"][0]
        host["routes"] = [sibling for route in host["routes"] for sibling in self._with_sibling(route)]
        if self.log is not None:
            fields = manager["access_log"][0]["typed_config"]["log_format"]["json_format"]
            fields["redirected_from"] = "%DYNAMIC_METADATA(headrace:redirected_from)%"
        if self.dynamic:
            del static["clusters"]
            manager["route_config"]["validate_clusters"] = False
            found["node"] = {"id": "test", "cluster": "test"}
            source = {"path": str(self._file), "watched_directory": {"path": str(self._file.parent)}}
            found["dynamic_resources"] = {"cds_config": {"path_config_source": source}}
            self._write()
        return json.dumps(found).encode()

    def change(self, envoy: EnvoyProcess, **pools: dict[str, Any]) -> None:
        """Give pools other settings, and wait until Envoy has taken them."""
        before = envoy.stats("cluster_manager.cds.update_success")["cluster_manager.cds.update_success"]
        self.pools.update(pools)
        self._write()
        name = "cluster_manager.cds.update_success"
        wait_until(lambda: envoy.stats(name)[name] > before, "Envoy has the new clusters")

    @property
    def _file(self) -> Path:
        return self.admin.parent / "clusters" / "cds.json"

    def _write(self) -> None:
        clusters = [{"@type": _CLUSTER, **self._cluster(name, ports)} for name, ports in self.clusters.items()]
        self._file.parent.mkdir(exist_ok=True)
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps({"resources": clusters}))
        os.replace(new, self._file)

    def _with_sibling(self, route: dict[str, Any]) -> Iterator[dict[str, Any]]:
        spill = self.spills.get(route["route"].get("cluster", ""))
        if spill:
            header = {"name": "x-headrace-overflow", "string_match": {"exact": spill}}
            yield {"match": {**route["match"], "headers": [header]}, "route": {"cluster": spill}}
        yield route

    def _cluster(self, name: str, ports: list[int]) -> dict[str, Any]:
        cluster = super()._cluster(name, ports)
        cluster.pop("load_balancing_policy", None)
        if name in self.pools:
            cluster["load_balancing_policy"] = pool_policy({"pool": f"test/{name}", **self.pools[name]})
        return cluster


def gated(tmp_path: Path, ports: list[int], admission: dict[str, Any], **more: Any) -> GatedBootstrap:
    """One pool `models` with this admission; `more`: fields of the bootstrap."""
    more = {"pools": {"models": {"admission": admission}}, "log": tmp_path / "log", **more}
    return GatedBootstrap(tmp_path / "admin.sock", {"models": ports}, **more)


def count(envoy: EnvoyProcess, name: str, label: str = "") -> int:
    """The sum of the module's counters or gauges of this name whose labels contain the text."""
    return sum(value for labels, value in counters(envoy, name).items() if label in labels)


def outcomes(envoy: EnvoyProcess, pool: str = "") -> dict[str, int]:
    """Requests that ended, by outcome."""
    found: dict[str, int] = {}
    for labels, value in counters(envoy, "requests").items():
        if f"pool.test/{pool}" in labels and value:
            outcome = labels.rsplit("outcome.", 1)[1]
            found[outcome] = found.get(outcome, 0) + value
    return found


class HeldServer:
    """Answers when told, after so many seconds, and remembers what came."""

    def __init__(self, open_at_once: bool = False, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.gate = threading.Event()
        self.requests: list[dict[str, Any]] = []
        self.running = 0
        self.most = 0
        if open_at_once:
            self.gate.set()

    def app(self) -> web.Application:
        """It answers 200 with the length of the request's body."""
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/{path:.*}", self._answer)
        return app

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.requests.append({"headers": dict(request.headers), "length": len(body)})
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.seconds)
            while not self.gate.is_set():
                await asyncio.sleep(0.005)
        finally:
            self.running -= 1
        return web.Response(text=str(len(body)))


@dataclass
class Asked:
    """A request that a thread makes; its answer, once there is one."""

    thread: threading.Thread
    answers: list[Answer]

    def answer(self) -> Answer:
        """Waits for it."""
        self.thread.join(30)
        assert self.answers, "no answer within 30 s"
        return self.answers[0]


def begin(work: Callable[[], Answer]) -> Asked:
    """Make a request in a thread of its own."""
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(work()), daemon=True)
    thread.start()
    return Asked(thread, answers)


class Line:
    """Requests that wait one behind the other: each begins when the one before has come to stand where it should."""

    def __init__(self, envoy: EnvoyProcess) -> None:
        self.envoy = envoy
        self.asked: list[Asked] = []

    def join(self, model: str, waiting: int, work: Callable[[bytes], Answer] | None = None, **headers: str) -> Asked:
        """A request by this name, after which so many wait."""
        body = chat("x", model=model)
        self.asked.append(begin(lambda: work(body) if work else ask(self.envoy, body, **headers)))
        wait_until(lambda: count(self.envoy, "waiting") == waiting, f"{waiting} wait", 30)
        return self.asked[-1]

    def statuses(self) -> list[int]:
        """Of all, in the order of their coming."""
        return [asked.answer().status for asked in self.asked]


@contextlib.contextmanager
def opened(*servers: HeldServer) -> Iterator[None]:
    """At the end every server answers, whatever happened: nobody hangs in a test that failed."""
    try:
        yield
    finally:
        for server in servers:
            server.gate.set()
