"""Run a workload through the scheduler against simulated model servers, and compare policies.

Called by `headrace simulate` and benchmarks/simulate.py. The work is done by the native module's simulator, which runs
the very scheduler that decides live; without wall time, so a result depends on its inputs and the seed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from headrace.inference.traces import BLOCK_TOKENS, TraceRequest

POLICIES = {
    "predicted-drain": "soonest predicted first token (default)",
    "least-request": "fewest requests in flight",
    "round-robin": "one after the other",
    "prefix": "longest cached prefix",
    "random-two": "the less loaded of two random ones",
    "gie": "the Gateway API Inference Extension's default, for comparison",
    "token-aware": "llm-d's token-aware choice, for comparison",
    "greedy": "perfect information of every engine, for comparison",
}
"""Policy → what it does."""
_EVENTS = 50_000
_PAGE_TOKENS = 16


class CoreMissing(Exception):
    """The native extension was not built; the message says what to do."""


class CannotServe(Exception):
    """A request of the workload can never be served; `request` is its place in the workload."""

    def __init__(self, request: int) -> None:
        super().__init__(f"request {request} needs more than the KV cache")
        self.request = request


def native_core() -> Any:
    """`headrace._native.core`; CoreMissing where it was not built."""
    try:
        return import_module("headrace._native.core")
    except ImportError as error:
        raise CoreMissing(
            "the native extension headrace._native.core is not there: install Rust 1.83 or newer (cargo) and install "
            "headrace again"
        ) from error


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """What is simulated. `scrape`: seconds between two looks at metrics, for policies that use them. `token_error`:
    routers see token counts that are off by up to this share. `slowness`: factor of each worker (missing ones: 1).
    """

    workers: int = 8
    routers: int = 1
    seed: int = 0
    scrape: float = 0.05
    sequences: int = 256
    step_tokens: int = 2048
    kv_tokens: int = 400_000
    token_error: float = 0.0
    slowness: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Objectives:
    """What a request keeps to count as good: seconds to the first token, mean seconds between tokens."""

    ttft: float = 2.0
    itl: float = 0.1


@dataclass(frozen=True, slots=True)
class Result:
    """One policy's figures (seconds, shares from 0 to 1), and each request's seconds to the first token."""

    policy: str
    figures: dict[str, float]
    first_tokens: tuple[float, ...]

    def as_data(self) -> dict[str, Any]:
        """The figures as they are printed: to the microsecond."""
        rounded = {name: round(value, 6) if isinstance(value, float) else value for name, value in self.figures.items()}
        return {"policy": self.policy, **rounded}


def fits(request: TraceRequest, kv_tokens: int) -> bool:
    """Whether a KV cache of so many tokens can hold the request, with the page that its last token may begin."""
    return max(request.prompt, 1) + max(request.answer, 1) + _PAGE_TOKENS <= kv_tokens


def simulate(
    requests: Sequence[TraceRequest],
    policy: str,
    settings: PoolSettings,
    objectives: Objectives,
    progress: Callable[[int], None] = lambda done: None,
) -> Result:
    """One policy on one workload. `progress` is told now and then how many requests are done.

    CannotServe where a request needs more than the KV cache; ValueError where a setting makes no sense.
    """
    core = native_core()
    for place, one in enumerate(requests):
        if not fits(one, settings.kv_tokens):
            raise CannotServe(place)
    arrivals = [(one.at, one.prompt, one.answer, list(one.blocks)) for one in requests]
    run = core.TrafficSimulation(arrivals, _arguments(policy, settings))
    while not run.advance(_EVENTS):
        progress(run.done)
    return Result(policy, run.summary(objectives.ttft, objectives.itl), tuple(run.first_tokens()))


def compare(
    requests: Sequence[TraceRequest], policies: Iterable[str], settings: PoolSettings, objectives: Objectives
) -> list[Result]:
    """All `policies` on one workload."""
    return [simulate(requests, policy, settings, objectives) for policy in policies]


def _arguments(policy: str, settings: PoolSettings) -> dict[str, Any]:
    return {
        "policy": policy,
        "workers": settings.workers,
        "routers": settings.routers,
        "seed": settings.seed & ((1 << 64) - 1),
        "scrape": settings.scrape,
        "sequences": settings.sequences,
        "step_tokens": settings.step_tokens,
        "kv_tokens": settings.kv_tokens,
        "block_tokens": BLOCK_TOKENS,
        "token_error": settings.token_error,
        "slowness": list(settings.slowness),
    }
