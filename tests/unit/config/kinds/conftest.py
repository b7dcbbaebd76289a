"""Reading one document in a test: its text in, the verdict out, with the line that a mark in the text names."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from headrace.config.documents import read_text
from headrace.config.schema import validate
from headrace.model.problem import Problem, Severity

MARK = "# <<"


@dataclass(frozen=True)
class Verdict:
    """What became of one document; `marked` is the 1-based line that ends with `# <<`, 0 where none does."""

    resource: Any
    problems: tuple[Problem, ...]
    marked: int

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.severity is Severity.ERROR]

    @property
    def codes(self) -> list[tuple[str, str]]:
        """(code, field) of every problem."""
        return [(problem.code, problem.field) for problem in self.problems]


Judge = Callable[[str], Verdict]


@pytest.fixture
def judge() -> Judge:
    """Judges the one document of a text."""

    def run(text: str) -> Verdict:
        text = textwrap.dedent(text).lstrip("\n")
        marked = next((at for at, line in enumerate(text.splitlines(), 1) if line.endswith(MARK)), 0)
        result = read_text(text, "file.yaml", "test")
        assert not result.problems, result.problems
        (document,) = result.documents
        validated = validate(document)
        return Verdict(validated.resource, validated.problems, marked)

    return run
