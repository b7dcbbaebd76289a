"""Documents in, judgements across them out, as `headrace check` reads them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

import pytest

from headrace.config.documents import read_text
from headrace.config.judge import judge
from headrace.model.problem import Problem

Check = Callable[..., list[Problem]]


@pytest.fixture
def check() -> Check:
    """All problems of the documents of some texts, but those of their own schema, which must be none."""

    def run(*texts: str) -> list[Problem]:
        text = "\n---\n".join(textwrap.dedent(text).strip("\n") for text in texts) + "\n"
        found = judge([read_text(text, "file.yaml", "test")])
        broken = [problem for problem in found if problem.code in ("IST0106", "HR0003", "HR0004")]
        assert not broken, [problem.as_line() for problem in broken]
        return found

    return run
