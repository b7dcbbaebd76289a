"""docs/ARCHITECTURE.md says where each kind is: no kind is missing, and every file that a row names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from headrace.config.kinds import MODULES

ROOT = Path(__file__).resolve().parents[3]
ROOM = ROOT / "src" / "headrace"
COLUMNS = ("model", "config/kinds", "config/analysis", "envoy/translate")
ROOMS = ("app/", "registry/", "envoy/")


def rows() -> list[list[str]]:
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    table = text.split("## Where is a kind?")[1].split("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_every_file_of_a_row_exists(row: list[str]) -> None:
    named = [
        name if name.startswith(ROOMS) else f"{folder}/{name}"
        for folder, cell in zip(COLUMNS, row[1:], strict=True)
        for name in re.findall(r"`([^`]+)`", cell)
    ]
    assert [name for name in named if not (ROOM / name).exists()] == []


def test_every_kind_has_a_row_that_names_the_module_of_its_fields() -> None:
    where: dict[str, str] = {}
    for row in rows():
        for kind in re.sub(r"\(.*\)", "", row[0]).split(","):
            where[kind.strip()] = where.get(kind.strip(), "") + row[2]
    lost = [
        kind
        for (_, kind), module in MODULES.items()
        if f"`{module}.py`" not in where.get(kind, "") and f"`{module.partition('.')[0]}/`" not in where.get(kind, "")
    ]
    assert lost == []
