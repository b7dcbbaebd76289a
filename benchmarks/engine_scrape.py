"""What scraping the engines' metrics costs the agent: processor time of its own code, for N model servers.

    python benchmarks/engine_scrape.py [SERVERS] [SECONDS]

The servers (default 20) run in another process and serve a page like vLLM's (60 KB, mostly histograms) whose gauges
change with every answer. Measured are the tasks that follow them, the file for the Envoys and the messages for the
control plane, for SECONDS (default 20); prints a table.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

from aiohttp import web

from headrace.agent.capture import Attachment, LoopbackCapture
from headrace.agent.context import HostContext
from headrace.agent.engine_loads import EngineLoads
from headrace.agent.engine_watch import Target, watch_engine
from headrace.agent.loads_file import LoadsFile
from headrace.agent.prober import ProbeWay, probe_session
from headrace.floor.clock import SystemClock
from headrace.model.workload import Engine

_HISTOGRAMS = 22
_BUCKETS = 24


def page() -> str:
    """Like vLLM's: a few gauges among histograms."""
    label = 'engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"'
    lines = []
    for number in range(_HISTOGRAMS):
        name = f"vllm:histogram_{number}_of_something_seconds"
        lines += [f"# HELP {name} Histogram of something in seconds.", f"# TYPE {name} histogram"]
        lines += [f'{name}_bucket{{{label},le="{bucket / 10}"}} {bucket * 17}.0' for bucket in range(_BUCKETS)]
        lines += [f"{name}_sum{{{label}}} 1234.5678", f"{name}_count{{{label}}} 408.0"]
    lines.append(f'vllm:cache_config_info{{block_size="16",num_gpu_blocks="27500",{label}}} 1.0')
    return "\n".join(lines) + "\n"


async def serve(count: int, ports: Connection) -> None:
    """`count` servers, until killed."""
    rest, label = page(), 'engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"'
    source = random.Random(1)

    async def metrics(_: web.Request) -> web.Response:
        gauges = "".join(
            f"vllm:{name}{{{label}}} {source.randint(0, 40)}.0\n"
            for name in ("num_requests_running", "num_requests_waiting")
        )
        return web.Response(text=f"{gauges}vllm:kv_cache_usage_perc{{{label}}} {source.random()}\n{rest}")

    found = []
    for _ in range(count):
        app = web.Application()
        app.router.add_get("/metrics", metrics)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        found.append(runner.addresses[0][1])
    ports.send(found)
    await asyncio.sleep(3600)


def _serving(count: int, ports: Connection) -> None:
    asyncio.run(serve(count, ports))


class _Context:
    """The parts of the agent's context that following an engine needs."""

    def __init__(self, session: Any) -> None:
        self.clock = SystemClock()
        self.source = random.Random(2)
        self.loads = EngineLoads()
        self.session = session


async def measure(ports: list[int], seconds: float) -> tuple[float, int, int]:
    """Processor seconds, answers and writings of the file."""
    with tempfile.TemporaryDirectory() as directory:
        async with probe_session() as session:
            context = _Context(session)
            loads = context.loads
            way = ProbeWay(session, LoopbackCapture(Path(directory), str), Attachment("127.0.0.1"))
            file = LoadsFile(Path(directory) / "engine-loads", context.clock)
            written = 0

            async def keep() -> None:
                nonlocal written
                async for _ in loads.revision.changes():
                    if file.update(loads):
                        written += 1
                        loads.message("here", context.clock.monotonic()).SerializeToString()
                        await asyncio.sleep(0.25)

            def follow(number: int, port: int) -> asyncio.Task[None]:
                target = Target(Engine.VLLM, way, port, (f"127.16.0.{number + 1}:8000",))
                return asyncio.create_task(
                    watch_engine(f"default/llm-{number}", lambda: target, cast("HostContext", context))
                )

            tasks = [follow(number, port) for number, port in enumerate(ports)]
            tasks.append(asyncio.create_task(keep()))
            await asyncio.sleep(2.0)
            words, began, files = loads.revision.value, time.process_time(), written
            await asyncio.sleep(seconds)
            found = time.process_time() - began, loads.revision.value - words, written - files
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return found


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 20.0
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("fork").Process(target=_serving, args=(count, theirs), daemon=True)
    server.start()
    try:
        used, answers, files = asyncio.run(measure(ours.recv(), seconds))
    finally:
        server.kill()
    print("| servers | page | answers a second | processor time of one core | a scrape | files written a second |")
    print("|---|---|---|---|---|---|")
    print(
        f"| {count} | {len(page()) / 1000:.0f} KB | {answers / seconds:.1f} | {used / seconds:.1%} "
        f"| {used / answers * 1000:.2f} ms | {files / seconds:.1f} |"
    )


if __name__ == "__main__":
    main()
