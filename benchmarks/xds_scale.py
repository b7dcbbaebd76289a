"""What discovery costs the control plane at size: memory, processor time and time for N services and M proxies.

    python benchmarks/xds_scale.py [--services 1000] [--endpoints 10] [--proxies 500] [--rounds 20]

Documents are generated, translated by the real translator and served by the real hub over a Unix socket to fake delta
clients in another process (on the same cores: their work is part of every time, not of the processor time shown).
Prints rows for benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import uvloop
from _machine import cpu_seconds, machine, peak_mib, resident_mib
from _mesh import GeneratedMesh

from headrace.envoy.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE, ResourceSet
from headrace.envoy.xds.hub import Hub
from headrace.envoy.xds.service import ADS_METHOD, unix_server
from headrace.floor.clock import SystemClock
from headrace.model.proxy import CaptureKind

_HERE = Path(__file__).parent


class Source:
    """The newest sets."""

    def __init__(self) -> None:
        self.sets: dict[str, ResourceSet] = {}

    def resources_for(self, proxy: str) -> ResourceSet | None:
        return self.sets.get(proxy)


class ByMetadata(grpc.GenericRpcHandler):
    """The aggregated stream of the proxy that the call's metadata names (benchmarks only: nothing proves it)."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return grpc.stream_stream_rpc_method_handler(self._serve) if details.method == ADS_METHOD else None

    async def _serve(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        proxy = dict(context.invocation_metadata() or ())["proxy"]
        async for message in self._hub.stream(str(proxy), requests):
            await context.write(message)
            del message


class Fakes:
    """The process of the fake clients."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, directory: Path, proxies: list[str], resources: ResourceSet) -> Fakes:
        names = {
            CLUSTER: [],
            ENDPOINT: list(resources.of_type(ENDPOINT)),
            LISTENER: [],
            ROUTE: list(resources.of_type(ROUTE)),
        }
        (directory / "names.json").write_text(json.dumps({"proxies": proxies, "names": names}))
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable,
                _HERE / "_clients.py",
                directory / "xds",
                directory / "names.json",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
        )

    async def tell(self, word: str) -> None:
        """Send a command and wait until it is done."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{word}\n".encode())
        await self.process.stdout.readline()

    async def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


async def in_force(hub: Hub, count: int, seconds: float) -> None:
    """Wait until `count` proxies have asked for all four types and acknowledged them."""
    async with asyncio.timeout(seconds):
        while True:
            statuses = hub.statuses()
            if len(statuses) == count and all(len(one.types) == 4 for one in statuses):
                break
            await asyncio.sleep(0.05)
        pending = await hub.acknowledged(hub.generation, seconds)
        assert not pending, f"{len(pending)} proxies have not acknowledged"


async def measure(arguments: argparse.Namespace) -> list[str]:
    rows = []

    def row(what: str, wall: float, cpu: float, note: str = "") -> None:
        rows.append(f"| {what} | {wall * 1000:,.0f} | {cpu * 1000:,.0f} | {resident_mib():,.0f} | {note} |")
        print(rows[-1], flush=True)

    print("| step | time (ms) | control plane CPU (ms) | resident (MiB) | |\n|---|---|---|---|---|")
    start, cpu = time.perf_counter(), cpu_seconds()
    base = resident_mib()
    mesh = GeneratedMesh(arguments.services, arguments.endpoints, arguments.proxies, CaptureKind(arguments.capture))
    row("documents read and checked", time.perf_counter() - start, cpu_seconds() - cpu, f"{base:,.0f} MiB before")
    start, cpu = time.perf_counter(), cpu_seconds()
    source = Source()
    source.sets = mesh.sets()
    row("snapshot, and all sets translated", time.perf_counter() - start, cpu_seconds() - cpu)
    hub = Hub(source, SystemClock())
    with tempfile.TemporaryDirectory(prefix="hr-scale-") as name:
        fakes = await Fakes.start(Path(name), list(mesh.proxies), next(iter(source.sets.values())))
        async with unix_server(Path(name) / "xds", [ByMetadata(hub)]):
            try:
                start, cpu = time.perf_counter(), cpu_seconds()
                await fakes.tell("open")
                await in_force(hub, arguments.proxies, 300)
                note = f"{hub.counters.response_bytes / (1 << 20):,.0f} MiB sent"
                row("all proxies connected and in force", time.perf_counter() - start, cpu_seconds() - cpu, note)
                for label, change in (
                    ("weight", mesh.change_weight),
                    ("endpoint", mesh.change_endpoints),
                    ("cluster", mesh.change_cluster),
                ):
                    await rounds(label, change, hub, source, arguments.rounds, row)
                await fakes.tell("cut")
                while hub.statuses():
                    await asyncio.sleep(0.01)
                before, start, cpu = hub.counters.responses, time.perf_counter(), cpu_seconds()
                await fakes.tell("open")
                await in_force(hub, arguments.proxies, 300)
                note = f"{hub.counters.responses - before} responses sent"
                row("all proxies reconnected", time.perf_counter() - start, cpu_seconds() - cpu, note)
            finally:
                await fakes.stop()
    gc.collect()
    print(f"\npeak {peak_mib():,.0f} MiB; {machine()}")
    return rows


async def rounds(
    label: str,
    change: Callable[[], dict[str, ResourceSet]],
    hub: Hub,
    source: Source,
    count: int,
    row: Callable[[str, float, float, str], None],
) -> None:
    """`count` changes, each from the document to the last proxy's acknowledgement."""
    walls, pushes, cpu = [], [], cpu_seconds()
    for _ in range(count):
        start = time.perf_counter()
        source.sets = change()
        published = time.perf_counter()
        assert not await hub.acknowledged(hub.publish(source.sets), 60)
        end = time.perf_counter()
        walls.append(end - start)
        pushes.append(end - published)
    note = f"of which push → last ACK {statistics.median(pushes) * 1000:,.0f} ms; worst {max(walls) * 1000:,.0f} ms"
    what = f"one {label} changed, in force everywhere (median of {count})"
    row(what, statistics.median(walls), (cpu_seconds() - cpu) / count, note)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--endpoints", type=int, default=10)
    parser.add_argument("--proxies", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--capture", choices=[kind.value for kind in CaptureKind], default="loopback")
    uvloop.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
