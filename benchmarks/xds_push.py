"""Push → acknowledgement of one change, for 1, 10 and 100 proxies.

    python benchmarks/xds_push.py [--envoys 1,10,100] [--services 20] [--rounds 50]

Real Envoys, each on its own Unix socket, served by the real hub with translated sets of generated documents. A push
takes from handing the new sets to the hub until the last proxy has acknowledged; the document's way to the sets is in
xds_scale.py. Prints rows for benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import uvloop
from _machine import machine
from _mesh import GeneratedMesh, secrets

from headrace.envoy.binary import pinned_envoy
from headrace.envoy.bootstrap import BootstrapSettings, bootstrap_json
from headrace.envoy.resources import ResourceSet
from headrace.envoy.xds.hub import Hub
from headrace.envoy.xds.service import discovery_handler, unix_server
from headrace.floor.clock import SystemClock
from headrace.model.proxy import CaptureKind


class Source:
    """The newest sets."""

    def __init__(self, sets: dict[str, ResourceSet]) -> None:
        self.sets = sets

    def resources_for(self, proxy: str) -> ResourceSet | None:
        return self.sets.get(proxy)


@asynccontextmanager
async def envoy(directory: Path) -> AsyncIterator[None]:
    """A running Envoy that asks at `directory`/xds."""
    settings = BootstrapSettings(directory.name, "bench", directory / "xds", directory / "admin")
    config = directory / "bootstrap.json"
    config.write_bytes(bootstrap_json(settings))
    with (directory / "log").open("wb") as log:
        command = [pinned_envoy(), "-c", config, "--disable-hot-restart", "--concurrency", "1", "-l", "error"]
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def measure(count: int, services: int, rounds: int) -> None:
    """Rows for `count` Envoys."""
    mesh = GeneratedMesh(services, 10, count, CaptureKind.LOOPBACK)
    source = Source(mesh.sets())
    hub = Hub(source, SystemClock())
    vault = Hub(Source(dict.fromkeys(mesh.proxies, secrets())), SystemClock())
    async with AsyncExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hr-push-")))
        directories = {proxy: root / str(number) for number, proxy in enumerate(mesh.proxies)}
        for directory in directories.values():
            directory.mkdir()
            await stack.enter_async_context(envoy(directory))
        for proxy, directory in directories.items():
            handler = discovery_handler(
                ads=functools.partial(hub.stream, proxy), sds=functools.partial(vault.stream, proxy)
            )
            await stack.enter_async_context(unix_server(directory / "xds", [handler], grace=0))
        await _complete(hub, count)
        for label, change in (
            ("weight", mesh.change_weight),
            ("endpoint", mesh.change_endpoints),
            ("cluster, with its endpoints", mesh.change_cluster),
        ):
            times = [await _push(hub, source, change) for _ in range(rounds)]
            p95 = statistics.quantiles(times, n=20)[-1]
            print(f"| {count} | {label} | {statistics.median(times):.2f} | {p95:.2f} | {max(times):.2f} |", flush=True)
        refused = [nack.message for status in hub.statuses() for nack in status.nacks]
        assert not refused, refused[0]


async def _push(hub: Hub, source: Source, change: Callable[[], dict[str, ResourceSet]]) -> float:
    """One change to the last acknowledgement, in milliseconds."""
    source.sets = change()
    start = time.perf_counter()
    pending = await hub.acknowledged(hub.publish(source.sets), 30)
    assert not pending, f"{len(pending)} proxies did not acknowledge"
    return (time.perf_counter() - start) * 1000


async def _complete(hub: Hub, count: int) -> None:
    """Wait until all proxies have everything."""
    end = time.monotonic() + 30 + count
    while time.monotonic() < end:
        statuses = hub.statuses()
        if len(statuses) == count and all(len(one.types) == 4 and one.in_sync for one in statuses):
            return
        await asyncio.sleep(0.05)
    raise TimeoutError(f"not in force: {next((one for one in hub.statuses() if not one.in_sync), hub.statuses())}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--envoys", default="1,10,100", help="how many Envoys, one run each")
    parser.add_argument("--services", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=50)
    arguments = parser.parse_args()
    print("| Envoys | one change of | median (ms) | p95 (ms) | worst (ms) |\n|---|---|---|---|---|")
    for count in (int(word) for word in arguments.envoys.split(",")):
        uvloop.run(measure(count, arguments.services, arguments.rounds))
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
