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
    join: Annotated[
        str | None, typer.Option(help="ADDRESS:PORT of another host's control plane, to run replicas of its mesh here.")
    ] = None,
    token: Annotated[
        str, typer.Option(envvar="HEADRACE_JOIN_TOKEN", show_envvar=True, help="Join token, for the first time only.")
    ] = "",
    token_file: Annotated[Path | None, typer.Option(help="File with the join token (not seen by `ps`).")] = None,
    addresses: Annotated[
        str | None, typer.Option(help="Range (CIDR) of this host for its replicas, which other hosts reach.")
    ] = None,
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
    from headrace.app.membership import check_addresses
    from headrace.envoy.binary import EnvoyError
    from headrace.floor.logs import configure
    from headrace.floor.places import StateError

    configure("agent", json=log_json, debug=bool(os.environ.get("HEADRACE_DEBUG")))
    if join and not addresses:
        raise CommandFailed("--join needs --addresses CIDR: replicas here must be reachable from other hosts")
    if addresses and choose(capture).kind == "netns":
        raise CommandFailed("--addresses does not go with netns capture: use --capture loopback")
    own = control_plane and join is None
    command = headrace_command("control-plane", "--state", str(state.resolve())) if own else ()
    os.environ.pop("HEADRACE_JOIN_TOKEN", None)  # applications inherit the environment
    try:
        if token_file is not None and not token:
            token = read_token(token_file)
        addresses = check_addresses(addresses) if addresses else None
        run_agent(AgentOptions(state, host, command, log_mib << 20, choose(capture).kind, addresses, join, token))
    except (StateError, EnvoyError) as error:
        raise CommandFailed(str(error)) from error


def read_token(path: Path) -> str:
    """The token in a file; CommandFailed where there is none (a token that was used may be gone: then empty)."""
    from headrace.app.cli import CommandFailed

    try:
        with path.open() as file:
            return file.read(1000).strip()
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise CommandFailed(f"{path}: cannot be read ({type(error).__name__})") from None
