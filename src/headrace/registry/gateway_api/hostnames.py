"""How host names of listeners and routes fit each other. A wildcard (`*`, `*.a.b`) stands for one or more labels.

Used by `attachment` and `routes`.
"""

from __future__ import annotations

from collections.abc import Iterable


def within(narrow: str, wide: str) -> bool:
    """Whether every name that `narrow` stands for is one of `wide`."""
    if narrow == wide or wide == "*":
        return True
    return wide.startswith("*") and len(narrow) >= len(wide) and narrow.removeprefix("*").endswith(wide[1:])


def overlap(one: str, other: str) -> bool:
    """Whether some name is one of both."""
    return within(one, other) or within(other, one)


def intersection(names: Iterable[str], listener: str) -> list[str]:
    """Of each name that overlaps the listener's the narrower of the two, in order."""
    found: dict[str, None] = {}
    for name in names:
        if within(name, listener):
            found[name] = None
        elif within(listener, name):
            found[listener] = None
    return list(found)
