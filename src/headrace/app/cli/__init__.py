"""The command line: `headrace COMMAND`, one file a command, each imported only when it is asked for.

Called by the console script. `headrace --help` imports no command at all, so it answers at once.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from headrace import __version__

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo", "Run the canary example with real requests and watch the split."),
    "up": ("up", "Run the mesh that a directory of documents describes."),
    "down": ("down", "Stop the mesh of a state directory."),
    "agent": ("agent", "Run this host's agent (started by `up`)."),
    "control-plane": ("control_plane", "Run the control plane (started by the agent)."),
    "apply": ("apply", "Bring documents into the running mesh."),
    "get": ("get", "Show documents in force."),
    "delete": ("delete", "Take documents out of the running mesh."),
    "describe": ("describe", "Explain what applies to a service, workload or route, and from which document."),
    "check": ("check", "Judge documents without a running mesh."),
    "translate": ("translate", "Print what one proxy would be sent, offline."),
    "trace": ("trace", "Follow one request through the mesh, offline, and say why."),
    "proxy": ("proxy", "Look at proxies: status, config, logs."),
    "ca": ("ca", "Certificates: list, inspect, revoke, rotate-root."),
    "token": ("token", "Join tokens of other hosts: create, list, delete."),
    "simulate": ("simulate", "Compare ways of choosing a model server on a workload."),
    "model-server": ("model_server", "Run a model server: simulated, or llama.cpp with a small model."),
}
"""Command → (module below headrace.app.cli, one line of help). A module has `app`, a typer.Typer."""


class CommandFailed(Exception):
    """A command's answer is "no" or it failed: one line for standard error (with a remedy), exit code 1."""


class _LazyGroup(TyperGroup):
    """Knows every command's name and help line, loads its module when it runs.

    `Any` stands for typer's own copies of click's types, which it does not publish.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"headrace.app.cli.{COMMANDS[cmd_name][0]}")
        command = typer.main.get_command(module.app)
        command.name = cmd_name
        return command

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write_usage("headrace", "COMMAND [OPTIONS] ...")
        formatter.write_paragraph()
        formatter.write_text("A service mesh for AI inference: Istio's YAML, real Envoys, one machine or many.")
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])
        with formatter.section("Options"):
            formatter.write_dl(
                [
                    ("--debug", "Show tracebacks."),
                    ("--version", "Show the version and exit."),
                    ("COMMAND --help", "Help of one command."),
                ]
            )


def _version(value: bool) -> None:
    if value:
        print(f"headrace {__version__}")
        raise typer.Exit


app = typer.Typer(cls=_LazyGroup, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def _root(
    debug: bool = typer.Option(False, "--debug", help="Show tracebacks."),
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    if debug:
        os.environ["HEADRACE_DEBUG"] = "1"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 success, 1 "no" or failed, 2 wrong usage (contract.md)."""
    try:
        code = app(args=None if arguments is None else list(arguments), prog_name="headrace", standalone_mode=False)
    except CommandFailed as failure:
        _fail(str(failure), 1)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as failure:  # the edge of the program: one line for people, the traceback on request
        usage = getattr(failure, "format_message", None)  # typer's own usage errors, whose types it does not publish
        if usage is not None:
            if type(failure).__name__ == "NoArgsIsHelpError":
                print(usage(), file=sys.stderr)
                sys.exit(2)
            _fail(_usage_line(failure, usage()), 2)
        if os.environ.get("HEADRACE_DEBUG"):
            traceback.print_exc()
        _fail(f"unexpected {type(failure).__name__}: {failure}. Run again with --debug for the traceback.", 1)
    sys.exit(code if isinstance(code, int) else 0)


def _usage_line(failure: Any, message: str) -> str:
    """What is wrong with the words of the command line, and where its help is, in one line."""
    context = getattr(failure, "ctx", None)
    command = context.command_path if context is not None else "headrace"
    return f"{' '.join(message.split()).rstrip('.')}: see `{command} --help`"


def _fail(line: str, code: int) -> NoReturn:
    print(f"headrace: {line}", file=sys.stderr)
    sys.exit(code)
