"""`headrace token create|list|delete`: tokens by which other hosts join the mesh."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.app.cli.output import Format, FormatOption, print_data, print_rows
from headrace.app.cli.up import DEFAULT_STATE, StateOption

app = typer.Typer(add_completion=False, help="Join tokens of other hosts: create, list, delete.", no_args_is_help=True)
_COLUMNS = [("id", "ID"), ("host", "HOST"), ("until", "UNTIL"), ("used", "USED")]


@app.command()
def create(
    host: Annotated[str, typer.Argument(help="The name that the host will have in the mesh.")],
    ttl: Annotated[str, typer.Option(help="How long the token is good, e.g. 10m.")] = "10m",
    state: StateOption = DEFAULT_STATE,
    output: FormatOption = Format.TABLE,
) -> None:
    """Print a token that lets one host join once, by `headrace agent --join`. It is a secret and shown only now."""
    from headrace.app.api.client import ApiClient
    from headrace.app.cli.ca import seconds

    made = ApiClient(state).call("POST", "/v1/tokens", {"host": host, "life_seconds": seconds(ttl)})
    if output is not Format.TABLE:
        print_data(made, output)
        return
    print(made["token"])
    typer.echo(
        f"headrace: good once, until {made['until']}; on host {host}: "
        f"headrace agent --join {made['address']} --token-file FILE --addresses CIDR",
        err=True,
    )


@app.command(name="list")
def list_tokens(state: StateOption = DEFAULT_STATE, output: FormatOption = Format.TABLE) -> None:
    """The tokens of the last hours, without their secrets."""
    from headrace.app.api.client import ApiClient

    print_rows(ApiClient(state).call("GET", "/v1/tokens"), _COLUMNS, output)


@app.command()
def delete(
    token: Annotated[str, typer.Argument(metavar="ID", help="Which, as `headrace token list` names it.")],
    state: StateOption = DEFAULT_STATE,
) -> None:
    """Withdraw a token."""
    from headrace.app.api.client import ApiClient

    ApiClient(state).call("DELETE", f"/v1/tokens/{token}")
