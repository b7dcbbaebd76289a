"""From `headrace ca revoke` to refusal and to closed connections (goal: less than 2 s), over several revocations.

    python benchmarks/revocation.py [--rounds N] [--write]

A real mesh: a chat service on two Workloads with an identity each, a client and a visitor, four Envoys. Every second
round revokes a server (chat-v2), the others a client (the visitor). Before each, four long streams flow between the
revoked party and the others, four more between others, and requests without end go from or to the revoked party, each
on a new connection (so with a new handshake). Then the command runs. `refused` is when the last request that the
revoked one made (or answered) had begun, `closed` when the kernel has none of the connections between the proxies any
more that were there when the command began, `told` when the client's application saw the last of the streams end (its
own Envoy waits 1 s with that); all in seconds from the start of the command, and from its answer. The streams between
others must all go on. At the end of a round the identity is lifted, and the next begins when it serves (or asks) again.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rigs import report
from rigs.mesh import Mesh, Sidecar, headrace, running_mesh, until

from headrace.identity.ledger import Ledger

GOAL = 2.0
NAMES = {
    "command": "the command's answer",
    "refused": "refused",
    "closed": "closed",
    "told": "told",
    "refused_after": "refused, from the answer",
    "closed_after": "closed, from the answer",
    "refused_by_mesh": "refused, from the entry in the ledger",
    "closed_by_mesh": "closed, from the entry in the ledger",
}
PORT = 8000
_WORKLOAD = """\
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {{name: {name}}}
spec:
  command: {command}
  serviceAccountName: {name}
  labels: {{app: {app}}}
  {ports}
  terminationGracePeriodSeconds: 3
---
"""
_SERVER = '[headrace, model-server, --model, {name}, --slots, "1024", --decode-rate, "50"]'
_SERVICE = """\
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
DOCUMENTS = "".join(
    _WORKLOAD.format(
        name=name, app="chat", ports="ports: [{name: http, port: 8000}]", command=_SERVER.format(name=name)
    )
    for name in ("chat-v1", "chat-v2")
) + "".join(
    _WORKLOAD.format(name=name, app=name, ports="", command="[sleep, infinity]") for name in ("client", "visitor")
)


class Caller:
    """Requests as a workload sends them: through its sidecar."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._address = sidecar.address
        self._headers = {"proxy-authorization": sidecar.credentials, "content-type": "application/json"}

    def post(self, tokens: int, stream: bool) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Send one request; its answer has begun."""
        connection = http.client.HTTPConnection(*self._address, timeout=60)
        body = {"messages": [{"role": "user", "content": "go"}], "max_tokens": tokens, "stream": stream}
        connection.request("POST", "http://chat/v1/chat/completions", json.dumps(body), self._headers)
        return connection, connection.getresponse()


class Stream:
    """A long answer: who gives it, whether it flows, and when it ended."""

    def __init__(self, caller: Caller) -> None:
        self.model, self.pieces, self.ended = "", 0, 0.0
        self._caller = caller
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._connection: http.client.HTTPConnection | None = None
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, AttributeError):
            self._connection, answer = self._caller.post(20_000, stream=True)
            while line := answer.readline():
                if line.startswith(b"data: {") and not self.model:
                    self.model = json.loads(line[6:])["model"]
                self.pieces += 1
        self.ended = time.monotonic()

    def close(self) -> None:
        if self._connection is not None and self._connection.sock is not None:
            with contextlib.suppress(OSError):
                self._connection.sock.shutdown(2)


class Asker:
    """Short requests without end, each with a handshake of its own."""

    def __init__(self, caller: Caller) -> None:
        self.answers: list[tuple[float, str]] = []
        """When each began, and who answered ("" for nobody)."""
        self._caller, self._stop = caller, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            began, model = time.monotonic(), ""
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                connection, answer = self._caller.post(1, stream=False)
                text = answer.read()
                connection.close()
                model = json.loads(text)["model"] if answer.status == 200 else ""
            self.answers.append((began, model))
            time.sleep(0.002)

    def end(self) -> None:
        self._stop.set()
        self._thread.join(70)


class Watch:
    """The connections that a workload's proxy has now to some servers' proxies, as the kernel lists them; `end` waits
    until they are gone, and says since when."""

    def __init__(self, mesh: Mesh, caller: str, servers: Collection[str]) -> None:
        rows = mesh.proxies()
        self._pid = rows[f"default/{caller}-0"]["proxy_pid"]
        self._addresses = {_hex(rows[f"default/{name}-0"]["address"]) for name in servers}
        self._first = self._sockets()
        self._last = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._over = threading.Event()
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            if self._first & self._sockets():
                self._last = time.monotonic()
            time.sleep(0.01)

    def _sockets(self) -> set[str]:
        own = set()
        for entry in Path(f"/proc/{self._pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                own.add(entry.readlink().name)
        found = set()
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            address, _, port = fields[2].partition(":")
            established = fields[3] == "01" and int(port, 16) == PORT
            if established and address in self._addresses and f"socket:[{fields[9]}]" in own:
                found.add(fields[9])
        return found

    def end(self) -> float:
        """When the last connection was seen (monotonic seconds)."""
        until(lambda: time.monotonic() - self._last > 0.3, "the connections end", 30.0)
        self._over.set()
        self._thread.join(10)
        return self._last


def _hex(address: str) -> str:
    """An address as /proc/net/tcp writes it."""
    return bytes(reversed([int(part) for part in address.split(".")])).hex().upper()


@dataclass
class Figures:
    """Seconds, a value a round."""

    command: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    refused_after: list[float] = field(default_factory=list)
    closed: list[float] = field(default_factory=list)
    closed_after: list[float] = field(default_factory=list)
    told: list[float] = field(default_factory=list)
    refused_by_mesh: list[float] = field(default_factory=list)
    closed_by_mesh: list[float] = field(default_factory=list)
    cut: int = 0
    """Streams between others that ended."""


def one_round(mesh: Mesh, callers: dict[str, Caller], server: bool, figures: Figures) -> None:
    """Revoke, look, lift."""
    revoked = "chat-v2" if server else "visitor"
    asker = Asker(callers["client" if server else "visitor"])
    streams: list[Stream] = []
    others: list[Stream] = []
    try:
        deadline = time.monotonic() + 60
        while len(streams) < 4 or len(others) < 4:
            if time.monotonic() > deadline:
                raise SystemExit("no streams")
            made = Stream(callers["client" if server else ("visitor" if len(streams) < 4 else "client")])
            until(lambda made=made: made.pieces > 2 or made.ended, "a stream flows", 30.0)
            concerned = made.model == "chat-v2" if server else len(streams) < 4
            (streams if concerned else others).append(made)
        expected = "chat-v2" if server else "chat-v"
        until(lambda: any(expected in model for _, model in asker.answers[-20:]), "requests are answered", 30.0)
        watch = Watch(mesh, "client" if server else "visitor", {"chat-v2"} if server else {"chat-v1", "chat-v2"})
        began = time.monotonic()
        headrace("ca", "revoke", "--workload", f"default/{revoked}", "--state", str(mesh.state))
        answered = time.monotonic()
        until(lambda: all(item.ended for item in streams), "the streams end", 30.0)
        told = max(item.ended for item in streams)
        closed = watch.end()
        time.sleep(1.0)
        last = max(at for at, model in asker.answers if (model == "chat-v2" if server else model))
        figures.command.append(answered - began)
        figures.refused.append(last - began)
        figures.refused_after.append(max(0.0, last - answered))
        figures.closed.append(closed - began)
        figures.closed_after.append(max(0.0, closed - answered))
        figures.told.append(told - began)
        figures.refused_by_mesh.append(max(0.0, last - recorded(mesh)))
        figures.closed_by_mesh.append(max(0.0, closed - recorded(mesh)))
        figures.cut += sum(bool(item.ended) for item in others)
        headrace("ca", "revoke", "--lift", "--workload", f"default/{revoked}", "--state", str(mesh.state))
        until(lambda: any(expected in model for _, model in asker.answers[-10:]), "it is back", 60.0, 0.05)
    finally:
        asker.end()
        for item in (*streams, *others):
            item.close()


def recorded(mesh: Mesh) -> float:
    """When the control plane recorded the revocation (monotonic seconds): before that the command only started up."""
    ledger = Ledger.read(mesh.places.ca / "ledger.sqlite")
    try:
        return ledger.blocked()[0].since - time.time() + time.monotonic()
    finally:
        ledger.close()


def rows(kind: str, figures: Sequence[Figures]) -> list[list[str]]:
    found = []
    for name in NAMES:
        values = [value for item in figures for value in getattr(item, name)]
        found.append([f"{kind}: {NAMES[name]}", str(len(values)), report.spread(values, 3)])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    figures = {True: Figures(), False: Figures()}
    with running_mesh({"mesh.yaml": DOCUMENTS + _SERVICE}) as mesh:
        callers = {name: Caller(mesh.sidecar(f"default/{name}-0")) for name in ("client", "visitor")}
        for number in range(options.rounds):
            one_round(mesh, callers, number % 2 == 1, figures[number % 2 == 1])
    both = list(figures.values())
    worst = max(value for item in both for value in (*item.refused, *item.closed))
    cut = sum(item.cut for item in both)
    lines = report.table(
        ["seconds from the start of the command", "revocations", "median (lowest to highest)"],
        [*rows("all", both), *rows("a client", [figures[False]]), *rows("a server", [figures[True]])],
    )
    lines += ["", f"Slowest of all {worst:.3f} s (goal: {GOAL:g} s). Streams between others that ended: {cut}."]
    report.publish("Revocation", lines, write=options.write)
    if cut or worst > GOAL:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
