"""`headrace down`: stop the mesh of a state directory."""

from __future__ import annotations

import signal

import typer

from headrace.app.cli import CommandFailed
from headrace.app.cli.up import DEFAULT_STATE, StateOption

app = typer.Typer(add_completion=False)


@app.command()
def down(state: StateOption = DEFAULT_STATE) -> None:
    """Stop everything that `headrace up` started for this state directory, gracefully."""
    from headrace.app.up import STOP_LIMIT
    from headrace.floor.places import Places
    from headrace.floor.processes import read_mark

    places = Places(state.resolve())
    found = False
    for role in ("up", "agent", "control-plane"):
        mark = read_mark(places.pid_file(role))
        if mark is None:
            continue
        found = True
        mark.send(signal.SIGTERM)
        if not mark.wait_gone(STOP_LIMIT + 5.0):
            mark.send(signal.SIGKILL)
            raise CommandFailed(f"{role} (process {mark.pid}) did not stop and was killed: see {places.logs}")
    if not found:
        raise CommandFailed(f"no mesh runs at {state}")
    print(f"stopped the mesh at {state}")
