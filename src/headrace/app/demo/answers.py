"""What the demo's client saw: its log, read as it grows, and counted by version.

The client (examples/canary/client.py) writes one JSON line for each request it made.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Answer:
    """One request: when it started (seconds since the epoch), whether the whole answer came, which model gave it.

    `first_token` in seconds (None: none came), `text` the answer, `error` why there is none.
    """

    started: float
    ok: bool
    model: str
    status: int
    first_token: float | None
    text: str
    error: str

    @classmethod
    def parse(cls, line: str) -> Answer | None:
        """The answer that a line tells of; None for a line that is not one of the client's."""
        try:
            data = json.loads(line)
            return cls(
                started=float(data["started"]),
                ok=bool(data["ok"]),
                model=str(data.get("model", "")),
                status=int(data.get("status", 0)),
                first_token=data.get("first_token"),
                text=str(data.get("text", "")),
                error=str(data.get("error", "")),
            )
        except (ValueError, TypeError, KeyError):
            return None


class AnswerLog:
    """Reads the client's log from where it left off; half-written lines wait for their rest."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""

    def newer(self) -> list[Answer]:
        """The answers since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        answers = (Answer.parse(line.decode("utf-8", "replace")) for line in lines)
        return [answer for answer in answers if answer is not None]


@dataclass(slots=True)
class Tally:
    """Counts of one stage, or of all."""

    ok: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    first_tokens: list[float] = field(default_factory=list)

    def add(self, answers: Iterable[Answer]) -> None:
        for answer in answers:
            if answer.ok:
                self.ok[answer.model] += 1
                if answer.first_token is not None:
                    self.first_tokens.append(answer.first_token)
            else:
                self.failed += 1
                self.errors[answer.error or "?"] += 1

    @property
    def sent(self) -> int:
        return sum(self.ok.values()) + self.failed

    def share(self, model: str) -> float:
        """Percentage of the answers that came from `model`."""
        total = sum(self.ok.values())
        return 100.0 * self.ok[model] / total if total else 0.0

    def first_token_ms(self) -> float | None:
        """Median time to the first token in milliseconds."""
        ordered = sorted(self.first_tokens)
        return ordered[len(ordered) // 2] * 1000 if ordered else None
