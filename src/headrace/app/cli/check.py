"""`headrace check`: judges documents without a running mesh (contract.md, "Commands", 1)."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from headrace.app.cli.output import Format, FormatOption, print_data
from headrace.app.gateway_problems import gateway_problems
from headrace.config.documents import ReadResult, read_paths, read_text
from headrace.config.judge import brought
from headrace.config.mesh_config import read_mesh_config
from headrace.model.problem import Problem, Severity

app = typer.Typer(add_completion=False)

_SOURCE = "check"


@app.command()
def check(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Files and directories of documents; - reads standard input.")
    ],
    output: FormatOption = Format.TABLE,
    mesh_config: Annotated[
        Path | None, typer.Option("--mesh-config", metavar="FILE", help="MeshConfig, as Istio writes it.")
    ] = None,
) -> None:
    """Judge documents without a running mesh. Exit 0 if no problem is an error, else 1."""
    results = [read_paths([path for path in paths if path != "-"], _SOURCE)]
    if "-" in paths:
        results.append(_read_input())
    if mesh_config is not None:
        results.insert(0, read_mesh_config(mesh_config, _SOURCE))
    revision = brought(results)
    problems = sorted({*revision.problems, *gateway_problems(revision)})
    if output is Format.TABLE:
        _print_lines(problems, sum(len(result.documents) for result in results))
    else:
        print_data([problem.as_json() for problem in problems], output)
    if any(problem.severity is Severity.ERROR for problem in problems):
        raise typer.Exit(1)


def _read_input() -> ReadResult:
    return read_text(sys.stdin.buffer.read(), "<stdin>", _SOURCE)


def _print_lines(problems: list[Problem], documents: int) -> None:
    for problem in problems:
        print(problem.as_line())
    counts = Counter(problem.severity for problem in problems)
    said = ", ".join(f"{counts[severity]} {severity}{'s' if counts[severity] != 1 else ''}" for severity in Severity)
    print(f"{documents} document{'s' if documents != 1 else ''}: {said}")
