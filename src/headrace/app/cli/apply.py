"""`headrace apply -f PATH`: bring documents into the running mesh."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from headrace.app.cli import CommandFailed
from headrace.app.cli.output import Format, FormatOption, print_data
from headrace.app.cli.up import DEFAULT_STATE, StateOption

app = typer.Typer(add_completion=False)


@app.command()
def apply(
    files: Annotated[list[str], typer.Option("-f", "--filename", help="File or directory; - for standard input.")],
    state: StateOption = DEFAULT_STATE,
    output: FormatOption = Format.TABLE,
) -> None:
    """Apply documents. Good ones come into force, each bad one is reported; exit 1 where there was a bad one."""
    from headrace.app.api.client import ApiClient

    texts = []
    for name in files:
        if name == "-":
            texts.append({"file": "<stdin>", "text": sys.stdin.read()})
            continue
        path = Path(name)
        if not path.exists():
            raise CommandFailed(f"{name}: no such file or directory")
        texts.append({"file": str(path.resolve())})
    answer = ApiClient(state).call("POST", "/v1/documents", {"sources": texts})
    if output is Format.TABLE:
        for line in answer["applied"]:
            print(line)
        for problem in answer["problems"]:
            print(problem["line_text"], file=sys.stderr)
    else:
        print_data(answer, output)
    if any(problem["severity"] == "error" for problem in answer["problems"]):
        raise typer.Exit(1)
