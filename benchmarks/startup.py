"""How long `headrace up --wait --detach` of examples/canary takes (goal: ready in less than 5 s once installed).

    python benchmarks/startup.py [--rounds N] [--write]

Six real Envoys, four real llama.cpp servers, a client. "first" starts with an empty state directory and an empty cache
of models; "new" has the models, as every start with another state directory; "again" has both. The phases are what an
observer sees: each figure is when the last replica got there, in seconds from the start of the command. (The example's
client sends requests as soon as it runs, so it takes part in the load.) The processor time of all processes until then
says what the start costs on a machine that is busy with other things: two idle cores need half of it at least.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rigs import processes, report

from headrace.agent.process import mark_of, marked
from headrace.app.api.client import ApiClient, ApiUnreachable
from headrace.app.cli import CommandFailed
from headrace.floor.places import Places
from headrace.floor.processes import read_mark

EXAMPLE = Path(__file__).parents[1] / "examples" / "canary"
GOAL = 5.0
POLL = 0.05
PHASES: Mapping[str, Callable[[list[dict[str, Any]]], bool]] = {
    "certificates issued": lambda rows: all(row["certificate_serial"] for row in rows),
    "proxies started": lambda rows: all(row["proxy_pid"] for row in rows),
    "proxies connected": lambda rows: all(row["connected"] for row in rows),
    "applications started": lambda rows: all(row["app_pid"] or row["gateway_ports"] for row in rows),
    "replicas ready": lambda rows: all(row["state"] == "ready" for row in rows),
}


class Observer:
    """Looks at a mesh that starts, from a thread of its own: when each phase was over."""

    def __init__(self, state: Path, replicas: int) -> None:
        self._places = Places(state.resolve())
        self._client = ApiClient(state, timeout=5.0)
        self._replicas = replicas
        self._begin = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.seen: dict[str, float] = {}

    def __enter__(self) -> Observer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10.0)

    def note(self, phase: str) -> None:
        """The phase is over now, if it was not before."""
        self.seen.setdefault(phase, time.monotonic() - self._begin)

    def _run(self) -> None:
        started = time.time()
        while not self._stop.wait(POLL):
            for role in ("up", "agent", "control-plane"):
                file = self._places.pid_file(role)
                if file.exists() and file.stat().st_mtime >= started - 0.05:
                    self.note(f"{role} runs")
            try:
                rows = self._client.call("GET", "/v1/proxies")
            except (ApiUnreachable, CommandFailed):
                continue
            self.note("API answers")
            if len(rows) < self._replicas:
                continue
            for phase, over in PHASES.items():
                if over(rows):
                    self.note(phase)


def processor_seconds(state: Path) -> dict[str, float]:
    """What the running processes of a mesh have used so far, by role."""
    places = Places(state.resolve())
    found = {}
    for role in ("up", "agent"):
        mark = read_mark(places.pid_file(role))
        found[f"CPU: {role}"] = processes.cpu_seconds([mark.pid]) if mark else 0.0
    mesh = hashlib.blake2b(os.fsencode(places.state), digest_size=8).hexdigest()
    names = {"control-plane": "control plane", "proxy": "proxies", "app": "applications"}
    for pid in marked(f"{mesh}:"):
        role = mark_of(pid).split(":")[1]
        name = f"CPU: {names.get(role, role)}"
        found[name] = found.get(name, 0.0) + processes.cpu_seconds([pid])
    return found | {"CPU: all": sum(found.values())}


def start(state: Path, cache: Path) -> dict[str, float]:
    """Seconds of each phase of one start (and `down` after it), and processor time by role."""
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-m", "headrace"]
    try:
        with Observer(state, 6) as observer:
            up = [*command, "up", str(EXAMPLE), "--state", str(state), "--wait", "--detach", "--timeout", "60"]
            up += ["--capture", "loopback"]
            done = subprocess.run(up, capture_output=True, text=True, timeout=90, env=environment)
            observer.note("command returns")
            used = processor_seconds(state)
        if done.returncode != 0:
            raise SystemExit(f"up failed:\n{done.stdout}{done.stderr}")
    finally:
        down = [*command, "down", "--state", str(state)]
        begin = time.monotonic()
        subprocess.run(down, capture_output=True, timeout=120)
        taken = time.monotonic() - begin
    return observer.seen | used | {"(down)": taken}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="put the section into RESULTS.md")
    arguments = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {"first": [], "new": [], "again": []}
    for _ in range(arguments.rounds):
        root = Path(tempfile.mkdtemp(prefix="hr-start-"))
        try:
            cache = root / "cache"
            found["first"].append(start(root / "one", cache))
            found["new"].append(start(root / "two", cache))
            found["again"].append(start(root / "two", cache))
        finally:
            shutil.rmtree(root, ignore_errors=True)
    publish(found, arguments)


def publish(found: dict[str, list[dict[str, float]]], arguments: argparse.Namespace) -> None:
    """One row a phase, one column a kind of start."""
    phases = sorted(found["new"][0], key=lambda name: (name == "(down)", "CPU" in name, found["new"][0][name]))
    rows = []
    for phase in phases:
        cells = [
            report.spread([seen[phase] for seen in runs if phase in seen] or [float("nan")]) for runs in found.values()
        ]
        rows.append([phase, *cells])
    median = statistics.median(seen["command returns"] for seen in found["new"])
    lines = [__doc__.split("\n\n")[2].replace("\n", " ").strip(), ""]
    lines += [*report.table(["phase over, or processor time, s", *found], rows), ""]
    verdict = "met" if median < GOAL else "MISSED"
    lines += [f'{arguments.rounds} rounds, medians (lowest to highest). Goal for "new", < {GOAL:g} s: {verdict}.']
    report.publish("Start of the canary example", lines, write=arguments.write)


if __name__ == "__main__":
    main()
