"""The demo's course: start, shift the weights under load, eject a sick replica, report. Prints as it goes.

Called by `headrace demo`. Every figure printed is counted from what the client received.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from headrace.app.cli import CommandFailed
from headrace.app.demo.answers import AnswerLog, Tally
from headrace.app.demo.stage import V1, V2, Replicas, set_weights
from headrace.floor.places import Places

STEPS = ((95, 5), (80, 20), (50, 50), (0, 100))
_REFRESH = 0.25
_EJECTION_LIMIT = 20.0


@dataclass(slots=True)
class Row:
    """One line of the table: a name, what was asked for, what was counted."""

    name: str
    tally: Tally = field(default_factory=Tally)
    injected: bool = False


@dataclass(slots=True)
class Story:
    """A running demo. `directory` holds the documents, `seconds` is the length of each step."""

    places: Places
    directory: Path
    seconds: float
    console: Console
    rows: list[Row] = field(default_factory=list)
    _log: AnswerLog = field(init=False)
    _current: Row | None = None
    _injection: tuple[Row, float] | None = None
    """The row of the injected failures, and when these ended (seconds since the epoch)."""

    def __post_init__(self) -> None:
        self._log = AnswerLog(self.places.workload_log("default/client-0"))

    def tell(self) -> bool:
        """Run all of it; whether every request outside the injected failures succeeded."""
        self._sample()
        with self._live():
            for first, second in STEPS:
                self._end()
                set_weights(self.directory, first, second)
                self._begin(f"weights {first}/{second}")
                self._pause(self.seconds)
            ejection = self._eject()
        self._report(ejection)
        return not any(row.tally.failed for row in self.rows if not row.injected)

    def _sample(self) -> None:
        """Show one answer, as a person would want to see it."""
        deadline = time.monotonic() + 30.0
        while time.monotonic() < deadline:
            for answer in self._log.newer():
                if answer.ok:
                    self.console.print(f"\nan answer of {answer.model}, streamed: [italic]{answer.text.strip()}[/]\n")
                    return
            time.sleep(_REFRESH)
        raise CommandFailed(f"no answer within 30 s: see {self.places.logs}")

    @contextlib.contextmanager
    def _live(self) -> Iterator[None]:
        """The table, refreshed in place on a terminal; without one, a line after each step."""
        if self.console.is_terminal:
            with Live(get_renderable=self._table, console=self.console, refresh_per_second=4):
                yield
        else:
            yield

    def _begin(self, name: str, *, injected: bool = False) -> Row:
        row = Row(name, injected=injected)
        self.rows.append(row)
        self._current = row
        return row

    def _count(self) -> None:
        if self._current is None:
            return
        for answer in self._log.newer():
            row = self._current
            if not answer.ok and self._injection is not None and answer.started < self._injection[1]:
                row = self._injection[0]  # a stream that the sick server cut, however late that showed
            row.tally.add((answer,))

    def _end(self) -> None:
        self._count()
        row = self._current
        if row is not None and not self.console.is_terminal:
            tally = row.tally
            self.console.print(
                f"{row.name:34} sent {tally.sent:4}  failed {tally.failed:3}  {V1} {tally.share(V1):5.1f} %  "
                f"{V2} {tally.share(V2):5.1f} %",
                soft_wrap=True,
            )

    def _pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(_REFRESH, left))
            self._count()

    def _eject(self) -> dict[str, Any]:
        """Make a replica of version 2 answer 500 until the client's Envoy ejects it; watch it return."""
        replicas = Replicas(self.places)
        sick = replicas.of("model-v2")[0]
        address = str(sick["address"])
        self._end()
        row = self._begin(f"{sick['proxy']} answers 500", injected=True)
        replicas.make_sick(sick)
        started = time.monotonic()
        if not self._until(lambda: replicas.hosts()[address]["ejected"]):
            raise CommandFailed(f"{sick['proxy']} was not ejected within {_EJECTION_LIMIT:g} s: see {self.places.logs}")
        ejected_after = time.monotonic() - started
        self._injection = (row, time.time())
        self._pause(2 * _REFRESH)
        self._end()
        replicas.heal(sick)
        away = self._begin("ejected: the other one serves")
        before = last = replicas.hosts()[address]["requests"]

        def back() -> bool:
            nonlocal last
            host = replicas.hosts()[address]
            last = host["requests"] if host["ejected"] else last
            return not host["ejected"]

        returned = self._until(back)
        while_ejected = last - before
        away_seconds = time.monotonic() - started - ejected_after
        self._end()
        self._begin("it is back")
        self._pause(self.seconds / 2)
        self._end()
        return {
            "replica": sick["proxy"],
            "failed": row.tally.failed,
            "ejected_after": ejected_after,
            "away": away_seconds,
            "while_ejected": while_ejected,
            "returned": returned,
            "after": replicas.hosts()[address]["requests"] - before,
            "served_meanwhile": sum(away.tally.ok.values()),
        }

    def _until(self, condition: Any) -> bool:
        deadline = time.monotonic() + _EJECTION_LIMIT
        while time.monotonic() < deadline:
            if condition():
                return True
            time.sleep(0.05)
            self._count()
        return False

    def _table(self) -> Table:
        table = Table(title="requests of the client workload, by answering model")
        for heading in ("step", "sent", "failed", V1, V2, "first token p50"):
            table.add_column(heading, justify="left" if heading == "step" else "right")
        for row in self.rows:
            tally = row.tally
            first = tally.first_token_ms()
            table.add_row(
                row.name,
                str(tally.sent),
                f"{tally.failed}{' (injected)' if row.injected and tally.failed else ''}",
                f"{tally.share(V1):.1f} %",
                f"{tally.share(V2):.1f} %",
                "" if first is None else f"{first:.0f} ms",
            )
        return table

    def _report(self, ejection: dict[str, Any]) -> None:
        sent = sum(row.tally.sent for row in self.rows)
        failed = sum(row.tally.failed for row in self.rows if not row.injected)
        injected = sum(row.tally.failed for row in self.rows if row.injected)
        print_line = partial(self.console.print, soft_wrap=True)
        print_line(f"\nrequests sent: {sent}; failed: {failed} (outside the {injected} injected failures)")
        for row in self.rows:
            for error, count in row.tally.errors.most_common(3):
                print_line(f"  {row.name}: {count} × {error}", markup=False)
        total = Tally()
        for row in self.rows:
            total.ok.update(row.tally.ok)
        print_line(f"share of all answers: {V1} {total.share(V1):.1f} %, {V2} {total.share(V2):.1f} %")
        print_line(
            f"{ejection['replica']}: ejected {ejection['ejected_after']:.1f} s after it fell sick, away for "
            f"{ejection['away']:.1f} s with {ejection['while_ejected']} requests to it, then "
            + ("back" if ejection["returned"] else "[bold]not back[/]")
            + f" with {ejection['after'] - ejection['while_ejected']} requests so far"
        )
