"""Engines' loads between hosts: the control plane's own service over real gRPC, with two agents' ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from tests.flows.agent_rig import until

from headrace.agent.engine_loads import EngineLoads, ReplicaLoad
from headrace.agent.link import ControlLink, HostFacts
from headrace.app.control_plane.agents import AgentService
from headrace.app.control_plane.assignments import PlannedReplica
from headrace.app.control_plane.hosts import HostBook
from headrace.app.settings import MeshSettings
from headrace.envoy.xds.hub import Hub
from headrace.floor.backoff import Backoff
from headrace.floor.cell import LatestValue
from headrace.floor.clock import SystemClock
from headrace.identity.trust import TrustState
from headrace.inference.metrics import EngineMetrics
from headrace.model.identity import Identity
from headrace.model.workload import WorkloadPort, WorkloadRole
from headrace.wire import agent_v1_pb2 as wire
from headrace.wire import agent_v1_pb2_grpc


class NoResources:
    """No proxy asks for anything here."""

    def resources_for(self, proxy: str) -> None:
        return None


def replica(index: int) -> PlannedReplica:
    identity = Identity("cluster.local", "default", "default")
    ports = (WorkloadPort(8000, "http"),)
    return PlannedReplica(
        f"default/llm-{index}", "default", "llm", index, WorkloadRole.SIDECAR, identity, {}, ports, None
    )


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[tuple[AgentService, str]]:
    planned = LatestValue((replica(0), replica(1)))
    hosts = HostBook()
    hosts.planned(planned.value, "127.0.0.1")
    found = AgentService(hosts, planned, Hub(NoResources(), SystemClock()), MeshSettings(documents=("x",)))
    found.trust = LatestValue(TrustState(""))
    server = grpc.aio.server()
    agent_v1_pb2_grpc.add_ControlPlaneServicer_to_server(found, server)
    target = f"unix:{tmp_path}/agent.sock"
    server.add_insecure_port(target)
    await server.start()
    yield found, target
    await server.stop(None)


@contextlib.asynccontextmanager
async def agent(target: str, host: str, index: int) -> AsyncIterator[EngineLoads]:
    """One host's link; it reports one replica."""
    loads, clock = EngineLoads(), SystemClock()
    link = ControlLink(target, HostFacts(host, "1.40.0"), Backoff(0.05, 0.5), clock, loads)
    report = wire.ReplicaReport(id=f"default/llm-{index}", address=f"127.16.0.{index + 1}", state="ready")
    reports = LatestValue(wire.HostReport(host=host, sequence=1, replicas=[report]))
    running = asyncio.create_task(link.run(reports, lambda _: None))
    try:
        yield loads
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_what_one_host_s_engines_say_reaches_the_other_and_goes_with_it(
    service: tuple[AgentService, str],
) -> None:
    control, target = service
    clock = SystemClock()

    def waiting(loads: EngineLoads) -> dict[str, float]:
        return {load.address: load.figures["waiting"] for load in loads.endpoints(clock.monotonic())}

    def say(loads: EngineLoads, index: int, figure: float) -> None:
        address = f"127.16.0.{index + 1}:8000"
        load = ReplicaLoad((address,), EngineMetrics(waiting=figure), clock.monotonic())
        loads.set(f"default/llm-{index}", load)

    async with agent(target, "here", 0) as here:
        async with agent(target, "there", 1) as there:

            def both() -> bool:
                say(here, 0, 3)
                say(there, 1, 7)
                wanted = {"127.16.0.1:8000": 3.0, "127.16.0.2:8000": 7.0}
                return waiting(here) == wanted == waiting(there)

            await until(both, "each host knows of both")
            say(there, 1, 9)
            await until(lambda: waiting(here).get("127.16.0.2:8000") == 9, "news travels")
            assert set(control.loads.rows()) == {"default/llm-0", "default/llm-1"}
            say(there, 0, 1000)
            await asyncio.sleep(0.6)
            assert control.loads.rows()["default/llm-0"]["waiting"] == 3, "a host speaks for its own replicas only"
        await until(lambda: list(waiting(here)) == [], "what is gone is old", 15.0)


async def test_idle_hosts_hardly_talk(service: tuple[AgentService, str]) -> None:
    """Hosts must not wake each other in a circle."""
    control, target = service
    async with agent(target, "here", 0) as here, agent(target, "there", 1) as there:
        address = "127.16.0.1:8000"
        await until(lambda: control.loads.revision.value >= 2, "both talked")
        begin = control.loads.revision.value
        for step in range(10):
            now = SystemClock().monotonic()
            here.set("default/llm-0", ReplicaLoad((address,), EngineMetrics(waiting=1), now))
            there.set("default/llm-1", ReplicaLoad(("127.16.0.2:8000",), EngineMetrics(waiting=step // 9), now))
            await asyncio.sleep(0.2)
        assert control.loads.revision.value - begin <= 7, json.dumps(control.loads.rows())
