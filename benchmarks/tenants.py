"""Whether a tenant that asks for ten times its share slows the others: their waiting in the mesh, with it and without.

    python benchmarks/tenants.py [--seconds S] [--write]

A real mesh: a gateway, mutual TLS, four simulated model servers with two places each, an InferencePolicy with two
requests an endpoint, a queue of 200 for 20 s, and a fair share for each tenant by a header. Requests take 0.1 to 0.3 s
(0.2 s on average), so the pool serves 40 a second, 10 for each of four tenants. Each asks for 60 % of that as a Poisson
process; in the second run the first asks for ten times its share, 100 a second. Waiting times are from the gateway's
access log.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import itertools
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from rigs import report
from rigs.mesh import Mesh, running_mesh, until

REPLICAS, PLACES, RATE = 4, 2, 100.0
TOKENS = (10, 30)
SERVICE = sum(TOKENS) / 2 / RATE
TENANTS = ("greedy", "red", "green", "blue")
SHARE = REPLICAS * PLACES / SERVICE / len(TENANTS)
BEHAVED, GREEDY = 0.6, 10.0
_DOCUMENTS = f"""\
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {{name: chat}}
spec:
  replicas: {REPLICAS}
  command: [headrace, model-server, --slots, "{PLACES}", --decode-rate, "{RATE}"]
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
apiVersion: headrace.dev/v1alpha1
kind: InferencePolicy
metadata: {{name: chat}}
spec:
  targetRefs: [{{kind: Service, name: chat}}]
  admission:
    concurrencyPerEndpoint: {PLACES}
    queue: {{depth: 200, time: 20s}}
    fairness: {{key: header, name: x-tenant, tokenCost: 0}}
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
    """What came of a run, by tenant: milliseconds of waiting of those that were served, and refusals."""

    waits: dict[str, list[float]] = field(default_factory=lambda: collections.defaultdict(list))
    refused: collections.Counter[str] = field(default_factory=collections.Counter)

    def others(self) -> list[float]:
        """Waiting times of all tenants but the first."""
        return [wait for tenant in TENANTS[1:] for wait in self.waits[tenant]]


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="hr-tenants-") as directory:
        settings = Path(directory) / "mesh-config.yaml"
        settings.write_text("accessLogFile: /dev/stdout\naccessLogEncoding: JSON\n")
        with running_mesh({"mesh.yaml": _DOCUMENTS}, ("--mesh-config", str(settings))) as mesh:
            runs = [_run(mesh, factor, arguments) for factor in (BEHAVED, GREEDY)]
    publish(runs, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=30.0, help="of each run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="put the section into RESULTS.md")
    return parser.parse_args()


def _run(mesh: Mesh, factor: float, arguments: argparse.Namespace) -> Run:
    before = sum(1 for _ in _lines(mesh))
    sent = asyncio.run(_load(mesh, factor, arguments))
    until(lambda: sum(1 for _ in _lines(mesh)) >= before + sent, "the access log tells of every request", 30.0, 0.5)
    run = Run()
    for line in itertools.islice(_lines(mesh), before, None):
        if line["outcome"] == "ok":
            run.waits[line["model"]].append(float(line["queue_ms"]))
        else:
            run.refused[line["model"]] += 1
    return run


def _lines(mesh: Mesh) -> Iterator[dict[str, str]]:
    """The gateway's lines on requests."""
    gateway = next(name for name, row in mesh.proxies().items() if row["gateway_ports"])
    with mesh.places.proxy_log(gateway).open() as file:
        yield from (json.loads(line) for line in file if line.startswith("{") and '"queue_ms"' in line)


async def _load(mesh: Mesh, factor: float, arguments: argparse.Namespace) -> int:
    address = f"{mesh.gateway()}/v1/chat/completions"
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        rates = [SHARE * (factor if tenant == TENANTS[0] else BEHAVED) for tenant in TENANTS]
        streams = [
            _ask_on(session, address, tenant, rate, random.Random(f"{arguments.seed} {tenant}"), arguments.seconds)
            for tenant, rate in zip(TENANTS, rates, strict=True)
        ]
        return sum(await asyncio.gather(*streams))


async def _ask_on(
    session: aiohttp.ClientSession, address: str, tenant: str, rate: float, source: random.Random, seconds: float
) -> int:
    sent, begun = 0, time.monotonic()
    due = begun + source.expovariate(rate)
    async with asyncio.TaskGroup() as tasks:
        while due < begun + seconds:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.create_task(_ask(session, address, tenant, source.randint(*TOKENS)))
            sent += 1
            due += source.expovariate(rate)
    return sent


async def _ask(session: aiohttp.ClientSession, address: str, tenant: str, tokens: int) -> None:
    body = {"model": tenant, "max_tokens": tokens, "messages": [{"role": "user", "content": "what is a headrace?"}]}
    async with session.post(address, json=body, headers={"x-tenant": tenant}) as response:
        await response.read()


def publish(runs: Sequence[Run], arguments: argparse.Namespace) -> None:
    """The section, a row for each run."""
    explanation = (__doc__ or "").split("\n\n")[2].replace("\n", " ")
    head = (
        "first tenant asks for",
        "others served",
        "refused",
        "wait p50",
        "p99",
        "first served",
        "refused",
        "wait p99",
    )
    rows = []
    for name, run in zip((f"{BEHAVED:.0%} of its share", f"{GREEDY:.0f} times its share"), runs, strict=True):
        others, first = run.others(), run.waits[TENANTS[0]]
        refused = sum(run.refused[tenant] for tenant in TENANTS[1:])
        rows.append(
            [
                name,
                str(len(others)),
                str(refused),
                f"{statistics.median(others):.0f} ms",
                f"{report.percentile(others, 0.99):.0f} ms",
                str(len(first)),
                str(run.refused[TENANTS[0]]),
                f"{report.percentile(first, 0.99):.0f} ms",
            ]
        )
    slower = report.percentile(runs[1].others(), 0.99) - report.percentile(runs[0].others(), 0.99)
    verdict = f"The others' p99 changed by {slower:+.0f} ms; a request takes {SERVICE * 1000:.0f} ms."
    report.publish(
        "One tenant at ten times its share",
        [explanation, "", *report.table(head, rows), "", verdict],
        write=arguments.write,
    )


if __name__ == "__main__":
    main()
