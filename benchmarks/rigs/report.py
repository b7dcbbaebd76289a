"""Figures as sections of RESULTS.md, each with its command, machine, date and commit."""

from __future__ import annotations

import datetime
import os
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from _machine import machine

RESULTS = Path(__file__).parents[1] / "RESULTS.md"
_ROOT = Path(__file__).parents[2]


def publish(title: str, lines: Sequence[str], *, write: bool, command: Sequence[str] = ()) -> None:
    """Print a section; with `write`, also put it into RESULTS.md, in place of the one of that title or at the end.
    `command` is what was run, where it is not this program."""
    section = "\n".join([f"## {title}", "", *lines, "", _origin(command or _own_command()), ""])
    print(section)
    if not write:
        return
    text = RESULTS.read_text() if RESULTS.exists() else "# Results\n"
    found = re.search(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    before, after = (text[: found.start()], text[found.end() :]) if found else (text.rstrip("\n") + "\n\n", "")
    RESULTS.write_text((before + section + "\n" + after).rstrip("\n") + "\n")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, the first column to the left."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """`median (lowest to highest)`."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]


def _own_command() -> list[str]:
    arguments = [word for word in sys.argv[1:] if word != "--write"]
    return ["python", f"benchmarks/{Path(sys.argv[0]).name}", *arguments]


def _origin(command: Sequence[str]) -> str:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    load = os.getloadavg()[0]
    return f"`{shlex.join(command)}` · {machine()} · {now} · commit {_commit()} · load average at the end {load:.1f}"


def _commit() -> str:
    done = subprocess.run(["git", "-C", str(_ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"
