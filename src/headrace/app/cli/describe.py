"""`headrace describe KIND NAME`: what applies to a service, workload or route, and from which document."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from headrace.app.cli import CommandFailed
from headrace.app.cli.output import Format, FormatOption, print_data
from headrace.app.cli.up import DEFAULT_STATE, StateOption

app = typer.Typer(add_completion=False)


class Subject(StrEnum):
    """What can be described."""

    SERVICE = "service"
    WORKLOAD = "workload"
    ROUTE = "route"


@app.command()
def describe(
    kind: Annotated[Subject, typer.Argument(help="service, workload or route")],
    name: Annotated[str, typer.Argument(help="Its name, or NAMESPACE/NAME.")],
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="PATH...", help="Documents; without them, the running mesh is asked.")
    ] = None,
    namespace: Annotated[str, typer.Option("-n", "--namespace", help="Its namespace.")] = "default",
    mesh_config: Annotated[Path | None, typer.Option(help="File with Istio's MeshConfig, with PATH.")] = None,
    state: StateOption = DEFAULT_STATE,
    output: FormatOption = Format.TABLE,
) -> None:
    """Explain what applies, what was shadowed and why: routes, traffic policy, security; each with its document."""
    if "/" in name:
        namespace, _, name = name.partition("/")
    if paths:
        answer = _offline(paths, mesh_config, kind, (namespace, name))
    else:
        from headrace.app.api.client import ApiClient

        answer = ApiClient(state).call("GET", f"/v1/describe/{kind.value}/{namespace}/{name}")
    if output is Format.TABLE:
        _print(answer, 0)
    else:
        print_data(answer, output)


def _offline(paths: list[Path], mesh_config: Path | None, kind: Subject, who: tuple[str, str]) -> dict[str, Any]:
    """The same answer from documents alone."""
    from headrace.app import offline
    from headrace.app.control_plane.answers import Refused
    from headrace.app.control_plane.described import described

    try:
        found = offline.load(paths, mesh_config, as_running=True)
        for problem in found.problems:
            print(problem.as_line(), file=sys.stderr)
        return described(found.snapshot, kind.value, *who)
    except (offline.OfflineError, Refused) as error:
        raise CommandFailed(str(error)) from None


def _print(value: Any, depth: int) -> None:
    """Nested data as an indented outline."""
    indent = "  " * depth
    for key, item in value.items():
        label = key.replace("_", " ")
        if isinstance(item, dict):
            print(f"{indent}{label}:{'' if item else ' none'}")
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
