"""A real Envoy with the native module before simulated servers with LoRA adapters: a request for an adapter goes where
the engines' own metrics, read as the agent reads them, say that it runs."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.flows.envoy_process import EnvoyProcess, wait_until
from tests.flows.module_rig import PoolBootstrap, ask, in_threads, needs_pools, pool_envoy, simulated, upstreams

from headrace.agent.engine_loads import VARIABLE, EndpointLoad, ReplicaLoad
from headrace.agent.loads_file import loads_page
from headrace.floor.files import write_private
from headrace.inference.metrics import read_metrics
from headrace.model.workload import Engine

pytestmark = needs_pools
ADAPTERS = ("fr", "de at 100 %", "it")


@dataclass
class Rig:
    """One Envoy before three servers, each with room for one adapter at a time; their metrics are read all the time."""

    envoy: EnvoyProcess
    file: Path
    ports: list[int]
    over: threading.Event = field(default_factory=threading.Event)

    def relay(self) -> None:
        """What the agent does, four times a second."""
        while not self.over.wait(0.25):
            loads, now = [], time.monotonic()
            for port in self.ports:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30.0) as page:
                    metrics = read_metrics(Engine.VLLM, {"/metrics": page.read()})
                said = ReplicaLoad((), metrics)
                loads.append(EndpointLoad(f"127.0.0.1:{port}", said.figures(), now, said.adapters()))
            write_private(self.file, loads_page(loads, now, time.time()), durable=False)

    def endpoint(self, model: str, tokens: int = 4) -> str:
        """Where a request for this model goes."""
        body = {"model": model, "stream": True, "max_tokens": tokens}
        body |= {"messages": [{"role": "user", "content": f"{time.monotonic()}"}]}
        answer = ask(self.envoy, json.dumps(body).encode())
        assert answer.status == 200
        return answer.endpoint


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    directory = tmp_path_factory.mktemp("adapters")
    file = directory / "engine-loads"
    with upstreams() as servers:
        ports = [servers.add(simulated(slots=8, adapters=ADAPTERS, decode_rate=20.0)) for _ in range(3)]
        bootstrap = PoolBootstrap(directory / "admin.sock", {"models": ports}, {})
        with pool_envoy(bootstrap, {VARIABLE: str(file)}) as envoy:
            rig = Rig(envoy, file, ports)
            relay = threading.Thread(target=rig.relay)
            relay.start()
            try:
                yield rig
            finally:
                rig.over.set()
                relay.join(60.0)


def test_requests_for_an_adapter_go_where_it_is_loaded(rig: Rig) -> None:
    def settled() -> bool:
        """Each adapter has a server of its own, whatever comes in between."""
        homes = {model: Counter(in_threads(6, lambda _, model=model: rig.endpoint(model))) for model in ADAPTERS}
        return all(len(home) == 1 for home in homes.values()) and len({*map(str, homes.values())}) == len(ADAPTERS)

    wait_until(settled, "each adapter has a home", 60.0)


def test_other_models_go_by_load(rig: Rig) -> None:
    def spread() -> bool:
        return len(set(in_threads(9, lambda _: rig.endpoint("base", 8)))) == 3

    wait_until(spread, "all three serve what is no adapter", 60.0)
