"""Back-off: doubling, bounded, shortened by jitter only."""

import random

from headrace.floor.backoff import Backoff


def test_delays_double_up_to_the_limit() -> None:
    backoff = Backoff(0.5, 4.0, jitter=0.0)
    assert [backoff.next() for _ in range(5)] == [0.5, 1.0, 2.0, 4.0, 4.0]
    backoff.reset()
    assert backoff.next() == 0.5


def test_jitter_only_shortens_and_many_tries_stay_bounded() -> None:
    backoff = Backoff(1.0, 8.0, jitter=0.25, source=random.Random(7))
    delays = [backoff.next() for _ in range(2000)]
    assert all(0.75 <= delay <= 8.0 for delay in delays)
    assert min(delays[10:]) < 6.5 < 7.5 < max(delays[10:])
