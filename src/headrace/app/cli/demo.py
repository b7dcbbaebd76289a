"""`headrace demo`: run the canary example with real requests and watch the split."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from headrace.app.cli import CommandFailed

app = typer.Typer(add_completion=False)


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the mesh running at the end.")] = False,
    seconds: Annotated[float, typer.Option(min=2.0, max=600.0, help="Length of each step.")] = 8.0,
    rate: Annotated[float, typer.Option(min=1.0, max=500.0, help="Requests a second.")] = 20.0,
    example: Annotated[Path | None, typer.Option(help="The example's directory.")] = None,
) -> None:
    """Start the canary example, send streamed requests, shift 95/5 → 80/20 → 50/50 → 0/100, eject a sick replica.

    The documents are the articles' own; for the demo's sake a sick replica is ejected for 5 s instead of 3 minutes and
    looked for every second instead of every ten. Exit 1 where a request failed that should not have.
    """
    from rich.console import Console

    from headrace.app.demo.stage import copy_example, find_example
    from headrace.app.demo.story import Story
    from headrace.app.up import detach, wait_ready
    from headrace.floor.places import Places

    source = example or find_example("canary")
    home = Path(tempfile.mkdtemp(prefix="headrace-demo-"))
    documents = home / "documents"
    console = Console()
    copy_example(source, documents, rate=rate, ejection="5s", interval="1s")
    places = Places.open(home / "state")
    console.print(f"starting the mesh of {source} (a copy in {documents})", soft_wrap=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    mark = detach([str(documents), "--state", str(places.state)], places)
    good = False
    try:
        status = wait_ready(places, 120.0, mark.alive, lambda _: None)
        for gateway in status["gateways"]:
            console.print(f"gateway for clients outside: {', '.join(gateway['urls'])}")
        good = Story(places, documents, seconds, console).tell()
        if keep:
            console.print(f"\nthe mesh goes on: documents in {documents}; look with", soft_wrap=True)
            for command in ("proxy status", "get all", "describe service ai-inference-service"):
                console.print(f"  headrace {command} --state {places.state}", soft_wrap=True)
            console.print(f"and stop it with\n  headrace down --state {places.state}", soft_wrap=True)
    except KeyboardInterrupt:
        raise CommandFailed("interrupted") from None
    finally:
        if not (keep and good):
            mark.send(signal.SIGTERM)
            stopped = mark.wait_gone(100.0)
            if stopped and good:
                shutil.rmtree(home, ignore_errors=True)
            else:
                console.print(f"logs are in {places.logs}")
    if not good:
        raise typer.Exit(1)
