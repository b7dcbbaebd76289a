"""What transparent capture costs beside loopback capture: requests and the start of replicas, as ratios.

    python benchmarks/capture.py [--rounds N]

Two meshes of the same documents run at once, one captured in each way. In every round a client in each sends requests
one after another over one connection (client sidecar, mutual TLS, server sidecar), and five replicas are added and
taken away again. Rounds alternate. Needs root, `ip` and `nft`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time

from rigs import processes, report
from rigs.mesh import Mesh, running_mesh

REQUESTS = 1500
ADDED = 5
SERVER = """\
import http.server, os
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version, wbufsize = "HTTP/1.1", 65536
    def do_GET(self):
        self.send_response(200); self.send_header("content-length", "2"); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Answer).serve_forever()
"""
CLIENT = """\
import base64, http.client, json, os, sys, time, urllib.parse
proxy = urllib.parse.urlsplit(os.environ.get("HTTP_PROXY", ""))
headers, target = {}, "/"
if proxy.hostname:
    connection, target = http.client.HTTPConnection(proxy.hostname, proxy.port), "http://bench.default/"
    user = f"{proxy.username}:{proxy.password}".encode()
    headers["proxy-authorization"] = "Basic " + base64.b64encode(user).decode()
else:
    connection = http.client.HTTPConnection("bench.default", 80)
times = []
for _ in range(int(sys.argv[1]) + 20):
    began = time.perf_counter()
    connection.request("GET", target, headers=headers)
    answer = connection.getresponse(); answer.read()
    assert answer.status == 200, answer.status
    times.append(time.perf_counter() - began)
print(json.dumps(times[20:]))
"""


def documents(replicas: int) -> dict[str, str]:
    python = json.dumps([sys.executable, "-c", SERVER])
    return {
        "service.yaml": "apiVersion: v1\nkind: Service\nmetadata: {name: bench}\n"
        "spec: {selector: {app: bench}, ports: [{name: http, port: 80, targetPort: 8000}]}\n",
        "server.yaml": "apiVersion: headrace.dev/v1alpha1\nkind: Workload\nmetadata: {name: server}\nspec:\n"
        f"  command: {python}\n  labels: {{app: bench}}\n  ports: [{{name: http, port: 8000}}]\n"
        "  readinessProbe: {tcpSocket: {}, periodSeconds: 1}\n  terminationGracePeriodSeconds: 1\n",
        "extra.yaml": "apiVersion: headrace.dev/v1alpha1\nkind: Workload\nmetadata: {name: extra}\nspec:\n"
        f"  command: [sleep, infinity]\n  replicas: {replicas}\n  terminationGracePeriodSeconds: 1\n",
        "client.yaml": "apiVersion: headrace.dev/v1alpha1\nkind: Workload\nmetadata: {name: client}\nspec:\n"
        "  command: [sleep, infinity]\n  terminationGracePeriodSeconds: 1\n",
    }


def measure_requests(mesh: Mesh) -> tuple[float, float]:
    """Seconds of the median request of the mesh's client, and processor seconds of both proxies for each request."""
    rows = mesh.proxies()
    row = rows["default/client-0"]
    proxies = [rows["default/client-0"]["proxy_pid"], rows["default/server-0"]["proxy_pid"]]
    enter: list[str] = []
    if not row["address"].startswith("127."):
        enter = ["nsenter", f"--target={row['app_pid']}", "--net", "--mount"]
    environment = mesh.environment("default/client-0")
    command = [*enter, sys.executable, "-I", "-c", CLIENT, str(REQUESTS)]
    before = processes.cpu_seconds(proxies)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=True)
    return statistics.median(json.loads(done.stdout)), (processes.cpu_seconds(proxies) - before) / REQUESTS


def seconds_until(mesh: Mesh, replicas: int) -> float:
    """Seconds from a change of the document until that many extra replicas are ready, or are gone."""
    began = time.monotonic()
    (mesh.documents / "extra.yaml").write_text(documents(replicas)["extra.yaml"])
    while True:
        states = [row["state"] for name, row in mesh.proxies().items() if name.startswith("default/extra-")]
        if len(states) == replicas and all(state == "ready" for state in states):
            return time.monotonic() - began
        assert time.monotonic() - began < 60, states
        time.sleep(0.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    requests: dict[str, list[float]] = {"loopback": [], "netns": []}
    processor: dict[str, list[float]] = {"loopback": [], "netns": []}
    starts: dict[str, list[float]] = {"loopback": [], "netns": []}
    with contextlib.ExitStack() as stack:
        meshes = {kind: stack.enter_context(running_mesh(documents(0), ("--capture", kind))) for kind in requests}
        for number in range(rounds):
            for kind in sorted(meshes, reverse=bool(number % 2)):
                seconds, spent = measure_requests(meshes[kind])
                requests[kind].append(seconds)
                processor[kind].append(spent)
                starts[kind].append(seconds_until(meshes[kind], ADDED))
                seconds_until(meshes[kind], 0)
    print(f"{rounds} rounds, load average {os.getloadavg()[0]:.1f}\n")
    print("| | loopback | netns | netns / loopback (median of rounds; range) |\n|---|---|---|---|")
    for title, found, factor, unit in (
        ("median request, one connection", requests, 1e6, "us"),
        ("processor time of both proxies a request", processor, 1e6, "us"),
        (f"{ADDED} replicas more, until all are ready", starts, 1e3, "ms"),
    ):
        ratios = [two / one for one, two in zip(found["loopback"], found["netns"], strict=True)]
        cells = [f"{statistics.median(found[kind]) * factor:.0f} {unit}" for kind in ("loopback", "netns")]
        print(f"| {title} | {' | '.join(cells)} | {report.spread(ratios)} |")


if __name__ == "__main__":
    main()
