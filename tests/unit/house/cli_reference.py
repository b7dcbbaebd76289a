"""Writes docs/reference/cli.md from the commands themselves (`make docs`); a test compares the two."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args

import typer

from headrace.app.cli import COMMANDS

OPENING = """\
# Commands

<!-- Written by `make docs` from the commands' own help. -->

`headrace COMMAND --help` says the same. Data goes to standard output, in the format that `-o table|json|yaml` names;
errors go to standard error, one line with a remedy (`headrace --debug COMMAND` adds the traceback). Exit codes: 0
success, 1 the answer is no or something failed, 2 wrong usage.
"""
NOT_OURS = {"install_completion", "show_completion", "help"}


def reference() -> str:
    """The whole page."""
    parts = [OPENING]
    for name, (module, line) in COMMANDS.items():
        command = typer.main.get_command(importlib.import_module(f"headrace.app.cli.{module}").app)
        commands = getattr(command, "commands", None)
        if commands is None:
            parts.append(section(f"headrace {name}", command))
            continue
        parts.append(f"## headrace {name}\n\n{line}\n")
        parts += [section(f"headrace {name} {sub}", commands[sub], "###") for sub in commands]
    return "\n".join(parts)


def section(name: str, command: Any, heading: str = "##") -> str:
    """One command: usage, what it does, its arguments and options."""
    shown = [parameter for parameter in command.params if parameter.name not in NOT_OURS and not parameter.hidden]
    arguments = [parameter for parameter in shown if is_argument(parameter)]
    options = [parameter for parameter in shown if not is_argument(parameter)]
    usage = " ".join([name, *(["[OPTIONS]"] if options else []), *(argument_usage(entry) for entry in arguments)])
    lines = [f"{heading} {name}", "", inspect.cleandoc(command.help or "").replace("\f", "").strip(), ""]
    lines += ["```", usage, "```", ""]
    if shown:
        lines += ["| | default | |", "|---|---|---|"]
        lines += [f"| {row_name(entry)} | {default(entry)} | {one_line(entry.help)} |" for entry in arguments + options]
        lines.append("")
    return "\n".join(lines)


def is_argument(parameter: Any) -> bool:
    return not any(name.startswith("-") for name in parameter.opts)


def argument_usage(parameter: Any) -> str:
    name = argument_name(parameter) + ("..." if parameter.nargs == -1 else "")
    return name if parameter.required else f"[{name}]"


def argument_name(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name).upper().rstrip(".")


def row_name(parameter: Any) -> str:
    if is_argument(parameter):
        return f"`{argument_name(parameter)}`"
    names = [*parameter.opts, *parameter.secondary_opts]
    value = "" if getattr(parameter, "is_flag", False) else " " + kind(parameter)
    return ", ".join(f"`{name}{value}`" for name in names)


def kind(parameter: Any) -> str:
    if parameter.metavar:
        return str(parameter.metavar)
    annotation = parameter.type_descriptor.annotation
    if get_args(annotation):  # list[Path]: the option may be given several times
        annotation = get_args(annotation)[0]
    name = getattr(annotation, "__name__", str(annotation))
    return {"str": "TEXT", "int": "NUMBER", "float": "NUMBER", "Path": "PATH"}.get(name, name.upper())


def default(parameter: Any) -> str:
    value = parameter.default
    if isinstance(value, Enum):
        value = value.value
    if parameter.required:
        return "required"
    if callable(value) or value is None or value is False or value in ("", [], ()):
        return ""
    return "`on`" if value is True else f"`{value}`"


def one_line(text: str | None) -> str:
    return " ".join((text or "").replace("|", "\\|").split())


def headings() -> Iterator[str]:
    """The headings that the page must hold."""
    return (f"## headrace {name}" for name in COMMANDS)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference())
