"""When a process that ended is started again."""

from __future__ import annotations

import random

import pytest

from headrace.agent.supervision import RestartPolicy, Supervision


class NoJitter(random.Random):
    def random(self) -> float:
        return 0.0


def supervision() -> Supervision:
    return Supervision(RestartPolicy(first=1.0, limit=8.0, stable_after=60.0), NoJitter())


def crash(item: Supervision, now: float, ran: float = 0.0) -> float:
    """Start at `now`, end after `ran` seconds; when it is due again."""
    item.starting()
    item.started(now)
    item.ended(now + ran, "exited with code 1")
    due = item.next_due()
    assert due is not None
    return due - now - ran


def test_the_first_start_is_due_at_once_and_only_once() -> None:
    item = supervision()
    assert item.due(0.0)
    item.starting()
    assert not item.due(100.0) and item.next_due() is None
    item.started(0.0)
    assert item.running and not item.due(100.0)


def test_waits_grow_up_to_the_limit_while_it_keeps_failing() -> None:
    item = supervision()
    assert [crash(item, 100.0 * step) for step in range(6)] == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert item.restarts == 5 and item.waiting and item.reason == "exited with code 1"


def test_waits_start_over_after_a_long_run() -> None:
    item = supervision()
    crash(item, 0.0)
    crash(item, 10.0)
    assert crash(item, 100.0, ran=59.0) == 4.0
    assert crash(item, 1000.0, ran=60.0) == 1.0


def test_a_failed_start_counts_like_a_crash() -> None:
    item = supervision()
    item.starting()
    item.ended(5.0, "no such program")
    assert not item.due(5.9) and item.due(6.0)
    item.starting()
    item.ended(6.0, "no such program")
    assert item.next_due() == pytest.approx(8.0)
    assert item.restarts == 0, "it never ran"


def test_an_adopted_process_keeps_its_count() -> None:
    item = supervision()
    item.adopted(0.0, 3)
    assert item.running and item.restarts == 3 and not item.waiting
