"""The reference pages say all that the code does: every code, every kind, every field that is not translated yet."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from headrace.config import documents, schema
from headrace.config.analysis.codes import Code
from headrace.config.kinds import MODULES, kind_named
from headrace.config.kinds.istio_names import SCHEMA_WARNING

REFERENCE = Path(__file__).parents[4] / "docs" / "reference"
ANALYSIS = (REFERENCE / "analysis.md").read_text()
KINDS = (REFERENCE / "kinds.md").read_text()


@pytest.mark.parametrize("code", Code, ids=lambda code: code.code)
def test_every_judgement_has_an_entry(code):
    assert f"### {code.code} {code.title} ({code.severity})" in ANALYSIS


def test_every_code_of_single_documents_has_an_entry():
    own = [
        value for name, value in vars(schema).items() if name.isupper() and re.fullmatch(r"(HR|IST)\d{4}", str(value))
    ]
    assert len(own) > 4
    for code in [*own, documents.UNREADABLE, SCHEMA_WARNING]:
        assert f"### {code} " in ANALYSIS


@pytest.mark.parametrize(("group", "name"), MODULES, ids=lambda part: part)
def test_every_kind_is_described(group, name):
    kind = kind_named(group, name)
    rows = [row for row in KINDS.splitlines() if row.startswith("|") and re.search(rf"\b{name}\b", row.split("|")[1])]
    assert rows, name
    for version in kind.versions:
        assert re.search(rf"\b{version}\b", rows[0]), (name, version)


@pytest.mark.parametrize(("group", "name"), MODULES, ids=lambda part: part)
def test_every_field_that_is_not_translated_is_named(group, name):
    kind = kind_named(group, name)
    if kind.group not in ("networking.istio.io", "security.istio.io"):
        return
    for pattern in kind.untranslated:
        field = re.sub(r"^spec\.(subsets\[\]\.)?trafficPolicy\.(portLevelSettings\[\]\.)?", "", pattern)
        assert f"`{field}`" in KINDS, pattern
