"""Status of Gateway API documents: conditions, as the specification names them.

Made by the other files of this package, shown by `headrace get -o yaml`. Times and generations are added where they are
known (`app.control_plane.gateway_status`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ACCEPTED = "Accepted"
CONFLICTED = "Conflicted"
PROGRAMMED = "Programmed"
RESOLVED = "ResolvedRefs"

Status = dict[str, Any]
"""A document's `status` as plain data."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something is not as it was asked for: a reason of the specification, and words for people."""

    reason: str
    message: str

    def and_then(self, other: Refusal | None) -> Refusal:
        """This one, with another's words after its own."""
        return self if other is None else Refusal(self.reason, f"{self.message}; {other.message}")


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition: true or false, with its reason."""

    holds: bool
    reason: str
    message: str


@dataclass(slots=True)
class Conditions:
    """Conditions by type, while a document is judged."""

    found: dict[str, Condition] = field(default_factory=dict)

    def good(self, kind: str, reason: str, message: str) -> None:
        """The condition holds."""
        self.found[kind] = Condition(True, reason, message)

    def bad(self, kind: str, refusal: Refusal) -> None:
        """The condition does not hold."""
        self.found[kind] = Condition(False, refusal.reason, refusal.message)

    def settle(self, kind: str, refusal: Refusal | None, reason: str, message: str) -> None:
        """Bad where something is refused, good otherwise."""
        if refusal is None:
            self.good(kind, reason, message)
        else:
            self.bad(kind, refusal)

    def data(self) -> list[dict[str, str]]:
        """As they stand in a status: sorted by type."""
        return [
            {"type": kind, "status": str(item.holds), "reason": item.reason, "message": item.message}
            for kind, item in sorted(self.found.items())
        ]


def unmet(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(reason, message) of every condition anywhere in a status that is not as it should be, each once."""
    found: dict[tuple[str, str], None] = {}
    for part in (status, *status.get("listeners", ()), *status.get("parents", ()), *status.get("ancestors", ())):
        for item in part.get("conditions", ()):
            if (item["status"] == "False") != (item["type"] == CONFLICTED):
                found[item["reason"], item["message"]] = None
    return list(found)
