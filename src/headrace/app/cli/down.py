"""`headrace down`: stop the mesh of a state directory."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import typer

from headrace.app.cli import CommandFailed
from headrace.app.cli.up import DEFAULT_STATE, StateOption

app = typer.Typer(add_completion=False)
_ASKED_SECONDS = 3.0
_POLL = 0.05


@app.command()
def down(state: StateOption = DEFAULT_STATE) -> None:
    """Stop everything that `headrace up` started for this state directory, gracefully."""
    from headrace.agent.netns import leftovers
    from headrace.agent.netns.plan import mesh_id
    from headrace.app.agent_process import mesh_mark
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
    # Where everything that could have cleaned up was killed, the proxies and applications still run.
    found |= _end_marked(mesh_mark(places))
    if leftovers.anything(mesh_id(places.state)):
        found = True
        leftovers.remove(mesh_id(places.state))
    for path in places.sockets.glob("*"):
        if path.is_symlink() or path.is_socket():
            path.unlink(missing_ok=True)
    if not found:
        raise CommandFailed(f"no mesh runs at {state}")
    print(f"stopped the mesh at {state}")


def _end_marked(prefix: str) -> bool:
    """End every process whose mark begins like this: asked first, killed after a moment. Whether there was one."""
    from headrace.agent.process import marked

    first = marked(prefix)
    deadline = time.monotonic() + _ASKED_SECONDS
    while pids := marked(prefix):
        number = signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        time.sleep(_POLL)
    return bool(first)
