"""The agent asks model servers beside it: real HTTP servers, good ones and bad ones, and a real agent that tells."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from tests.flows.agent_rig import ScriptedControlPlane, agent_rig, replica, until

from headrace.agent.capture import Attachment, LoopbackCapture
from headrace.agent.prober import ProbeWay, probe_session
from headrace.agent.scrape import MOST_BYTES, ScrapeError, scrape
from headrace.model.workload import Engine
from headrace.wire import agent_v1_pb2 as wire
from headrace.wire import agent_v1_pb2_grpc

PAGES = Path(__file__).parents[1] / "unit" / "inference" / "metrics" / "pages"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
async def way(tmp_path: Path) -> AsyncIterator[ProbeWay]:
    async with probe_session() as session:
        yield ProbeWay(session, LoopbackCapture(tmp_path, lambda: ""), Attachment("127.0.0.1"))


async def serve(**pages: Handler) -> tuple[web.AppRunner, int]:
    """A server with these pages; its port. `__` in a name stands for a slash."""
    app = web.Application()
    for name, handler in pages.items():
        app.router.add_get(f"/{name.replace('__', '/')}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, runner.addresses[0][1]


def says(body: bytes, status: int = 200) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=body, status=status)

    return handler


async def test_every_page_of_an_engine_is_asked_for(way: ProbeWay) -> None:
    metrics, slots = ((PAGES / name).read_bytes() for name in ("llamacpp.prom", "llamacpp-slots.json"))
    runner, port = await serve(metrics=says(metrics), slots=says(slots))
    found = await scrape(way, Engine.LLAMACPP, port)
    assert found.slots == 4 and found.kv_used is not None
    await runner.cleanup()
    runner, port = await serve(metrics=says(metrics), slots=says(b"", 501))
    found = await scrape(way, Engine.LLAMACPP, port)
    assert found.slots is None and found.running is not None
    await runner.cleanup()


async def test_trtllm_serve_s_second_page_is_left_alone_where_the_first_is_there(
    way: ProbeWay,
) -> None:
    async def emptied(_: web.Request) -> web.Response:
        raise AssertionError("asking for this page empties it")

    runner, port = await serve(
        prometheus__metrics=says((PAGES / "trtllm.prom").read_bytes()),
        metrics=emptied,
    )
    assert (await scrape(way, Engine.TRTLLM, port)).running is not None
    await runner.cleanup()


@pytest.mark.parametrize(
    ("page", "engine", "complaint"),
    [
        (says(b"", 404), Engine.SGLANG, "none of /metrics is served; start SGLang with --enable-metrics"),
        (says(b"", 501), Engine.LLAMACPP, "start llama.cpp with --metrics"),
        (says(b"", 401), Engine.VLLM, "/metrics answered 401: the mesh asks without a key"),
        (says(b"", 500), Engine.VLLM, "/metrics answered 500"),
        (says(b"", 302), Engine.VLLM, "/metrics answered 302"),
        (says(b"x" * (MOST_BYTES + 1)), Engine.VLLM, "/metrics has more than 2 MiB"),
        (says(b"<html>hello</html>"), Engine.VLLM, "the page has none of the names of engine vllm"),
        (says(b"vllm:num_requests_waiting 1\n" * 5000), Engine.VLLM, "more than 4096 lines"),
    ],
)
async def test_what_goes_wrong_is_said_with_what_to_do(
    way: ProbeWay, page: Handler, engine: Engine, complaint: str
) -> None:
    runner, port = await serve(metrics=page)
    with pytest.raises(ScrapeError) as found:
        await scrape(way, engine, port)
    assert complaint in str(found.value)
    await runner.cleanup()


async def test_a_server_that_hangs_drips_or_is_gone_costs_two_seconds_at_most(way: ProbeWay) -> None:
    async def hang(_: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"vllm:num_requests_running 1\n")
            await asyncio.sleep(0.1)

    for page in (hang, drip):
        runner, port = await serve(metrics=page)
        with pytest.raises(ScrapeError, match="no answer within 2 s"):
            async with asyncio.timeout(10):
                await scrape(way, Engine.VLLM, port)
        await runner.cleanup()
    with pytest.raises(ScrapeError, match="nothing listens on 127"):
        await scrape(way, Engine.VLLM, port)


async def test_pages_of_random_bytes_end_in_a_complaint_or_in_figures(way: ProbeWay) -> None:
    source = random.Random(7)
    names = [
        b"vllm:num_requests_waiting",
        b"{",
        b'a="',
        b"}",
        b" ",
        b"\n",
        b"1e999",
        b"NaN",
        b"-1",
        b"\xff",
        b"[",
        b"]",
    ]
    body = b""

    async def noise(_: web.Request) -> web.Response:
        return web.Response(body=body)

    runner, port = await serve(metrics=noise, slots=noise, prometheus__metrics=noise)
    for engine in Engine:
        for _ in range(20):
            body = b"".join(source.choices(names, k=200))
            try:
                found = await scrape(way, engine, port)
            except ScrapeError:
                continue
            assert found.waiting is None or found.waiting >= 0
    await runner.cleanup()


SIMULATED = [sys.executable, "-m", "headrace", "model-server", "--engine", "simulated", "--port", "$(PORT)"]


async def test_an_agent_tells_what_its_model_servers_say_and_what_it_hears_of_others() -> None:
    async with agent_rig() as rig:
        rig.control.other_loads = wire.MeshEngineLoads(loads=[wire.EngineLoad(addresses=["10.0.0.7:8000"], waiting=6)])
        rig.control.assign(replica("llm-0", command=SIMULATED, engine="vllm"), replica("chat-0"))
        await rig.control.ready("default/llm-0")
        load = await until(lambda: rig.control.loads.get("default/llm-0"), "its load is told")
        assert (load.waiting, load.running, load.problem) == (0, 0, "")
        report = rig.control.report("default/llm-0")

        def lines() -> list[str]:
            file = rig.places.engine_loads
            return file.read_text().splitlines()[1:] if file.exists() else []

        found = await until(lambda: lines() if len(lines()) == 2 else None, "both are in the file")
        assert found[0].startswith("10.0.0.7:8000 age_ms=") and found[0].endswith("waiting=6")
        assert found[1].startswith(f"{report.address}:8000 age_ms=") and "waiting=0 running=0 kv_used=0" in found[1]
        envoy = Path(f"/proc/{report.proxy_pid}/environ").read_bytes()
        assert f"HEADRACE_ENGINE_LOADS={rig.places.engine_loads}".encode() in envoy.split(b"\0")
        await rig.control.stop()
        await asyncio.sleep(1.5)
        assert any(line.startswith(report.address) for line in lines()), "its own go on without a control plane"
        await rig.control.start()
        reports = len(rig.control.history)
        await until(lambda: rig.control.loads.get("default/llm-0"), "told again")
        assert len(rig.control.history) == reports, "no load changes a report"
        assert set(rig.control.loads) == {"default/llm-0"}


async def test_a_missing_page_is_told_with_its_remedy_and_an_engine_may_be_named_later() -> None:
    async with agent_rig() as rig:
        rig.control.assign(replica("chat-0"))
        before = await rig.control.ready()
        assert not rig.control.loads
        rig.control.assign(replica("chat-0", engine="sglang"))
        load = await until(lambda: rig.control.loads.get("default/chat-0"), "told")
        assert "is `engine` of the Workload right?" in load.problem
        assert rig.control.report().app_pid == before.app_pid
        assert not rig.places.engine_loads.exists()
        rig.control.assign(replica("chat-0"))
        await until(lambda: not rig.control.loads, "forgotten")


async def test_a_control_plane_that_is_a_minor_behind_is_no_hindrance(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = agent_v1_pb2_grpc.ControlPlaneServicer.EngineLoads
    monkeypatch.setattr(ScriptedControlPlane, "EngineLoads", unknown)
    async with agent_rig() as rig:
        rig.control.assign(replica("llm-0", command=SIMULATED, engine="vllm"))
        await rig.control.ready("default/llm-0")
        await until(rig.places.engine_loads.exists, "its own host's figures are written")
        await asyncio.sleep(1.0)
        assert len(rig.control.registered) == 1, "the connection stays"
        assert rig.control.state("default/llm-0") == "ready"
