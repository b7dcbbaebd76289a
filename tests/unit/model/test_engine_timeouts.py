"""Explicit timeouts of model servers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from headrace.model.engine_timeouts import engine_timeouts
from headrace.model.workload import Engine

PAGE = Path(__file__).parents[3] / "docs/reference/engine-timeouts.md"


@pytest.mark.parametrize("engine", list(Engine))
def test_every_engine_has_them_and_the_page_says_so(engine: Engine) -> None:
    found = engine_timeouts(engine.value)
    assert found is not None
    assert 0 < found.connect < found.idle < found.total
    (row,) = re.findall(rf"^\|[^|]*`{engine.value}`.*\|$", PAGE.read_text(), re.MULTILINE)
    assert [float(text) for text in re.findall(r"(\d+) s", row)] == [found.total, found.idle, found.connect]


def test_what_is_no_engine_has_none() -> None:
    assert engine_timeouts("") is None
    assert engine_timeouts("abacus") is None
