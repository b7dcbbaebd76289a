"""`headrace agent`: run this host's agent (`headrace up` starts it)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def agent(
    state: Annotated[Path, typer.Option("--state", help="State directory of the mesh.")] = Path(".headrace"),
    host: Annotated[str, typer.Option(help="This host's name, unique in the mesh.")] = "local",
    control_plane: Annotated[
        bool, typer.Option("--control-plane/--no-control-plane", help="Start the control plane and keep it running.")
    ] = True,
    log_mib: Annotated[int, typer.Option(min=1, help="Rotate logs beyond this size (one older file is kept).")] = 32,
    capture: Annotated[str, typer.Option(help="How traffic reaches the proxies: loopback or netns.")] = "loopback",
    log_json: Annotated[bool, typer.Option("--log-json", help="Log lines as JSON.")] = False,
) -> None:
    """Run this host's agent: it starts applications and their Envoys, and the control plane, and keeps them running.

    SIGTERM or Ctrl-C ends all of them gracefully (twice: at once); after SIGKILL the next agent takes them over.
    """
    import os

    from headrace.app.agent_process import AgentOptions, headrace_command, run_agent
    from headrace.app.capture_choice import choose
    from headrace.app.cli import CommandFailed
    from headrace.envoy.binary import EnvoyError
    from headrace.floor.logs import configure
    from headrace.floor.places import StateError

    configure("agent", json=log_json, debug=bool(os.environ.get("HEADRACE_DEBUG")))
    command = headrace_command("control-plane", "--state", str(state.resolve())) if control_plane else ()
    try:
        run_agent(AgentOptions(state, host, command, log_mib << 20, choose(capture).kind))
    except (StateError, EnvoyError) as error:
        raise CommandFailed(str(error)) from error
