"""docs/reference/coverage.md cannot lie: every field that documents may have is tried, and what is said of it holds."""

from __future__ import annotations

from pathlib import Path

from tests.unit.house.coverage_fields import DOES, QUIET, UNPROVEN, is_named, kinds, rows, samples
from tests.unit.house.coverage_reference import reference

KNOWN = samples()
ROWS = {kind.key_kind: (kind.name, rows(kind, KNOWN)) for kind in kinds()}


def test_every_field_does_something_or_says_why_not() -> None:
    silent = [f"{name}: {row.path}" for name, found in ROWS.values() for row in found if row.verdict == UNPROVEN]
    assert silent == [], (
        "lowering does not read these fields and nothing says so: translate them, declare them in the Kind's "
        "untranslated or without_effect, or show them in company in tests/unit/house/coverage/"
    )


def test_quiet_fields_are_still_there_and_still_quiet() -> None:
    quiet = {
        item
        for item, _ in QUIET
        for name, found in ROWS.values()
        for row in found
        if row.verdict != DOES and is_named((item,), f"{name}: {row.path}")
    }
    assert quiet == {item for item, _ in QUIET}


def test_the_page_is_current() -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "reference" / "coverage.md"
    assert page.read_text() == reference(), "run `make docs`"
