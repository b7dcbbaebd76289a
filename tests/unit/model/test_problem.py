"""How a problem is written on one line."""

from __future__ import annotations

from headrace.model.problem import Problem, Severity


def problem(line: int) -> Problem:
    return Problem("a.yaml", line, "HR0004", Severity.ERROR, "", "", "", "", "does not exist", "Check the path.")


def test_only_a_place_within_a_file_has_a_line() -> None:
    assert problem(0).as_line() == "a.yaml: error HR0004: does not exist. Check the path."
    assert problem(3).as_line() == "a.yaml:3: error HR0004: does not exist. Check the path."
