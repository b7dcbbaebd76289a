"""A clock that tests set, and an authority and identities to share."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.identity.authority import Authority
from headrace.model.identity import Identity


class SetClock:
    """A `Clock` that stands still until told."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.seconds = now

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def chat() -> Identity:
    return Identity("cluster.local", "default", "chat")


@pytest.fixture
def authority(tmp_path: Path, clock: SetClock) -> Authority:
    return Authority.open(tmp_path / "ca", "cluster.local", clock)
