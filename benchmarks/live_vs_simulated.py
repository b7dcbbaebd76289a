"""Does the simulator tell the truth? The same requests through a real gateway, and through the simulator.

    python benchmarks/live_vs_simulated.py [--requests N] [--scale S] [--policies a,b] [--write]

Conversations (a shared system prompt, turns that repeat what was said) are sent to a real mesh: a gateway with the
native module, mutual TLS, sidecars, and `headrace model-server --timing engine` as replicas, whose engines are slowed
down by `--scale` so that processes on two cores can keep up. The client measures the time to the first token over the
gateway, divides it by the scale, and the simulator plays the same arrivals without any of these parts. Each policy has
a mesh of its own; runs are one after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import aiohttp
from rigs import report
from rigs.mesh import running_mesh

from headrace.inference.simulate import Objectives, PoolSettings, simulate
from headrace.inference.simulate_arrivals import capacity, sessions, stretched
from headrace.inference.traces import BLOCK_TOKENS, TraceRequest

WORKERS = 4
KV_TOKENS = 100_000
LONGEST_PROMPT = 12_288
"""Tokens: what a made-up conversation grows to, 48 KiB of text."""
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_WORKLOAD = """\
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {{name: chat}}
spec:
  replicas: {workers}
  command: [headrace, model-server, --timing, engine, --time-scale, "{scale}", --kv-tokens, "{kv}"]
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
  picking: {{policy: {policy}}}
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


def main() -> None:
    arguments = _arguments()
    requests = workload(arguments.requests, arguments.load, arguments.seed)
    rows = []
    for policy in arguments.policies.split(","):
        simulated = simulate(requests, policy, PoolSettings(workers=WORKERS, kv_tokens=KV_TOKENS), Objectives())
        print(f"{policy}: {len(requests)} requests, {requests[-1].at * arguments.scale:.0f} s", file=sys.stderr)
        live = run_live(requests, policy, arguments.scale)
        rows.append((policy, live, list(simulated.first_tokens)))
    publish(rows, arguments, requests)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--scale", type=float, default=8.0, help="the engines are so many times slower")
    parser.add_argument("--load", type=float, default=0.6, help="of what the pool could just carry")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--policies", default="predicted-drain,least-request,round-robin")
    parser.add_argument("--write", action="store_true", help="put the section into RESULTS.md")
    return parser.parse_args()


def workload(count: int, load: float, seed: int) -> list[TraceRequest]:
    """Conversations whose prompts are whole blocks, so that engines of both runs find the same in their caches."""

    def lengths(mean: float, deviation: float, least: float, most: float, kind: str = "log_normal") -> object:
        return {"distribution_type": kind, "mean": mean, "standard_deviation": deviation, "min": least, "max": most}

    source = Random(seed)
    distributions = {
        "input_sequence_length": lengths(3000, 2500, 1024, LONGEST_PROMPT),
        "output_sequence_length": lengths(60, 40, 8, 200),
        "number_of_turns": lengths(4, 2, 1, 8, "normal"),
        "time_between_turns": lengths(3, 3, 0.5, 20),
        "system_prompt": lengths(1024, 0, 1024, 1024),
        "input_sequence_length_per_turn": lengths(700, 400, 64, 2048),
    }
    drawn = [
        replace(one, prompt=max(1, min(len(one.blocks), LONGEST_PROMPT // BLOCK_TOKENS)) * BLOCK_TOKENS)
        for one in sessions(distributions, "workload", count, source)
    ]
    drawn = [replace(one, blocks=one.blocks[: one.prompt // BLOCK_TOKENS]) for one in drawn]
    return stretched(drawn, load * capacity(drawn, WORKERS, KV_TOKENS, 256))


def text_of(request: TraceRequest) -> str:
    """Words of three letters and a space: one token each by the module's estimate and by the server's."""
    words: list[str] = []
    for block in request.blocks:
        source = Random(block)
        words += ["".join(source.choices(_LETTERS, k=3)) for _ in range(BLOCK_TOKENS)]
    return " ".join(words) + " "


def run_live(requests: Sequence[TraceRequest], policy: str, scale: float) -> list[float]:
    """Seconds (of the engines' unscaled time) to each request's first token, through a real gateway."""
    documents = _WORKLOAD.format(workers=WORKERS, scale=scale, kv=KV_TOKENS, policy=policy)
    with running_mesh({"mesh.yaml": documents}) as mesh:
        return asyncio.run(_send_all(requests, mesh.gateway(), scale))


async def _send_all(requests: Sequence[TraceRequest], address: str, scale: float) -> list[float]:
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        began = time.monotonic() + 1.0
        answers = []
        async with asyncio.TaskGroup() as tasks:
            for one in requests:
                body = json.dumps({"model": "m", "prompt": text_of(one), "max_tokens": one.answer, "stream": True})
                due = began + one.at * scale
                answers.append(tasks.create_task(_first_token(session, address, body.encode(), due)))
                await asyncio.sleep(max(0.0, due - time.monotonic() - 5.0))
        return [answer.result() / scale for answer in answers]


async def _first_token(session: aiohttp.ClientSession, address: str, body: bytes, due: float) -> float:
    await asyncio.sleep(max(0.0, due - time.monotonic()))
    sent, first = time.monotonic(), None
    headers = {"Content-Type": "application/json"}
    async with session.post(f"{address}/v1/completions", data=body, headers=headers) as response:
        if response.status != 200:
            raise SystemExit(f"status {response.status}: {(await response.text())[:300]}")
        async for line in response.content:
            if first is None and line.startswith(b"data:"):
                first = time.monotonic() - sent
    if first is None:
        raise SystemExit("an answer without tokens")
    return first


def publish(
    rows: Sequence[tuple[str, list[float], list[float]]],
    arguments: argparse.Namespace,
    requests: Sequence[TraceRequest],
) -> None:
    cells = []
    for policy, live, simulated in rows:
        found = [
            (statistics.fmean(live), statistics.fmean(simulated)),
            (statistics.median(live), statistics.median(simulated)),
            (report.percentile(live, 0.99), report.percentile(simulated, 0.99)),
        ]
        cells.append([policy, *(f"{a:.3f} / {b:.3f} ({a / b:.2f})" for a, b in found)])
    mean = statistics.fmean(one.prompt for one in requests)
    lines = [
        f"{len(requests)} requests of conversations (prompts of {mean:.0f} tokens on average), {WORKERS} replicas at "
        f"load {arguments.load:g}, engines {arguments.scale:g} times slowed down; seconds to the first token over the "
        "gateway, live / simulated (ratio).",
        "",
        *report.table(("policy", "mean", "p50", "p99"), cells),
    ]
    report.publish("Live against simulated", lines, write=arguments.write)


if __name__ == "__main__":
    main()
