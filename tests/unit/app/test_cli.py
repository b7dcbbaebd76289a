"""The command line's promises: exit codes, one line for every error, no command imported before it is asked for."""

import subprocess
import sys

import pytest

from headrace.app.cli import COMMANDS


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headrace", *words], capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["check", "--nonsense", "x"], "No such option: --nonsense"),
        (["get"], "Missing argument"),
        (["up", "--timeout", "soon"], "--timeout"),
        (["check", "-o", "xml", "x"], "'xml' is not one of"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(words: list[str], said: str) -> None:
    ended = run(*words)
    assert ended.returncode == 2
    assert said in ended.stderr and "--help" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert not ended.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["up", "/no/such/directory"], "no such file or directory"),
        (["get", "vs", "--state", "/no/such/state"], "no mesh runs at"),
        (["down", "--state", "/no/such/state"], "no mesh runs at"),
        (["apply", "-f", "/no/such/file"], "no such file or directory"),
        (["control-plane", "--state", "/proc/none"], "/proc/none"),
    ],
)
def test_failures_are_one_line_and_exit_code_1(words: list[str], said: str) -> None:
    ended = run(*words)
    assert ended.returncode == 1
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert "Traceback" not in ended.stderr


def test_help_lists_every_command_and_imports_none() -> None:
    listed = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "headrace", "--help"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert all(f"  {name}" in listed.stdout for name in COMMANDS)
    imported = {line.rpartition("|")[2].strip() for line in listed.stderr.splitlines()}
    assert not imported & {f"headrace.app.cli.{module}" for module, _ in COMMANDS.values()}
    assert not imported & {"grpc", "pydantic", "cryptography", "yaml", "aiohttp"}


def test_no_command_shows_help_with_exit_code_2() -> None:
    ended = run()
    assert ended.returncode == 2
    assert "Commands:" in ended.stderr
