"""When a process that ended is started again: at once the first time, then after growing waits. No I/O.

Used for applications and Envoys by `agent.lifecycle` and for the control plane by `agent.guardian`. The rule is
Kubernetes' (waits grow while a process keeps failing and start over after it ran well for a while), with shorter
times, because here somebody sits in front of it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from headrace.floor.backoff import Backoff


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Waits in seconds: `first`, doubled up to `limit`; they start over after a run of `stable_after`."""

    first: float = 0.5
    limit: float = 60.0
    stable_after: float = 60.0


class Supervision:
    """The restarts of one process. Times are monotonic seconds that the caller passes in."""

    def __init__(self, policy: RestartPolicy, source: random.Random) -> None:
        self._policy = policy
        self._backoff = Backoff(policy.first, policy.limit, source=source)
        self._since: float | None = None
        self._starting = False
        self._due = 0.0
        self.restarts = 0
        """How often it was started again after an end that nobody asked for."""
        self.reason = ""
        """Why it ended last, for people; empty before the first end."""

    @property
    def running(self) -> bool:
        return self._since is not None

    @property
    def waiting(self) -> bool:
        """Whether it ended by itself and was not started again yet."""
        return bool(self.reason) and not self.running

    def due(self, now: float) -> bool:
        """Whether it should be started now."""
        return not self.running and not self._starting and now >= self._due

    def next_due(self) -> float | None:
        """When it should be started; None while it runs or is being started."""
        return None if self.running or self._starting else self._due

    def starting(self) -> None:
        """A start is under way; `started` or `ended` follows."""
        self._starting = True

    def started(self, now: float) -> None:
        """It runs since `now`."""
        if self.reason:
            self.restarts += 1
        self._starting, self._since = False, now

    def adopted(self, now: float, restarts: int) -> None:
        """It was found running, started by an earlier agent that counted `restarts`."""
        self._starting, self._since, self.restarts = False, now, restarts

    def ended(self, now: float, reason: str) -> None:
        """It ended, or could not be started; sets when it is due again."""
        ran = now - self._since if self._since is not None else 0.0
        if self._since is not None and ran >= self._policy.stable_after:
            self._backoff.reset()
        self._due = now + self._backoff.next()
        self._starting, self._since, self.reason = False, None, reason
