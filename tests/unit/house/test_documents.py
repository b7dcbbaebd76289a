"""What the documents name is there: make targets, commands, files and links."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from tests.unit.house import cli_reference

from headrace.app.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
)
TOP = "src|tests|docs|examples|benchmarks|native|proto|.ci"
CODE = re.compile(r"`([^`\n]+)`")
BLOCK = re.compile(r"^```[a-z]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
REPOSITORY_PATH = re.compile(rf"^(?:{TOP})/[\w./-]*$")


def text(page: str) -> str:
    return (ROOT / page).read_text()


def snippets(page: str) -> list[str]:
    """Every piece of code: inline, and each line of a block without its comment."""
    content = text(page)
    lines = [line.split("#")[0] for block in BLOCK.findall(content) for line in block.splitlines()]
    return [*CODE.findall(BLOCK.sub("", content)), *lines]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_exist(page: str) -> None:
    named = {target for code in snippets(page) for target in re.findall(r"(?:^|\s)make ([a-z-]+)", code)}
    assert named <= make_targets()


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page: str) -> None:
    named = {name for code in snippets(page) for name in re.findall(r"(?:^|\s|/)headrace ([a-z][a-z-]+)", code)}
    assert named <= set(COMMANDS)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    links = {link.split("#")[0] for link in LINK.findall(text(page)) if "://" not in link and not link.startswith("#")}
    assert {link for link in links if not (folder / link).exists()} == set()


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page: str) -> None:
    named = {word for code in snippets(page) for word in code.split() if REPOSITORY_PATH.match(word)}
    assert {path for path in named if not (ROOT / path).exists()} == set()


def test_the_readme_opens_with_the_two_commands() -> None:
    blocks = BLOCK.findall(text("README.md"))
    assert re.findall(r"^make [a-z]+", blocks[0], re.MULTILINE) == ["make demo", "make test"]


def test_ci_runs_make_test() -> None:
    assert text(".ci/run").rstrip().endswith("\nmake test")


@pytest.mark.parametrize("target", sorted(make_targets()))
def test_make_can_plan_every_target(target: str) -> None:
    plan = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert plan.returncode == 0, plan.stderr


def test_the_reference_of_commands_is_what_the_commands_say() -> None:
    page = text("docs/reference/cli.md")
    assert page == cli_reference.reference(), "run `make docs`"
    assert set(cli_reference.headings()) <= set(page.splitlines())


def test_every_command_has_a_line_of_help_and_a_module() -> None:
    for name, (module, line) in COMMANDS.items():
        assert (ROOT / "src/headrace/app/cli" / f"{module}.py").is_file(), name
        assert line.endswith("."), name


@pytest.mark.parametrize("example", sorted(path.name for path in (ROOT / "examples").iterdir() if path.is_dir()))
def test_every_example_is_run_by_a_test_and_listed(example: str) -> None:
    mention = re.compile(rf"examples\W+(?:/ )?\W*{re.escape(example)}\b")
    tests = [path for path in (ROOT / "tests").rglob("test_*.py") if mention.search(path.read_text())]
    assert tests, f"no test mentions examples/{example}"
    assert f"examples/{example}" in text("README.md")
