"""How soon a change of a VirtualService's weights is in force in every proxy (goal: median below 50 ms).

    python benchmarks/change_latency.py [--changes N] [--write]

A mesh of four servers in two versions, a client and a gateway: six real Envoys. The weights go 100/0 and back, once
as a document for the API (the clock starts before it is sent) and once as a file that is replaced (the clock starts
before that). Each is looked at in two ways: "acknowledged" until `proxy status` shows the new version of every proxy's
routes as acknowledged; "seen" until a request through each proxy is answered by the new version, which is asked for
all the time over one kept connection for each proxy.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rigs import envoys, report
from rigs.mesh import Mesh, running_mesh

GOAL_MS = 50.0
HOST = "chat.default.svc.cluster.local"
PACE = 0.001
LIMIT = 10.0
WARM = 4
FIXED = """\
apiVersion: v1
kind: Service
metadata: {name: chat}
spec:
  selector: {app: chat}
  ports: [{name: http, port: 80, targetPort: 8000}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: chat}
spec:
  host: chat
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: door}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 80, name: http, protocol: HTTP}
    hosts: ["*"]
---
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {name: client}
spec:
  command: [sleep, infinity]
  serviceAccountName: client
  labels: {app: client}
"""
SERVER = """\
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {name: chat-%(version)s}
spec:
  replicas: 2
  command: [$(HEADRACE_PYTHON), %(program)s, %(directory)s, %(version)s]
  serviceAccountName: chat
  labels: {app: chat, version: %(version)s}
  ports: [{name: http, port: 8000}]
"""
ROUTES = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: chat}
spec:
  hosts: [chat.default.svc.cluster.local]
  gateways: [mesh, door]
  http:
  - route:
    - destination: {host: chat, subset: v1}
      weight: %(first)d
    - destination: {host: chat, subset: v2}
      weight: %(second)d
    timeout: 60s
"""


def routes(version: str) -> str:
    """The VirtualService that sends everything to one version."""
    first = 100 if version == "v1" else 0
    return ROUTES % {"first": first, "second": 100 - first}


@dataclass(frozen=True, slots=True)
class Door:
    """Where requests enter one proxy, and the request itself."""

    proxy: str
    address: tuple[str, int]
    request: bytes


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--changes", type=int, default=50)
    parser.add_argument("--write", action="store_true", help="put the section into RESULTS.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hr-change-") as directory:
        values = {"program": Path(envoys.__file__).resolve(), "directory": directory}
        files = {f"{version}.yaml": SERVER % (values | {"version": version}) for version in ("v1", "v2")}
        with running_mesh({"fixed.yaml": FIXED, **files}) as mesh:
            found = asyncio.run(measure(mesh, arguments.changes))
    rows = []
    for name, taken in found.items():
        goal = ("met" if statistics.median(taken) < GOAL_MS else "MISSED") if name.startswith("API") else "-"
        figures = [
            f"{statistics.median(taken):.1f}",
            f"{report.percentile(taken, 0.99):.1f}",
            f"{max(taken):.1f}",
            goal,
        ]
        rows.append([name, *figures])
    head = ["change by, until", "median ms", "p99 ms", "slowest ms", f"goal: median < {GOAL_MS:g} ms"]
    lines = [__doc__.split("\n\n")[2].replace("\n", " ").strip(), "", *report.table(head, rows)]
    lines += ["", f"{arguments.changes} changes each, six proxies."]
    report.publish("A weight change in force in every proxy", lines, write=arguments.write)


async def measure(mesh: Mesh, changes: int) -> dict[str, list[float]]:
    """Milliseconds of each change, by what was measured. First by file, then the API owns the document."""
    found: dict[str, list[float]] = {}
    eyes = [Eye(door) for door in doors(mesh)]

    async def in_turn(label: str, change: Callable[[str], Awaitable[float]], watch: Watch) -> None:
        for number in range(-WARM, changes):
            version = "v1" if number % 2 else "v2"
            taken = await watch(mesh, eyes, version, change)
            if number >= 0:
                found.setdefault(label, []).append(taken * 1000)
            await asyncio.sleep(0.02)

    for name, change in (("file", by_file(mesh)), ("API", by_api(mesh))):
        if name == "API":
            (mesh.documents / "routes.yaml").unlink()
            await settled(mesh)
        await in_turn(f"{name}, acknowledged", change, until_acknowledged)
        await in_turn(f"{name}, seen", change, until_seen)
    return found


Watch = Callable[[Mesh, "list[Eye]", str, Callable[[str], Awaitable[float]]], Awaitable[float]]


def doors(mesh: Mesh) -> list[Door]:
    """One for each proxy of the mesh."""
    found = []
    for name, row in mesh.proxies().items():
        if row["gateway_ports"]:
            target, more = "/", ""
            address = ("127.0.0.1", int(row["gateway_ports"]["80"]))
        else:
            sidecar = mesh.sidecar(name)
            target, more = f"http://{HOST}/", f"Proxy-Authorization: {sidecar.credentials}\r\n"
            address = sidecar.address
        found.append(Door(name, address, f"GET {target} HTTP/1.1\r\nHost: {HOST}\r\n{more}\r\n".encode()))
    return found


class Eye:
    """A kept connection through one proxy."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def version(self) -> str:
        """Which version answers now; "" where the answer was none of a server's."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._door.address)
        reader, writer = self._streams
        writer.write(self._door.request)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        except (asyncio.IncompleteReadError, ConnectionError):
            self._streams = None  # a replaced listener closes its connections at the end of a request
            return ""
        length = next((int(line[15:]) for line in head.split("\r\n") if line.startswith("content-length:")), 0)
        await reader.readexactly(length)
        if not head.startswith("http/1.1 200"):
            raise RuntimeError(f"{self._door.proxy}: {head.splitlines()[0]}")
        return next((line[11:].strip() for line in head.split("\r\n") if line.startswith("x-version:")), "")

    async def sees(self, version: str) -> float:
        """When it is first answered by the version."""
        deadline = time.monotonic() + LIMIT
        while await self.version() != version:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self._door.proxy}: no {version} within {LIMIT:g} s")
            await asyncio.sleep(PACE)
        return time.monotonic()


async def until_seen(mesh: Mesh, eyes: list[Eye], version: str, change: Callable[[str], Awaitable[float]]) -> float:
    """Seconds until every proxy sends a request to the version."""
    before = await asyncio.gather(*(eye.version() for eye in eyes))
    if version in before:
        raise RuntimeError(f"{version} answers before the change")
    watching = [asyncio.create_task(eye.sees(version)) for eye in eyes]
    await asyncio.sleep(0)
    started = await change(version)
    return max(await asyncio.gather(*watching)) - started


async def until_acknowledged(
    mesh: Mesh, eyes: list[Eye], version: str, change: Callable[[str], Awaitable[float]]
) -> float:
    """Seconds until every proxy has acknowledged other routes than before."""
    before = route_versions(mesh)
    started = await change(version)
    deadline = started + LIMIT
    while True:
        now = route_versions(mesh)
        if all(now[name] != before[name] and not now[name].endswith("*") for name in before):
            return time.monotonic() - started
        if time.monotonic() > deadline:
            raise RuntimeError(f"not acknowledged within {LIMIT:g} s: {before} {now}")
        await asyncio.sleep(PACE)


def route_versions(mesh: Mesh) -> dict[str, str]:
    """Each proxy's acknowledged version of its routes."""
    return {name: str(row["routes"]) for name, row in mesh.proxies().items()}


async def settled(mesh: Mesh) -> None:
    """Wait until nothing is on its way any more."""
    quiet = 0
    while quiet < 10:
        quiet = quiet + 1 if not any(text.endswith("*") for text in route_versions(mesh).values()) else 0
        await asyncio.sleep(0.05)


def by_file(mesh: Mesh) -> Callable[[str], Awaitable[float]]:
    """Replaces the file; says when."""

    async def change(version: str) -> float:
        new = mesh.root / "routes.new"
        new.write_text(routes(version))
        started = time.monotonic()
        os.replace(new, mesh.documents / "routes.yaml")
        return started

    return change


def by_api(mesh: Mesh) -> Callable[[str], Awaitable[float]]:
    """Sends the document to the API; says when."""

    async def change(version: str) -> float:
        body: Any = {"sources": [{"file": "routes", "text": routes(version)}]}
        started = time.monotonic()
        answer = await asyncio.to_thread(mesh.api.call, "POST", "/v1/documents", body)
        if answer["problems"]:
            raise RuntimeError(str(answer["problems"]))
        return started

    return change


if __name__ == "__main__":
    main()
