"""`headrace translate`: what one proxy would be sent, from documents alone."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from headrace.app.cli import CommandFailed
from headrace.app.cli.output import Format, FormatOption, print_data, print_rows

app = typer.Typer(add_completion=False)


@app.command()
def translate(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files and directories of documents.")],
    proxy: Annotated[str, typer.Option(help="KIND/NAMESPACE/NAME: sidecar or gateway, and its workload's document.")],
    mesh_config: Annotated[Path | None, typer.Option(help="File with Istio's MeshConfig.")] = None,
    capture: Annotated[str, typer.Option(help="Shape: transparent, or loopback as `up` runs it.")] = "transparent",
    module: Annotated[bool, typer.Option("--module", help="As for a proxy that has the native module.")] = False,
    validate: Annotated[bool, typer.Option("--validate", help="Let the real Envoy judge the result.")] = False,
    output: FormatOption = Format.JSON,
) -> None:
    """Print what one proxy would be sent, offline: listeners, routes, clusters and endpoints."""
    from headrace.app import offline

    try:
        name = offline.ProxyName.parse(proxy)
        mesh = offline.load(paths, mesh_config)
        for problem in mesh.problems:
            print(problem.as_line(), file=sys.stderr)
        found = replace(offline.find_proxy(mesh.snapshot, name, offline.capture_of(capture)), module=module)
        resources = offline.translate(mesh, found)
        if validate:
            offline.judge(resources)
    except offline.OfflineError as error:
        raise CommandFailed(str(error)) from None
    data = offline.as_data(resources)
    if output is Format.TABLE:
        print_rows(_rows(data), (("type", "TYPE"), ("name", "NAME")), output)
    else:
        print_data(data, output)


def _rows(data: dict[str, list[dict[str, Any]]]) -> list[dict[str, str]]:
    return [
        {"type": section.removesuffix("s"), "name": item.get("name") or item.get("cluster_name", "")}
        for section, items in data.items()
        for item in items
    ]
