"""How fast `headrace check` judges many documents (goal: 5,000 in less than 5 s).

    python benchmarks/check_many.py [--documents N] [--runs N] [--profile] [--write]

1,000 services, each a Service, a DestinationRule with two subsets, a VirtualService (two matches, a weighted split,
retries) and two Workloads, all without a fault, in 50 files. "cluster" is a cluster with Istio instead, 500 services of
ten kinds each: Deployment, Service, VirtualService, DestinationRule, Gateway, ServiceEntry, AuthorizationPolicy,
PeerAuthentication, Sidecar and Telemetry. The time is that of the whole command, start included, and of the same with
ten times fewer documents, to see how it grows.
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
CLUSTER = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: app-%(n)d, namespace: ns-%(ns)d}
spec:
  selector: {matchLabels: {app: app-%(n)d}}
  template:
    metadata: {labels: {app: app-%(n)d, version: v1}}
    spec: {containers: [{name: app, image: app, ports: [{containerPort: 8000, name: http}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: app-%(n)d, namespace: ns-%(ns)d}
spec: {selector: {app: app-%(n)d}, ports: [{name: http, port: 80, targetPort: 8000}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: app-%(n)d, namespace: ns-%(ns)d}
spec:
  hosts: [app-%(n)d.example.com]
  gateways: [app-%(n)d]
  http:
  - match: [{uri: {prefix: /a/}}, {headers: {x-canary: {exact: "true"}}}]
    route: [{destination: {host: app-%(n)d, subset: v1, port: {number: 80}}}]
    timeout: 30s
  - route: [{destination: {host: out-%(n)d.example.org, port: {number: 443}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: app-%(n)d, namespace: ns-%(ns)d}
spec:
  host: app-%(n)d
  trafficPolicy: {loadBalancer: {simple: LEAST_REQUEST}, outlierDetection: {consecutive5xxErrors: 5}}
  subsets: [{name: v1, labels: {version: v1}}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: app-%(n)d, namespace: ns-%(ns)d}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [app-%(n)d.example.com]}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: out-%(n)d, namespace: ns-%(ns)d}
spec: {hosts: [out-%(n)d.example.org], resolution: DNS, ports: [{number: 443, name: tls, protocol: TLS}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: app-%(n)d, namespace: ns-%(ns)d}
spec:
  selector: {matchLabels: {app: app-%(n)d}}
  rules: [{from: [{source: {principals: ["cluster.local/ns/ns-%(ns)d/sa/*"]}}], to: [{operation: {methods: [GET]}}]}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: app-%(n)d, namespace: ns-%(ns)d}
spec: {selector: {matchLabels: {app: app-%(n)d}}, mtls: {mode: STRICT}}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: app-%(n)d, namespace: ns-%(ns)d}
spec: {workloadSelector: {labels: {app: app-%(n)d}}, egress: [{hosts: ["./*", "istio-system/*"]}]}
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: app-%(n)d, namespace: ns-%(ns)d}
spec: {selector: {matchLabels: {app: app-%(n)d}}, accessLogging: [{providers: [{name: envoy}]}]}
"""
SHAPES = {"Headrace's own": (SERVICE, 5), "cluster": (CLUSTER, 10)}
"""A text of documents, and how many it has."""


def write(directory: Path, documents: int, shape: str) -> None:
    """Files with that many documents."""
    text, count = SHAPES[shape]
    texts: dict[int, list[str]] = {}
    for number in range(documents // count):
        texts.setdefault(number % FILES, []).append(text % {"n": number, "ns": number % 20})
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
        slowest = 0.0
        for shape in SHAPES:
            for documents in (arguments.documents // 10, arguments.documents):
                directory = Path(root) / f"{shape}-{documents}"
                directory.mkdir()
                write(directory, documents, shape)
                if arguments.profile:
                    continue
                taken = [seconds(directory) for _ in range(arguments.runs)]
                slowest = max(slowest, statistics.median(taken))
                size = sum(file.stat().st_size for file in directory.iterdir()) / 1e6
                best = f"{documents / min(taken):,.0f}"
                rows.append([shape, f"{documents:,}", f"{size:.1f}", report.spread(taken), best])
            if arguments.profile:
                profile(directory)
        if arguments.profile:
            return
    verdict = "met" if slowest < GOAL else "MISSED"
    lines = [__doc__.split("\n\n")[2].replace("\n", " ").strip(), ""]
    lines += report.table(["shape", "documents", "MB", "seconds", "documents/s at best"], rows)
    lines += ["", f"{arguments.runs} runs, medians (lowest to highest). Goal, < {GOAL:g} s: {verdict}."]
    report.publish("`headrace check` of many documents", lines, write=arguments.write)


if __name__ == "__main__":
    main()
