"""Requests while certificates are renewed all the time, and while the root is replaced: how many fail (goal: none)?

    python benchmarks/rotations.py [--certificates N] [--write]

A real mesh with certificates of six seconds: a chat service on four simulated servers, a client. Requests, a handshake
each, start at a steady rate, and every thirtieth is a stream of several seconds. The first part lasts until so many
certificates were issued; the second is one `headrace ca rotate-root`, from the command until the old root is gone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import sys
import time
from dataclasses import dataclass, field

import aiohttp
from rigs import report
from rigs.mesh import Mesh, headrace, running_mesh

RATE, LONG_EVERY = 60.0, 30
_DOCUMENTS = """\
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {name: chat}
spec:
  replicas: 4
  command: [headrace, model-server, --slots, "1024", --decode-rate, "50"]
  serviceAccountName: chat
  labels: {app: chat}
  ports: [{name: http, port: 8000}]
  readinessProbe: {httpGet: {path: /health}}
---
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {name: client}
spec:
  command: [sleep, infinity]
  serviceAccountName: client
  labels: {app: client}
---
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
  trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1}}}
"""


@dataclass
class Tally:
    sent: int = 0
    failed: list[str] = field(default_factory=list)


async def ask(session: aiohttp.ClientSession, proxy: str, tokens: int, tally: Tally) -> None:
    """One streamed completion, read to its end."""
    tally.sent += 1
    body = {"messages": [{"role": "user", "content": "go"}], "max_tokens": tokens, "stream": True}
    try:
        async with session.post("http://chat/v1/chat/completions", json=body, proxy=proxy) as answer:
            text = await answer.read()
        if answer.status != 200 or not text.endswith(b"data: [DONE]\n\n"):
            tally.failed.append(f"status {answer.status}, {len(text)} bytes")
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        tally.failed.append(f"{type(error).__name__}: {error}")


class Load:
    """Requests at a steady rate until it is left, which waits for every answer."""

    def __init__(self, proxy: str) -> None:
        self.tally = Tally()
        self._proxy = proxy
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Load:
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        assert self._task is not None
        await self._task

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
            running, number, due = set(), 0, time.monotonic()
            while not self._stop.is_set():
                number += 1
                tokens = 150 if number % LONG_EVERY == 0 else 5
                task = asyncio.create_task(ask(session, self._proxy, tokens, self.tally))
                running.add(task)
                task.add_done_callback(running.discard)
                due += 1.0 / RATE
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            await asyncio.gather(*running)


def issued(mesh: Mesh) -> int:
    with sqlite3.connect(f"file:{mesh.places.ca}/ledger.sqlite?mode=ro", uri=True) as database:
        (count,) = database.execute("SELECT count(*) FROM issued").fetchone()
    return int(count)


async def measure(mesh: Mesh, certificates: int) -> list[list[str]]:
    while not (proxy := mesh.environment("default/client-0").get("HTTP_PROXY", "")):
        await asyncio.sleep(0.1)  # between fork and exec a process has its parent's environment
    before, began = issued(mesh), time.monotonic()
    async with Load(proxy) as load:
        while issued(mesh) - before < certificates:
            await asyncio.sleep(0.2)
    rows = [["renewals", str(issued(mesh) - before), f"{time.monotonic() - began:.0f}", *counted(load.tally)]]
    began = time.monotonic()
    async with Load(proxy) as load:
        await asyncio.to_thread(headrace, "ca", "rotate-root", "--overlap", "5s", "--state", str(mesh.state))
        while True:
            text = await asyncio.to_thread(headrace, "ca", "inspect", "-o", "json", "--state", str(mesh.state))
            if json.loads(text)["rotation"]["phase"] == "steady":
                break
    rows.append(["a change of roots", "1", f"{time.monotonic() - began:.0f}", *counted(load.tally)])
    return rows


def counted(tally: Tally) -> list[str]:
    for line in sorted(set(tally.failed))[:5]:
        print(f"failed: {line}", file=sys.stderr)
    return [str(tally.sent), str(len(tally.failed))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--certificates", type=int, default=200)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    with running_mesh({"mesh.yaml": _DOCUMENTS}, ("--certificate-lifetime", "6s")) as mesh:
        rows = asyncio.run(measure(mesh, options.certificates))
    head = ["what", "how many", "seconds", "requests", "failed"]
    report.publish("Rotations", report.table(head, rows), write=options.write)
    if any(row[-1] != "0" for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
