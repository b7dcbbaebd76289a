"""`headrace describe KIND NAME`: what applies to a service or workload, and from which document."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from headrace.app.cli.output import Format, FormatOption, print_data
from headrace.app.cli.up import DEFAULT_STATE, StateOption

app = typer.Typer(add_completion=False)


class Subject(StrEnum):
    """What can be described."""

    SERVICE = "service"
    WORKLOAD = "workload"


@app.command()
def describe(
    kind: Annotated[Subject, typer.Argument(help="service or workload")],
    name: Annotated[str, typer.Argument(help="Its name.")],
    namespace: Annotated[str, typer.Option("-n", "--namespace", help="Its namespace.")] = "default",
    state: StateOption = DEFAULT_STATE,
    output: FormatOption = Format.TABLE,
) -> None:
    """Explain what applies: routes with timeouts, traffic policy, mutual TLS, endpoints; each with its document."""
    from headrace.app.api.client import ApiClient

    answer = ApiClient(state).call("GET", f"/v1/describe/{kind.value}/{namespace}/{name}")
    if output is Format.TABLE:
        _print(answer, 0)
    else:
        print_data(answer, output)


def _print(value: Any, depth: int) -> None:
    """Nested data as an indented outline."""
    indent = "  " * depth
    for key, item in value.items():
        label = key.replace("_", " ")
        if isinstance(item, dict):
            print(f"{indent}{label}:")
            _print(item, depth + 1)
        elif isinstance(item, list):
            print(f"{indent}{label}:{'' if item else ' none'}")
            for entry in item:
                if isinstance(entry, dict):
                    first, *rest = entry.items()
                    print(f"{indent}  - {first[0].replace('_', ' ')}: {first[1]}")
                    _print(dict(rest), depth + 2)
                else:
                    print(f"{indent}  - {entry}")
        else:
            print(f"{indent}{label}: {item}")
