"""What two sidecars with mutual TLS cost: requests a second and added latency, as ratios.

    python benchmarks/mesh_overhead.py [--rounds N] [--seconds S] [--write]

Four ways to the same constant server take turns in every round: straight, through a hand-written pair of bare Envoys
(rigs/envoys.py), through a Headrace client sidecar and server sidecar, and through the same two with
`h2UpgradePolicy: UPGRADE` in a DestinationRule (HTTP/2 between them; Istio's default is HTTP/1.1, as in the bare
pair). Every request is a POST of about 1 KiB like a small chat completion, every answer about 300 bytes. One
connection gives the latency, 16 connections the throughput. The proxies share one core; load and server share the
other.

Needs wrk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from rigs import envoys, processes, report, wrk
from rigs.mesh import Mesh, running_mesh

from headrace.floor.files import write_private

CONNECTIONS = (1, 16)
SERVER, CLIENT = "default/server-0", "default/client-0"
BODY = json.dumps(
    {
        "model": "constant",
        "messages": [
            {"role": "system", "content": "You answer briefly. " * 20},
            {"role": "user", "content": "What does a headrace do? " * 18},
        ],
        "max_tokens": 64,
    }
)
DOCUMENTS = """\
apiVersion: v1
kind: Service
metadata: {name: bench}
spec:
  selector: {app: bench}
  ports: [{name: http, port: 80, targetPort: 8000}]
---
apiVersion: v1
kind: Service
metadata: {name: bench-h2}
spec:
  selector: {app: bench}
  ports: [{name: http, port: 80, targetPort: 8000}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: bench-h2}
spec:
  host: bench-h2
  trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: UPGRADE}}}
---
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {name: server}
spec:
  command: [$(HEADRACE_PYTHON), %(server)s, %(directory)s]
  serviceAccountName: server
  labels: {app: bench}
  ports: [{name: http, port: 8000}]
---
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {name: client}
spec:
  command: [sleep, infinity]
  serviceAccountName: client
  labels: {app: client}
"""
SCRIPT = """\
wrk.method = "POST"
wrk.path = "%(path)s"
wrk.body = [==[%(body)s]==]
wrk.headers["Host"] = "%(host)s"
wrk.headers["Content-Type"] = "application/json"
%(more)s
"""


def main() -> None:
    arguments = _arguments()
    program = wrk.program()
    with wrk.on_load_core(), ways() as found:
        samples: dict[tuple[str, int], list[wrk.Sample]] = {}
        for way in found:
            wrk.measure(program, way, 16, 1.0)  # warm
        for number in range(arguments.rounds):
            first = number % len(found)
            for way in found[first:] + found[:first]:
                for connections in CONNECTIONS:
                    sample = wrk.measure(program, way, connections, arguments.seconds)
                    samples.setdefault((way.name, connections), []).append(sample)
    publish(samples, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each run of wrk")
    parser.add_argument("--write", action="store_true", help="put the section into RESULTS.md")
    return parser.parse_args()


@contextlib.contextmanager
def ways() -> Iterator[list[wrk.Way]]:
    """The four ways, in the order straight, bare pair, mesh, mesh with HTTP/2."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hr-pair-")))
        documents = DOCUMENTS % {"server": Path(envoys.__file__).resolve(), "directory": directory}
        mesh = stack.enter_context(running_mesh({"bench.yaml": documents}))
        rows = mesh.proxies()
        backend = ("127.0.0.1", int(rows[SERVER]["app_ports"]["8000"]))
        processes.pin(rows[SERVER]["app_pid"], wrk.LOAD_CORE)
        plain = lua(directory / "plain.lua", "bench", "")
        yield [
            wrk.Way("no proxy", backend, plain, ()),
            bare_pair(stack, directory, backend, plain),
            sidecars("Headrace", "bench", mesh, directory),
            sidecars("Headrace, HTTP/2", "bench-h2", mesh, directory),
        ]


def bare_pair(stack: contextlib.ExitStack, directory: Path, backend: tuple[str, int], script: Path) -> wrk.Way:
    """Start the two hand-written Envoys; their certificates are in the directory from then on."""
    envoys.write_certificates(directory)
    client, server = ("127.0.0.1", wrk.free_port()), ("127.0.0.1", wrk.free_port())
    pids = []
    for name, resources in (
        ("bare-server", envoys.server_side(server, backend, directory)),
        ("bare-client", envoys.client_side(client, server, directory)),
    ):
        bootstrap, log = directory / f"{name}.json", directory / f"{name}.log"
        admin = envoys.write_bootstrap(bootstrap, resources)
        process = stack.enter_context(processes.running(envoys.command(bootstrap), log))
        processes.wait_for(admin, log)
        processes.pin(process.pid, wrk.PROXY_CORE)
        pids.append(process.pid)
    return wrk.Way("bare Envoy pair", client, script, tuple(pids))


def sidecars(name: str, host: str, mesh: Mesh, directory: Path) -> wrk.Way:
    """Through the mesh, with the credentials of the client workload."""
    rows = mesh.proxies()
    sidecar = mesh.sidecar(CLIENT)
    more = f'wrk.headers["Proxy-Authorization"] = "{sidecar.credentials}"'
    script = lua(directory / f"{host}.lua", host, f"http://{host}", more)
    pids = (int(rows[CLIENT]["proxy_pid"]), int(rows[SERVER]["proxy_pid"]))
    for pid in pids:
        processes.pin(pid, wrk.PROXY_CORE)
    return wrk.Way(name, sidecar.address, script, pids)


def lua(file: Path, host: str, prefix: str, more: str = "") -> Path:
    """Write wrk's script: requests for the host, `prefix` before their path, `more` lines of Lua."""
    values = {"path": f"{prefix}/v1/chat/completions", "host": host, "body": BODY, "more": more}
    write_private(file, (SCRIPT % values + wrk.DONE).encode())
    return file


def publish(samples: dict[tuple[str, int], list[wrk.Sample]], arguments: argparse.Namespace) -> None:
    """Medians and spreads, and the ratios of rounds (each Headrace run against the bare run of its own round)."""
    names = list(dict.fromkeys(name for name, _ in samples))
    rows = []
    for name in names:
        one, many = samples[name, 1], samples[name, 16]
        rows.append(
            [
                name,
                report.spread([item.rate for item in many], 0),
                report.spread([item.p50 for item in one], 0),
                report.spread([item.p99 for item in one], 0),
                report.spread([item.cpu for item in many], 0) if name != names[0] else "-",
            ]
        )
    head = ["", "requests/s, 16 connections", "p50 µs, 1 connection", "p99 µs, 1 connection", "proxies' CPU µs/request"]
    lines = [__doc__.split("\n\n")[2].replace("\n", " "), "", *report.table(head, rows), "", *_ratios(samples, names)]
    lines += ["", f"{arguments.rounds} rounds, medians (lowest to highest); one worker an Envoy."]
    report.publish("Cost of the two sidecars", lines, write=arguments.write)


def _ratios(samples: dict[tuple[str, int], list[wrk.Sample]], names: Sequence[str]) -> list[str]:
    none, bare, mesh, http2 = names

    def each(one: str, other: str, connections: int, field: str) -> list[float]:
        pairs = zip(samples[one, connections], samples[other, connections], strict=True)
        return [float(getattr(first, field) / getattr(second, field)) for first, second in pairs]

    def added(one: str, other: str, field: str) -> float:
        return statistics.median(
            getattr(first, field) - getattr(second, field)
            for first, second in zip(samples[one, 1], samples[other, 1], strict=True)
        )

    return [
        f"- throughput against the bare pair: {report.spread(each(mesh, bare, 16, 'rate'))}, "
        f"against no proxy {report.spread(each(mesh, none, 16, 'rate'))} (bare pair: "
        f"{report.spread(each(bare, none, 16, 'rate'))})",
        f"- processor time a request against the bare pair: {report.spread(each(mesh, bare, 16, 'cpu'))}",
        f"- the same with HTTP/2 between the sidecars: throughput {report.spread(each(http2, bare, 16, 'rate'))}, "
        f"processor time {report.spread(each(http2, bare, 16, 'cpu'))}",
        f"- added latency at one connection: p50 {added(mesh, none, 'p50'):.0f} µs, p99 {added(mesh, none, 'p99'):.0f} "
        f"µs (bare pair: {added(bare, none, 'p50'):.0f} µs and {added(bare, none, 'p99'):.0f} µs)",
    ]


if __name__ == "__main__":
    sys.exit(main())
