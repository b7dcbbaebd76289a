"""`headrace control-plane`: run the control plane of a state directory (the agent starts it)."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from headrace.app.cli import CommandFailed
from headrace.app.cli.up import DEFAULT_STATE, StateOption

app = typer.Typer(add_completion=False)


@app.command(name="control-plane")
def control_plane(
    state: StateOption = DEFAULT_STATE,
    debug: Annotated[bool, typer.Option("--debug", help="Log more.")] = False,
) -> None:
    """Run the control plane: documents, discovery, certificates and the management API."""
    from headrace.app.control_plane.process import run
    from headrace.floor import logs
    from headrace.floor.places import Places, StateError

    logs.configure("control-plane", debug=debug or bool(os.environ.get("HEADRACE_DEBUG")))
    try:
        run(Places.open(state))
    except StateError as error:
        raise CommandFailed(str(error)) from error
