"""`headrace trace`: which way one request takes through the mesh that documents describe, and why."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from headrace.app.cli import CommandFailed
from headrace.app.cli.output import Format, FormatOption, print_data

app = typer.Typer(add_completion=False)

_WIDTH = 14


@app.command()
def trace(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files and directories of documents.")],
    source: Annotated[str, typer.Option("--from", help="Workload or gateway ([KIND/]NAMESPACE/NAME), or outside.")],
    to: Annotated[str, typer.Option("--to", help="Host, HOST:PORT or URL (http, https, grpc, tcp, tls).")],
    path: Annotated[str, typer.Option(help="Path, with its query.")] = "",
    method: Annotated[str, typer.Option(help="HTTP method.")] = "GET",
    header: Annotated[list[str] | None, typer.Option(help="NAME:VALUE; again for more.")] = None,
    port: Annotated[int | None, typer.Option(help="Port, where --to has none.", min=1, max=65535)] = None,
    sni: Annotated[str, typer.Option(help="Server name of TLS; default: the host of https and tls.")] = "",
    claims: Annotated[str, typer.Option(help="Claims of a valid token, as a JSON object.")] = "",
    mesh_config: Annotated[Path | None, typer.Option(help="File with Istio's MeshConfig.")] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Follow one request offline: listener, filter chain, policies, route, cluster, endpoints; at both ends."""
    from dataclasses import replace

    from headrace.app import offline
    from headrace.app.trace.places import Target
    from headrace.app.trace.walk import Question, walk

    try:
        target = Target.parse(to)
        if path:
            target = replace(target, path=path if path.startswith("/") else f"/{path}")
        question = Question(source, target, method.upper(), _headers(header or []), port, sni, _claims(claims))
        mesh = offline.load(paths, mesh_config, as_running=True)
        for problem in mesh.problems:
            print(problem.as_line(), file=sys.stderr)
        answer = walk(mesh, question)
    except offline.OfflineError as error:
        raise CommandFailed(str(error)) from None
    if output is Format.TABLE:
        _print(answer)
    else:
        print_data(answer, output)
    if "refused" in answer:
        raise typer.Exit(1)


def _headers(words: list[str]) -> tuple[tuple[str, str], ...]:
    pairs = []
    for word in words:
        name, colon, value = word.partition(":")
        if not colon or not name.strip():
            raise CommandFailed(f"--header {word[:200]!r} is no header: write NAME:VALUE")
        pairs.append((name.strip().lower(), value.strip()))
    return tuple(pairs)


def _claims(text: str) -> dict[str, Any] | None:
    if not text:
        return None
    try:
        found = json.loads(text)
    except ValueError as error:
        raise CommandFailed(f"--claims is no JSON ({error}): write an object of claims") from None
    if not isinstance(found, dict):
        raise CommandFailed('--claims must be a JSON object, as in \'{"iss": "https://issuer", "sub": "me"}\'')
    return found


def _print(answer: dict[str, Any]) -> None:
    print(f"{answer['from']} -> {answer['to']} ({answer['connection']})")
    print(f"\nproxy {answer['proxy']}")
    _steps(answer["steps"], 2)
    for destination in answer["destinations"]:
        _line("cluster", f"{destination['cluster']} ({destination['share']})", "", destination.get("policy", ""), 2)
        for endpoint in destination.get("endpoints", []):
            _line("endpoint", endpoint, "", "", 4)
        for callee in destination.get("callees", []):
            print(f"\n    proxy {callee['proxy']} before {callee['endpoint']}")
            _steps(callee["steps"], 6)
            if "delivered" in callee:
                _line("delivered", callee["delivered"], "", "", 6)
            _refusal(callee, 6)
        if "callees" not in destination:
            _refusal(destination, 4)
    if "answered" in answer:
        _line("answered", answer["answered"], "", "", 2)
    if not answer["destinations"]:
        _refusal(answer, 2)


def _steps(steps: list[dict[str, str]], indent: int) -> None:
    for step in steps:
        _line(step["what"], step["name"], step["why"], step.get("document", ""), indent)


def _line(what: str, name: str, why: str, document: str, indent: int) -> None:
    print(f"{' ' * indent}{what:<{_WIDTH}} {name}{f': {why}' if why else ''}")
    if document:
        print(f"{' ' * (indent + _WIDTH)}   from {document}")


def _refusal(holder: dict[str, Any], indent: int) -> None:
    refused = holder.get("refused")
    if refused is None:
        return
    status = f" with {refused['status']}" if "status" in refused else ""
    _line("REFUSED", f"{refused['code']}{status}", refused["reason"], refused.get("policy", ""), indent)
    if "remedy" in refused:
        print(f"{' ' * (indent + _WIDTH)}   {refused['remedy']}")
