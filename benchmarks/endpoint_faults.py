"""What clients see when a model server dies in mid-stream, hangs, answers 500 or lies in its metrics.

    python benchmarks/endpoint_faults.py [--seconds S] [--write]

A real mesh: a gateway, mutual TLS, four simulated model servers, an InferencePolicy with timeouts of the first and
between tokens (2 s each) and one re-sending, outlier detection of a DestinationRule (3 errors in a row, away for 5 s).
Streams arrive as a Poisson process at half of what four replicas carry. After a quarter of each run one replica turns
bad, and is well again after another half. Each run has its own row: every outcome that a client saw.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import os
import random
import signal
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import aiohttp
from rigs import report
from rigs.mesh import Mesh, running_mesh

REPLICAS, SLOTS, TOKENS, RATE = 4, 8, 20, 20.0
LOAD = 0.5
_DOCUMENTS = f"""\
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {{name: chat}}
spec:
  replicas: {REPLICAS}
  command: [headrace, model-server, --slots, "{SLOTS}", --decode-rate, "{RATE}"]
  engine: vllm
  labels: {{app: chat}}
  ports: [{{name: http, port: 8000}}]
  readinessProbe: {{httpGet: {{path: /health}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: chat}}
spec:
  selector: {{app: chat}}
  ports: [{{name: http, port: 8000}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: chat}}
spec:
  host: chat
  trafficPolicy:
    outlierDetection: {{consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 5s, maxEjectionPercent: 50}}
---
apiVersion: headrace.dev/v1alpha1
kind: InferencePolicy
metadata: {{name: chat}}
spec:
  targetRefs: [{{kind: Service, name: chat}}]
  timeouts: {{firstToken: 2s, betweenTokens: 2s, total: 60s}}
  retries: {{attempts: 1}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: door}}
spec:
  selector: {{istio: ingressgateway}}
  servers: [{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: ["*"]}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: public}}
spec:
  hosts: ["*"]
  gateways: [door]
  http: [{{route: [{{destination: {{host: chat}}}}]}}]
"""


@dataclass
class Run:
    """What clients saw: outcome → count, and seconds to the first tokens of those that were answered."""

    sent: int = 0
    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    first_tokens: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Victim:
    """The replica that turns bad: process and address of its application."""

    pid: int
    url: str

    async def fault(self, session: aiohttp.ClientSession, **faults: object) -> None:
        """Set its faults (none: it is well)."""
        async with session.put(f"{self.url}/faults", json=faults) as response:
            response.raise_for_status()


Change = Callable[[Victim, aiohttp.ClientSession], Awaitable[None]]


async def _nothing(_: Victim, __: aiohttp.ClientSession) -> None:
    return None


async def _kill(victim: Victim, _: aiohttp.ClientSession) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim.pid, signal.SIGKILL)


def _faults(**faults: object) -> Change:
    async def change(victim: Victim, session: aiohttp.ClientSession) -> None:
        await victim.fault(session, **faults)

    return change


CASES: tuple[tuple[str, Change, Change], ...] = (
    ("none", _nothing, _nothing),
    ("killed in mid-stream (the agent starts it again)", _kill, _nothing),
    ("hangs before it answers", _faults(hang=True), _faults()),
    ("answers 500", _faults(status=500), _faults()),
    ("answers 503", _faults(status=503), _faults()),
    ("breaks off after 5 tokens", _faults(cut_after=5), _faults()),
    ("its metrics say that it is idle", _faults(claimed_waiting=0), _faults()),
    ("its metrics say that 1,000 wait", _faults(claimed_waiting=1000), _faults()),
)


def main() -> None:
    arguments = _arguments()
    rows = []
    with running_mesh({"mesh.yaml": _DOCUMENTS}) as mesh:
        for name, begin, end in CASES:
            run = asyncio.run(_run(mesh, begin, end, arguments))
            rows.append(_row(name, run))
            print(" | ".join(rows[-1]), flush=True)
    publish(rows, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20.0, help="of each run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="put the section into RESULTS.md")
    return parser.parse_args()


def _victim(mesh: Mesh) -> Victim:
    replica = next(name for name in sorted(mesh.proxies()) if "/chat" in name or name.startswith("chat"))
    pid = int(mesh.proxies()[replica]["app_pid"])
    return Victim(pid, f"http://127.0.0.1:{mesh.environment(replica)['PORT']}")


async def _run(mesh: Mesh, begin: Change, end: Change, arguments: argparse.Namespace) -> Run:
    run, source = Run(), random.Random(arguments.seed)
    address, victim = mesh.gateway(), _victim(mesh)
    rate = LOAD * REPLICAS * SLOTS * RATE / TOKENS
    timeout = aiohttp.ClientTimeout(total=90)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session, asyncio.TaskGroup() as tasks:
        began = due = time.monotonic()
        turns = [(0.25, begin), (0.75, end)]
        while due < began + arguments.seconds:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if turns and due > began + turns[0][0] * arguments.seconds:
                await turns.pop(0)[1](victim, session)
            run.sent += 1
            tasks.create_task(_request(session, address, run, run.sent))
            due += source.expovariate(rate)
        for _, change in turns:
            await change(victim, session)
    return run


async def _request(session: aiohttp.ClientSession, address: str, run: Run, number: int) -> None:
    body = {
        "model": "m",
        "stream": True,
        "max_tokens": TOKENS,
        "messages": [{"role": "user", "content": f"request {number}: what is a headrace?"}],
    }
    began, tokens, ended = time.monotonic(), 0, False
    try:
        async with session.post(f"{address}/v1/chat/completions", json=body) as response:
            if response.status != 200:
                run.outcomes[f"status {response.status}"] += 1
                return
            async for line in response.content:
                ended = ended or line.startswith(b"data: [DONE]")
                if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                    if not tokens:
                        run.first_tokens.append(time.monotonic() - began)
                    tokens += 1
        run.outcomes["whole" if ended and tokens == TOKENS else "cut short"] += 1
    except aiohttp.ClientError:
        run.outcomes["cut short" if tokens else "connection lost"] += 1
    except TimeoutError:
        run.outcomes["no end within 90 s"] += 1


def _row(name: str, run: Run) -> list[str]:
    rest = ", ".join(f"{count} {what}" for what, count in sorted(run.outcomes.items()) if what != "whole") or "-"
    firsts = run.first_tokens
    times = f"{statistics.median(firsts) * 1000:.0f} / {report.percentile(firsts, 0.99) * 1000:.0f} ms"
    return [name, str(run.sent), str(run.outcomes["whole"]), rest, times]


def publish(rows: Sequence[Sequence[str]], arguments: argparse.Namespace) -> None:
    """The section, one row a fault."""
    explanation = (__doc__ or "").split("\n\n")[2].replace("\n", " ")
    head = ("one of four replicas ...", "sent", "answered whole", "others", "first token p50 / p99")
    report.publish("Sick model servers", [explanation, "", *report.table(head, rows)], write=arguments.write)


if __name__ == "__main__":
    main()
