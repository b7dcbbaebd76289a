"""A fault of ours in one judgement is told, and the others go on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from headrace.config import analysis
from headrace.config.analysis.index import Index
from headrace.config.documents import read_text
from headrace.config.judge import judge
from headrace.model.problem import Problem

LOST = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: lost}
spec: {hosts: [a.example], http: [{route: [{destination: {host: nowhere}}]}]}
"""


def judge_nothing(index: Index) -> Iterator[Problem]:
    yield from ()
    raise ZeroDivisionError


def test_a_judgement_that_fails_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    before = judge([read_text(LOST, "file.yaml", "test")])
    monkeypatch.setattr(analysis, "_JUDGEMENTS", (judge_nothing, *analysis._JUDGEMENTS))
    after = judge([read_text(LOST, "file.yaml", "test")])
    assert "IST0101" in {problem.code for problem in before}
    (fault,) = set(after) - set(before)
    assert set(before) <= set(after)
    assert (fault.code, fault.file, fault.line) == ("IST0001", "file.yaml", 1)
    assert "ZeroDivisionError in judge_nothing" in fault.message
