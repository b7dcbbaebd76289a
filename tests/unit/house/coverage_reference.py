"""Writes docs/reference/coverage.md from the models and what lowering does with them (`make docs`)."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.unit.house.coverage_fields import DOES, NOTHING, REJECTED, UNSUPPORTED, Row, kinds, rows, samples

VERDICTS = (DOES, NOTHING, UNSUPPORTED, REJECTED)
OPENING = """\
# Coverage

<!-- Written by `make docs` from the models of config.kinds; tests/unit/house/coverage_fields.py says how. -->

Every field that a document of each kind may have, and what becomes of it:

- **does**: the kind's lowering reads it; what is read is translated, or run.
- **no effect**: it is accepted and does nothing here. HR0002 warns, but where nobody could be misled.
- **not supported**: it is accepted and ignored; HR0001 warns.
- **rejected**: the field is known, and a document that sets it is refused (IST0106), with a remedy.

A field that is not in the table is unknown: the document is refused, and told the nearest name. Paths are written as in
HR0001 and HR0002: `[]` is every item of a list, `.*` every key of a map. A field that stands in several places of one
kind is one row; the counts are of all places.
"""


def reference() -> str:
    """The whole page."""
    known = samples()
    sections: list[str] = []
    table: list[str] = ["| kind | fields | " + " | ".join(VERDICTS) + " |", "|---|---|" + "---|" * len(VERDICTS)]
    total: Counter[str] = Counter()
    for kind in sorted(kinds(), key=lambda kind: (kind.group == "", kind.group, kind.name)):
        found = rows(kind, known)
        count = Counter(row.verdict for row in found)
        total += count
        table.append(line(kind.name if not kind.group else f"{kind.name} ({kind.group})", count))
        sections.append(section(kind.name, kind.group, found))
    table.append(line("**all**", total))
    return "\n".join([OPENING, *table, "", *sections])


def line(name: str, count: Counter[str]) -> str:
    cells = " | ".join(str(count[verdict]) if count[verdict] else "" for verdict in VERDICTS)
    return f"| {name} | {sum(count.values())} | {cells} |"


def section(name: str, group: str, found: Iterable[Row]) -> str:
    lines = [f"## {name} ({group or 'core'})", "", "| field | | why |", "|---|---|---|"]
    merged: dict[tuple[str, str, str], list[str]] = {}
    for row in found:
        end = ".".join(row.path.split(".")[-2:])
        merged.setdefault((end if row.verdict == DOES else row.path, row.verdict, row.why), []).append(row.path)
    for (_, verdict, why), paths in merged.items():
        more = f" (and {len(paths) - 1} more)" if len(paths) > 1 else ""
        lines.append(f"| `{paths[0]}`{more} | {verdict} | {' '.join(why.replace('|', '/').split())} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference())
