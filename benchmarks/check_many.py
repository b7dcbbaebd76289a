"""How fast `headrace check` judges many documents (goal: 5,000 in less than 5 s).

    python benchmarks/check_many.py [--documents N] [--runs N] [--profile] [--write]

1,000 services, each a Service, a DestinationRule with two subsets, a VirtualService (two matches, a weighted split,
retries) and two Workloads, all without a fault, in 50 files. The time is that of the whole command, start included, and
of the same with ten times fewer documents, to see how it grows.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rigs import report

GOAL = 5.0
FILES = 50
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: svc-%(n)d, namespace: ns-%(ns)d, labels: {team: team-%(ns)d}}
spec:
  selector: {app: svc-%(n)d}
  ports:
  - {name: http, port: 80, targetPort: 8000}
  - {name: grpc-admin, port: 9090, targetPort: 9090}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: svc-%(n)d, namespace: ns-%(ns)d}
spec:
  host: svc-%(n)d.ns-%(ns)d.svc.cluster.local
  trafficPolicy:
    connectionPool:
      tcp: {maxConnections: 100, connectTimeout: 1s}
      http: {http1MaxPendingRequests: 64, maxRequestsPerConnection: 1000}
    outlierDetection: {consecutive5xxErrors: 5, interval: 10s, baseEjectionTime: 30s, maxEjectionPercent: 50}
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: svc-%(n)d, namespace: ns-%(ns)d}
spec:
  hosts: [svc-%(n)d.ns-%(ns)d.svc.cluster.local]
  http:
  - name: canary
    match:
    - headers: {x-canary: {exact: "true"}}
      uri: {prefix: /v1/}
    - queryParams: {version: {exact: v2}}
    route:
    - destination: {host: svc-%(n)d, subset: v2, port: {number: 80}}
    timeout: 30s
  - name: split
    route:
    - destination: {host: svc-%(n)d, subset: v1, port: {number: 80}}
      weight: 90
    - destination: {host: svc-%(n)d, subset: v2, port: {number: 80}}
      weight: 10
    timeout: 30s
    retries: {attempts: 2, perTryTimeout: 5s, retryOn: "connect-failure,refused-stream"}
---
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {name: svc-%(n)d, namespace: ns-%(ns)d}
spec:
  replicas: 2
  command: [serve, --port, $(PORT)]
  serviceAccountName: svc-%(n)d
  labels: {app: svc-%(n)d, version: v1}
  ports:
  - {name: http, port: 8000}
  - {name: grpc-admin, port: 9090}
  readinessProbe: {httpGet: {path: /health}}
---
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {name: svc-%(n)d-v2, namespace: ns-%(ns)d}
spec:
  command: [serve, --port, $(PORT)]
  serviceAccountName: svc-%(n)d
  labels: {app: svc-%(n)d, version: v2}
  ports:
  - {name: http, port: 8000}
  - {name: grpc-admin, port: 9090}
"""
KINDS = 5


def write(directory: Path, documents: int) -> None:
    """Files with that many documents."""
    texts: dict[int, list[str]] = {}
    for number in range(documents // KINDS):
        texts.setdefault(number % FILES, []).append(SERVICE % {"n": number, "ns": number % 20})
    for number, parts in texts.items():
        (directory / f"part-{number:02}.yaml").write_text("---\n".join(parts))


def seconds(directory: Path) -> float:
    """One run of the command, which must find nothing."""
    command = [sys.executable, "-m", "headrace", "check", "-o", "json", str(directory)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    taken = time.perf_counter() - start
    if done.returncode != 0 or (found := json.loads(done.stdout)):
        raise SystemExit(f"exit code {done.returncode}: {found[:3] if not done.returncode else done.stdout[:800]}")
    return taken


def profile(directory: Path) -> None:
    """Where the time goes, in this process."""
    from headrace.app.cli import main as headrace

    profiler = cProfile.Profile()
    profiler.enable()
    try:
        headrace(["check", str(directory)])
    except SystemExit:
        pass
    finally:
        profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(35)
    pstats.Stats(profiler).sort_stats("cumulative").print_stats(45)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--documents", type=int, default=5000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="show where the time goes instead")
    parser.add_argument("--write", action="store_true", help="put the section into RESULTS.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hr-check-") as root:
        rows = []
        for documents in (arguments.documents // 10, arguments.documents):
            directory = Path(root) / str(documents)
            directory.mkdir()
            write(directory, documents)
            if arguments.profile:
                continue
            taken = [seconds(directory) for _ in range(arguments.runs)]
            size = sum(file.stat().st_size for file in directory.iterdir()) / 1e6
            rows.append([f"{documents:,}", f"{size:.1f}", report.spread(taken), f"{documents / min(taken):,.0f}"])
        if arguments.profile:
            profile(directory)
            return
    verdict = "met" if statistics.median(taken) < GOAL else "MISSED"
    lines = [__doc__.split("\n\n")[2].replace("\n", " ").strip(), ""]
    lines += report.table(["documents", "MB", "seconds", "documents/s at best"], rows)
    lines += ["", f"{arguments.runs} runs, medians (lowest to highest). Goal, < {GOAL:g} s: {verdict}."]
    report.publish("`headrace check` of many documents", lines, write=arguments.write)


if __name__ == "__main__":
    main()
