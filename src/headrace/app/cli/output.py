"""How commands print data: `-o table|json|yaml`, the same for every command.

Called by every command that prints data (contract.md: "-o table|json|yaml").
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer


class Format(StrEnum):
    """The three output formats."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


FormatOption = Annotated[Format, typer.Option("-o", "--output", help="table, json or yaml")]


def print_data(data: Any, output: Format) -> None:
    """Print `data` (lists, dicts, strings, numbers) as JSON or YAML on standard output."""
    if output is Format.YAML:
        import yaml

        yaml.safe_dump(data, sys.stdout, sort_keys=False, allow_unicode=True)
    else:
        json.dump(data, sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[tuple[str, str]], output: Format) -> None:
    """Print rows; `columns` are (key, heading) of the table. JSON and YAML carry every key, not only the columns."""
    if output is not Format.TABLE:
        print_data([dict(row) for row in rows], output)
        return
    cells = [[heading for _, heading in columns]]
    cells += [["" if row.get(key) is None else str(row.get(key)) for key, _ in columns] for row in rows]
    widths = [max(len(line[at]) for line in cells) for at in range(len(columns))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
