"""How fast the command line answers: `headrace --help` (goal: 0.3 s) and `headrace check` of one file (goal: 0.7 s).

    python benchmarks/cli_start.py [RUNS]

Prints the median and the slowest of RUNS (default 15) fresh processes, beside a bare `python -c pass` for scale.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DOCUMENT = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: chat, namespace: default}
spec:
  hosts: [chat]
  http:
  - route:
    - destination: {host: chat, port: {number: 8000}}
    timeout: 60s
---
apiVersion: v1
kind: Service
metadata: {name: chat, namespace: default}
spec:
  selector: {app: chat}
  ports: [{name: http, port: 8000}]
"""


def seconds(command: list[str]) -> float:
    """One run of the command, which must succeed."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, timeout=60)
    taken = time.perf_counter() - start
    if done.returncode != 0:
        raise SystemExit(
            f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr.decode()}{done.stdout.decode()}"
        )
    return taken


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    headrace = str(Path(sys.executable).with_name("headrace"))
    with tempfile.TemporaryDirectory() as directory:
        document = Path(directory) / "one.yaml"
        document.write_text(DOCUMENT)
        cases = [
            ("python -c pass", [sys.executable, "-c", "pass"], None),
            ("headrace --help", [headrace, "--help"], 0.3),
            ("headrace check one.yaml", [headrace, "check", str(document)], 0.7),
        ]
        for name, command, goal in cases:
            seconds(command)  # the first run compiles bytecode
            taken = [seconds(command) for _ in range(runs)]
            median = statistics.median(taken)
            verdict = "" if goal is None else f"  goal {goal:.1f} s: {'met' if median < goal else 'MISSED'}"
            print(f"{name:26} median {median:.3f} s  slowest {max(taken):.3f} s  ({runs} runs){verdict}")


if __name__ == "__main__":
    main()
