"""Runs another benchmark and puts what it prints into RESULTS.md as a section.

    python benchmarks/record.py TITLE SCRIPT [ARGUMENT ...]

For scripts that print tables or plain lines; those that know the option --write do it themselves.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rigs import report


def main() -> None:
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    title, script, *arguments = sys.argv[1:]
    path = Path(__file__).with_name(script)
    done = subprocess.run([sys.executable, str(path), *arguments], stdout=subprocess.PIPE, text=True, timeout=600)
    if done.returncode != 0:
        raise SystemExit(f"{script}: exit code {done.returncode}\n{done.stdout}")
    lines = done.stdout.rstrip().splitlines()
    if not lines[0].startswith("|"):
        lines = ["```", *lines, "```"]
    report.publish(title, lines, write=True, command=["python", f"benchmarks/{script}", *arguments])


if __name__ == "__main__":
    main()
