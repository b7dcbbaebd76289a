"""A long run at 70 % load while endpoints come and go and policies change: is anything lost, does anything grow?

    python benchmarks/soak.py [--minutes M] [--write]

A real mesh: a gateway with the native module and admission (places per endpoint, a queue), mutual TLS, sidecars and
simulated model servers that stream. Requests arrive as a Poisson process at 70 % of what the fewest replicas carry.
Every `--churn` seconds the Workload's replicas go to another number of 4, 5 and 6 (so endpoints drain, go and come),
and the weights and the timeouts of the route change. Every request must be answered with all its tokens. Memory,
descriptors and threads of every process that lives through the whole run are sampled; the first and the last quarter
are compared.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import os
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from rigs import report
from rigs.mesh import Mesh, running_mesh

FEWEST, SLOTS, TOKENS, DECODE_RATE = 4, 4, 20, 20.0
LOAD = 0.7
_PAGE = os.sysconf("SC_PAGE_SIZE")
_DOCUMENTS = """\
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {{name: chat}}
spec:
  replicas: {replicas}
  command: [headrace, model-server, --slots, "{slots}", --decode-rate, "{rate}"]
  engine: vllm
  labels: {{app: chat, version: v1}}
  ports: [{{name: http, port: 8000}}]
  readinessProbe: {{httpGet: {{path: /health}}}}
---
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {{name: chat-next}}
spec:
  command: [headrace, model-server, --slots, "{slots}", --decode-rate, "{rate}"]
  engine: vllm
  labels: {{app: chat, version: v2}}
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
  subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]
---
apiVersion: headrace.dev/v1alpha1
kind: InferencePolicy
metadata: {{name: chat}}
spec:
  targetRefs: [{{kind: Service, name: chat}}]
  admission: {{concurrencyPerEndpoint: {slots}, queue: {{depth: 200, time: 30s}}}}
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
  http:
  - timeout: {timeout}s
    route:
    - {{destination: {{host: chat, subset: v1}}, weight: {weight}}}
    - {{destination: {{host: chat, subset: v2}}, weight: {rest}}}
"""


@dataclass
class Run:
    """What is counted while it goes on."""

    sent: int = 0
    changes: int = 0
    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    first_tokens: list[float] = field(default_factory=list)
    samples: dict[str, list[tuple[float, int, int]]] = field(default_factory=dict)


def main() -> None:
    arguments = _arguments()
    with running_mesh({"mesh.yaml": documents(FEWEST, 90, 60)}) as mesh:
        run = asyncio.run(_soak(mesh, mesh.gateway(), arguments))
    publish(run, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--churn", type=float, default=15.0, help="seconds between two changes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="put the section into RESULTS.md")
    return parser.parse_args()


def documents(replicas: int, weight: int, timeout: int) -> str:
    """The mesh with so many replicas, weight (of v1) and timeout of the route."""
    return _DOCUMENTS.format(
        replicas=replicas, slots=SLOTS, rate=DECODE_RATE, weight=weight, rest=100 - weight, timeout=timeout
    )


async def _soak(mesh: Mesh, address: str, arguments: argparse.Namespace) -> Run:
    run, source = Run(), random.Random(arguments.seed)
    rate = LOAD * FEWEST * SLOTS * DECODE_RATE / TOKENS
    ends = time.monotonic() + 60.0 * arguments.minutes
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session, asyncio.TaskGroup() as tasks:
        beside = [
            tasks.create_task(_churn(mesh, run, arguments.churn, source.getrandbits(32))),
            tasks.create_task(_watch(mesh, run)),
        ]
        due = time.monotonic()
        requests = set()
        while due < ends:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            run.sent += 1
            request = tasks.create_task(_request(session, address, run))
            requests.add(request)
            request.add_done_callback(requests.discard)
            due += source.expovariate(rate)
        if requests:
            await asyncio.wait(requests)
        for task in beside:
            task.cancel()
    return run


async def _request(session: aiohttp.ClientSession, address: str, run: Run) -> None:
    """One streamed answer; its outcome is `ok` when all tokens came."""
    body = {
        "model": "m",
        "stream": True,
        "max_tokens": TOKENS,
        "messages": [{"role": "user", "content": f"request {run.sent}: what is a headrace?"}],
    }
    began, tokens, ended = time.monotonic(), 0, False
    try:
        async with session.post(f"{address}/v1/chat/completions", json=body) as response:
            if response.status != 200:
                run.outcomes[f"status {response.status} {response.headers.get('x-headrace-reason', '')}".strip()] += 1
                return
            async for line in response.content:
                ended = ended or line.startswith(b"data: [DONE]")
                if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                    if not tokens:
                        run.first_tokens.append(time.monotonic() - began)
                    tokens += 1
        run.outcomes["ok" if ended and tokens == TOKENS else f"cut short after {tokens} tokens"] += 1
    except (aiohttp.ClientError, TimeoutError) as error:
        run.outcomes[type(error).__name__] += 1


async def _churn(mesh: Mesh, run: Run, seconds: float, seed: int) -> None:
    source = random.Random(seed)
    replicas = FEWEST
    while True:
        await asyncio.sleep(seconds)
        replicas = source.choice([count for count in (4, 5, 6) if count != replicas])
        text = documents(replicas, source.randint(80, 95), source.randint(60, 90))
        whole = mesh.documents / "mesh.yaml"
        new = mesh.root / "next.yaml"
        new.write_text(text)
        new.rename(whole)
        run.changes += 1


async def _watch(mesh: Mesh, run: Run) -> None:
    while True:
        for name, pid in _processes(mesh).items():
            found = _usage(pid)
            if found is not None:
                run.samples.setdefault(name, []).append(found)
        await asyncio.sleep(5.0)


def _processes(mesh: Mesh) -> Mapping[str, int]:
    """Name → pid of agent, control plane and all Envoys: everything of the mesh's own whose command says the state."""
    found: dict[str, int] = {}
    state = str(mesh.state)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = entry.joinpath("cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if not any(state in word for word in command):
            continue
        kind = Path(command[0]).name
        if kind.startswith("envoy"):
            kind = next((Path(word).stem for word in command if word.endswith((".json", ".yaml"))), "envoy")
            found[f"envoy {kind}"] = int(entry.name)
        elif "headrace" in command:
            found[command[command.index("headrace") + 1]] = int(entry.name)
    return found


def _usage(pid: int) -> tuple[float, int, int] | None:
    """Resident MiB, open descriptors, threads; None where the process is gone."""
    try:
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / (1 << 20)
        return resident, len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return None


def publish(run: Run, arguments: argparse.Namespace) -> None:
    """The section: outcomes, and each process's use in the first and the last quarter."""
    most = max(len(samples) for samples in run.samples.values())
    rows = []
    for name, samples in sorted(run.samples.items()):
        if len(samples) < 0.95 * most:
            continue
        quarter = max(1, len(samples) // 4)
        cells = [name]
        for at, digits in ((0, 1), (1, 0), (2, 0)):
            before = statistics.median(sample[at] for sample in samples[:quarter])
            after = statistics.median(sample[at] for sample in samples[-quarter:])
            peak = max(sample[at] for sample in samples)
            cells.append(f"{before:.{digits}f} → {after:.{digits}f} (most {peak:.{digits}f})")
        rows.append(cells)
    failed = run.sent - run.outcomes["ok"]
    first = run.first_tokens
    lines = [
        f"{arguments.minutes:g} minutes, {run.sent} requests of {TOKENS} tokens, {run.changes} changes of replicas, "
        f"weights and timeouts: **{failed} failed** ({', '.join(f'{n} {what}' for what, n in run.outcomes.items())}). "
        f"First token p50 {_ms(first, 0.5)}, p99 {_ms(first, 0.99)}.",
        "",
        "Medians of the first and the last quarter, of processes that lived through the whole run:",
        "",
        *report.table(("process", "resident MiB", "descriptors", "threads"), rows),
    ]
    report.publish(f"Soak of {arguments.minutes:g} minutes", lines, write=arguments.write)


def _ms(seconds: Sequence[float], share: float) -> str:
    return f"{report.percentile(seconds, share) * 1000:.0f} ms"


if __name__ == "__main__":
    main()
