"""Runs of wrk before proxies that share one core, while load and servers have the other: what each request costs.

Used by mesh_overhead.py, mesh_overhead_parts.py, module_overhead.py and peers.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rigs import processes

PROXY_CORE, LOAD_CORE = 0, 1
DONE = """\
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('{"requests":%d,"us":%d,"p50":%d,"p99":%d,"errors":%d}\\n', summary.requests,
    summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""
"""The end of every script (Lua): the figures as one line of JSON."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the server: where wrk connects, its script, and the processes that do the work."""

    name: str
    address: tuple[str, int]
    script: Path
    proxies: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of wrk. Times in microseconds; `cpu` is the proxies' processor time for each request."""

    rate: float
    p50: float
    p99: float
    cpu: float


def program() -> str:
    """Where wrk is; ends the benchmark where it, or the second core, is missing."""
    found = shutil.which("wrk")
    if found is None:
        raise SystemExit("wrk is missing: apt-get install wrk (Debian, Ubuntu), or build github.com/wg/wrk")
    if (os.cpu_count() or 1) < 2:
        raise SystemExit("this needs two cores: one for the proxies, one for load and servers")
    return found


@contextlib.contextmanager
def on_load_core() -> Iterator[None]:
    """This process, and what it starts, on the load's core; proxies are moved to theirs (`processes.pin`)."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {LOAD_CORE})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def free_port() -> int:
    """A port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def measure(wrk: str, way: Way, connections: int, seconds: float) -> Sample:
    """One run of wrk, in which every answer must be 200."""
    url = f"http://{way.address[0]}:{way.address[1]}"
    command = [wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(way.script), url]
    before = processes.cpu_seconds(way.proxies)
    done = subprocess.run(["taskset", "-c", str(LOAD_CORE), *command], capture_output=True, text=True, timeout=60)
    used = processes.cpu_seconds(way.proxies) - before
    if done.returncode != 0:
        raise SystemExit(f"wrk: {done.stdout}{done.stderr}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    if found["errors"] or not found["requests"]:
        raise SystemExit(f"{way.name}: {found['errors']} of {found['requests']} requests failed\n{done.stdout}")
    rate = found["requests"] / found["us"] * 1e6
    return Sample(rate, found["p50"], found["p99"], used / found["requests"] * 1e6)
