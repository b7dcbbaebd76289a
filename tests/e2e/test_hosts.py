"""One mesh over two hosts, which are two network namespaces with a cable between them: joining, traffic both ways over
mutual TLS, a host that dies, a host cut off from the control plane, and its return."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.e2e.netns_rig import needs_netns
from tests.e2e.running import RunningMesh, until

pytestmark = needs_netns

WORDS = """\
import http.server, os
class Words(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = (os.environ["HEADRACE_REPLICA"] + " " + self.headers.get("x-forwarded-client-cert", "none")).encode()
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Words).serve_forever()
"""
DOCUMENTS = f"""\
apiVersion: v1
kind: Service
metadata: {{name: chat}}
spec:
  selector: {{app: chat}}
  ports: [{{name: http, port: 80, targetPort: 8000}}]
---
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {{name: chat, annotations: {{headrace.dev/host: "local,b"}}}}
spec:
  command: [{sys.executable}, words.py]
  replicas: 2
  labels: {{app: chat}}
  ports: [{{name: http, port: 8000}}]
---
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {{name: client, annotations: {{headrace.dev/host: b}}}}
spec:
  command: [sleep, infinity]
  labels: {{app: client}}
  serviceAccountName: client
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: front}}
spec:
  selector: {{istio: ingressgateway}}
  servers: [{{port: {{number: 8080, name: http, protocol: HTTP}}, hosts: ["*"]}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: chat}}
spec:
  hosts: ["*"]
  gateways: [front]
  http: [{{route: [{{destination: {{host: chat}}}}]}}]
"""
HERE, THERE = "default/chat-0", "default/chat-1"
JOIN = "10.79.0.1:15012"


@dataclass
class Machine:
    """A network namespace that plays a host: its address, and the range of its replicas."""

    name: str
    address: str
    range: str

    def command(self, *words: str) -> list[str]:
        return ["ip", "netns", "exec", self.name, *words]

    def run(self, *words: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*words), capture_output=True, text=True, timeout=timeout, check=False)

    def ask(self, url: str, proxy: str = "") -> str:
        """The answer's first word where it is a success, else what went wrong."""
        words = ["curl", "-sS", "-m", "10", "-w", "\n%{http_code}", *(["--proxy", proxy] if proxy else []), url]
        done = self.run(*words, timeout=20.0)
        body, _, code = done.stdout.rpartition("\n")
        return body if code == "200" else f"failed: {code} {body[:200]} {done.stderr[:200]}"

    def pids(self) -> list[int]:
        done = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False)
        return [int(word) for word in done.stdout.split()]

    def kill_all(self) -> None:
        """SIGKILL to everything that runs on this host."""

        def none_left() -> bool:
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not self.pids()

        until(none_left, f"nothing runs on {self.name}")


@dataclass
class TwoHosts:
    mesh: RunningMesh
    here: Machine
    there: Machine
    token: Path
    agents: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start_agent(self) -> None:
        """The other host's agent; every time with the same command."""
        words = [sys.executable, "-m", "headrace", "agent", "--join", JOIN, "--token-file", str(self.token)]
        words += ["--addresses", self.there.range, "--state", str(self.mesh.root / "other")]
        with (self.mesh.root / "other.log").open("ab") as log:
            self.agents.append(subprocess.Popen(self.there.command(*words), stdout=log, stderr=log))

    def log(self) -> str:
        return (self.mesh.root / "other.log").read_text()[-4000:]

    def through_gateway(self) -> str:
        return self.here.ask("http://127.0.0.1:8080/")

    def spread(self, ask: Callable[[], str]) -> bool:
        """Whether both replicas answer, and nothing fails."""
        return {answer.split()[0] for answer in (ask() for _ in range(12))} == {HERE, THERE}


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


@contextlib.contextmanager
def cabled() -> Iterator[tuple[Machine, Machine]]:
    """Two hosts with a cable, and routes to each other's replicas."""
    tag = f"hrh{os.getpid() % 100_000}"
    one = Machine(f"{tag}a", "10.79.0.1", "10.80.1.0/24")
    two = Machine(f"{tag}b", "10.79.0.2", "10.80.2.0/24")
    try:
        for machine in (one, two):
            ip("netns", "add", machine.name)
        ip("link", "add", "cable", "netns", one.name, "type", "veth", "peer", "name", "cable", "netns", two.name)
        for machine, other in ((one, two), (two, one)):
            ip("-n", machine.name, "link", "set", "lo", "up")
            ip("-n", machine.name, "addr", "add", f"{machine.address}/24", "dev", "cable")
            ip("-n", machine.name, "link", "set", "cable", "up")
            ip("-n", machine.name, "route", "add", "local", machine.range, "dev", "lo")
            ip("-n", machine.name, "route", "add", other.range, "via", other.address)
        yield one, two
    finally:
        for machine in (one, two):
            machine.kill_all()
            subprocess.run(["ip", "netns", "del", machine.name], capture_output=True, check=False)


@pytest.fixture(scope="module")
def hosts() -> Iterator[TwoHosts]:
    mesh = RunningMesh.make({"mesh.yaml": DOCUMENTS, "words.py": WORDS})
    with cabled() as (here, there):
        two = TwoHosts(mesh, here, there, mesh.root / "token")
        options = ("--join-listen", JOIN, "--addresses", here.range, "--detach", "--state", str(mesh.state))
        try:
            up = here.run(sys.executable, "-m", "headrace", "up", str(mesh.documents), *options, timeout=120)
            assert up.returncode == 0, up.stderr
            until(lambda: mesh.run("token", "list").code == 0, "the control plane answers", 45.0)
            made = mesh.run("token", "create", "b")
            assert made.code == 0, made.err
            two.token.write_text(made.out)
            two.start_agent()
            until(mesh.ready, f"both hosts are ready\n{mesh.logs()}\n{two.log()}", 60.0)
            yield two
        finally:
            for agent in two.agents:
                agent.terminate()
            codes = [agent.wait(30) for agent in two.agents]
            mesh.down()
            assert codes[-1:] in ([], [0]), f"the other host's agent did not end well: {codes}\n{two.log()}"
        mesh.remove()


def rows_of(two: TwoHosts, host: str) -> list[str]:
    return sorted(name for name, row in two.mesh.proxies().items() if row["host"] == host)


def test_replicas_run_where_the_documents_say_and_requests_reach_all_over_mutual_tls(hosts: TwoHosts) -> None:
    assert rows_of(hosts, "b") == [THERE, "default/client-0"]
    assert hosts.mesh.row(THERE)["address"].startswith("10.80.2.")
    counted = Counter(hosts.through_gateway().split()[0] for _ in range(40))
    assert set(counted) == {HERE, THERE}, counted
    proxy = hosts.mesh.proxy_url("default/client-0")
    answers = [hosts.there.ask("http://chat.default/", proxy) for _ in range(40)]
    assert {answer.split()[0] for answer in answers} == {HERE, THERE}, answers[:5]
    assert all("URI=spiffe://cluster.local/ns/default/sa/client" in answer for answer in answers), answers[:5]


def test_the_other_hosts_replica_takes_no_plain_text(hosts: TwoHosts) -> None:
    address = hosts.mesh.row(THERE)["address"]
    assert hosts.here.ask(f"http://{address}:8000/").startswith("failed: 000")
    assert hosts.here.ask("http://chat.default/", f"http://{address}:15001").startswith("failed: 4")


def test_a_token_is_good_once(hosts: TwoHosts) -> None:
    words = [sys.executable, "-m", "headrace", "agent", "--join", JOIN, "--token-file", str(hosts.token)]
    words += ["--addresses", "10.80.3.0/24", "--state", str(hosts.mesh.root / "third")]
    done = hosts.there.run(*words)
    assert done.returncode == 1 and "was used already" in done.stderr and done.stderr.count("\n") == 1
    assert not re.search(r"Traceback|BEGIN", done.stderr)


def test_a_host_cut_off_from_the_control_plane_goes_on_serving_and_is_merged_again(hosts: TwoHosts) -> None:
    proxy = hosts.mesh.proxy_url("default/client-0")

    def by_client() -> str:
        return hosts.there.ask("http://chat.default/", proxy)

    failures: list[str] = []

    def watched(check: Callable[[], bool]) -> bool:
        failures.extend(answer for answer in (hosts.through_gateway(), by_client()) if answer.startswith("failed"))
        return check()

    rules = "table inet cut { chain out { type filter hook output priority 0; tcp dport 15012-15013 drop; }; }"
    assert hosts.there.run("nft", rules).returncode == 0
    began = time.monotonic()
    until(lambda: watched(lambda: not rows_of(hosts, "b")), "the silent host's endpoints leave", 30.0)
    assert time.monotonic() - began < 15.0
    until(lambda: hosts.spread(by_client), f"the host that is cut off serves its own clients\n{hosts.log()}")
    assert {hosts.through_gateway().split()[0] for _ in range(12)} == {HERE}
    assert hosts.there.run("nft", "delete table inet cut").returncode == 0
    until(lambda: watched(lambda: rows_of(hosts, "b") == [THERE, "default/client-0"]), "it is back", 30.0)
    until(lambda: watched(lambda: hosts.spread(hosts.through_gateway)), "requests reach it again", 30.0)
    assert not failures


def test_a_change_of_roots_takes_both_hosts_along(hosts: TwoHosts) -> None:
    failures: list[str] = []

    def steady() -> bool:
        answer = hosts.through_gateway()
        failures.extend([answer] if answer.startswith("failed") else [])
        return bool(hosts.mesh.api.call("GET", "/v1/authority")["rotation"]["phase"] == "steady")

    before = hosts.mesh.api.call("GET", "/v1/authority")["issuer"]
    assert hosts.mesh.run("ca", "rotate-root", "--overlap", "1s").code == 0
    until(steady, f"the change of roots ends\n{hosts.log()}", 60.0)
    assert hosts.mesh.api.call("GET", "/v1/authority")["issuer"] != before
    assert not failures
    assert hosts.spread(hosts.through_gateway)


def test_a_control_plane_that_dies_costs_no_request_on_either_host(hosts: TwoHosts) -> None:
    proxy = hosts.mesh.proxy_url("default/client-0")
    failures: list[str] = []

    def back() -> bool:
        answers = (hosts.through_gateway(), hosts.there.ask("http://chat.default/", proxy))
        failures.extend(answer for answer in answers if answer.startswith("failed"))
        return hosts.mesh.ready() and rows_of(hosts, "b") == [THERE, "default/client-0"]

    hosts.mesh.kill("control-plane")
    until(back, f"the other host is connected again\n{hosts.log()}", 45.0)
    assert not failures
    assert hosts.spread(hosts.through_gateway)


def test_a_host_that_dies_leaves_and_comes_back_without_a_token(hosts: TwoHosts) -> None:
    hosts.there.kill_all()
    began = time.monotonic()
    until(lambda: not rows_of(hosts, "b"), "the dead host's endpoints leave", 30.0)
    assert time.monotonic() - began < 15.0
    waiting = {item["id"]: item["detail"] for item in hosts.mesh.status()["waiting"]}
    assert waiting[THERE] == "host b is not connected"
    until(lambda: {hosts.through_gateway().split()[0] for _ in range(12)} == {HERE}, "only the living replica is asked")
    hosts.token.unlink()
    hosts.start_agent()
    until(hosts.mesh.ready, f"the host is back\n{hosts.log()}", 60.0)
    until(lambda: hosts.spread(hosts.through_gateway), "requests reach it again", 30.0)
