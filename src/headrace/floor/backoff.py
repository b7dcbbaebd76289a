"""Waiting times between tries: exponential, bounded, with jitter from a random source that is passed in."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass(slots=True)
class Backoff:
    """Successive delays in seconds: `first`, doubled each time up to `limit`, each shortened by up to `jitter`."""

    first: float
    limit: float
    jitter: float = 0.2
    source: random.Random = field(default_factory=random.Random)
    _tries: int = 0

    def next(self) -> float:
        """The delay before the next try."""
        delay = min(self.limit, self.first * 2.0 ** min(self._tries, 62))
        self._tries += 1
        return delay * (1.0 - self.jitter * self.source.random())

    def reset(self) -> None:
        """Start over with `first`, after something worked."""
        self._tries = 0
