"""`headrace proxy status|config|logs`: look at the mesh's Envoys."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Annotated, Any

import typer

from headrace.app.cli import CommandFailed
from headrace.app.cli.output import Format, FormatOption, print_data, print_rows
from headrace.app.cli.up import DEFAULT_STATE, StateOption

app = typer.Typer(add_completion=False, help="Look at proxies: status, config, logs.", no_args_is_help=True)
NameArgument = Annotated[str, typer.Argument(help="Replica: namespace/name, or its name where that is unique.")]

_STATUS_COLUMNS = [
    ("proxy", "PROXY"),
    ("state", "STATE"),
    ("clusters", "CLUSTERS"),
    ("endpoints", "ENDPOINTS"),
    ("listeners", "LISTENERS"),
    ("routes", "ROUTES"),
    ("push_ms", "LAST PUSH (MS)"),
    ("certificate_until", "CERTIFICATE UNTIL"),
    ("problem", "PROBLEM"),
]


@app.command()
def status(state: StateOption = DEFAULT_STATE, output: FormatOption = Format.TABLE) -> None:
    """Every proxy: acknowledged version of each type, how long its last push took, what it refused and why."""
    from headrace.app.api.client import ApiClient

    print_rows(ApiClient(state).call("GET", "/v1/proxies"), _STATUS_COLUMNS, output)


@app.command()
def config(
    name: NameArgument,
    state: StateOption = DEFAULT_STATE,
    output: FormatOption = Format.JSON,
) -> None:
    """The configuration that the Envoy really runs (its config dump; keys are redacted by Envoy itself)."""
    from headrace.app.api.client import ask_admin
    from headrace.floor.places import Places

    socket = Places(state.resolve()).admin_socket(_replica(name, state))
    try:
        dump = ask_admin(socket, "/config_dump?include_eds", 30.0)
    except (OSError, ValueError) as error:
        raise CommandFailed(
            f"the proxy of {name} does not answer ({error}): see `headrace proxy logs {name}`"
        ) from error
    print_data(dump, Format.JSON if output is Format.TABLE else output)


@app.command()
def logs(
    name: NameArgument,
    lines: Annotated[int, typer.Option("--tail", min=1, max=100_000, help="How many of the last lines.")] = 50,
    app_log: Annotated[bool, typer.Option("--app", help="The application's log instead of the proxy's.")] = False,
    state: StateOption = DEFAULT_STATE,
) -> None:
    """The last lines of a proxy's log."""
    from headrace.floor.places import Places

    places = Places(state.resolve())
    replica = _replica(name, state)
    path: Path = places.workload_log(replica) if app_log else places.proxy_log(replica)
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in deque(file, maxlen=lines):
                print(line, end="")
    except FileNotFoundError:
        raise CommandFailed(f"{path}: no log yet") from None


def _replica(name: str, state: Path) -> str:
    """The full id of a replica: CommandFailed with what there is where the name fits none or several."""
    from headrace.app.api.client import ApiClient

    rows: list[dict[str, Any]] = ApiClient(state).call("GET", "/v1/proxies")
    known = [str(row["proxy"]) for row in rows]
    found = [item for item in known if item == name or item.rpartition("/")[2] == name]
    if len(found) != 1:
        what = "no proxy" if not found else "several proxies"
        raise CommandFailed(f"{what} called {name!r}; there are: {', '.join(known) or 'none'}")
    return found[0]
