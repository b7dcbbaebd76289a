"""How fast requests without arrival times come by default: at about 70 % of what the pool carries.

Called by `headrace simulate`. The estimate of `simulate_arrivals.capacity` holds where caches have room for prompts
that come again. Long contexts leave none, and the batches they allow are small: so the rate is tried, and where
requests wait for long, what the pool carries is searched for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from headrace.inference.simulate import Objectives, PoolSettings, simulate
from headrace.inference.simulate_arrivals import capacity
from headrace.inference.traces import TraceRequest

LOAD = 0.7
"""Share of what the pool carries."""
_SOON = 1.0
_PATIENCE = 2.0
_IDLE = 0.05
_TRIES = 5


def default_rate(
    requests: Sequence[TraceRequest],
    timed: Callable[[float], Sequence[TraceRequest]],
    settings: PoolSettings,
) -> float:
    """Requests a second. `timed` gives the requests with the times that they have at a rate.

    It is 70 % of the estimate where a pool of predicted-drain carries that: the mean time to the first token is below
    a second, or at most twice that of a nearly idle pool. Else it is 70 % of the highest rate found that is carried.
    """

    def run(rate: float) -> dict[str, float]:
        return simulate(timed(rate), "predicted-drain", replace(settings, routers=1), Objectives()).figures

    estimate = capacity(requests, settings.workers, settings.kv_tokens, settings.sequences)
    tried = run(LOAD * estimate)
    if tried["ttft_mean_s"] <= _SOON:
        return LOAD * estimate
    low = _IDLE * estimate
    patience = max(_SOON, _PATIENCE * run(low)["ttft_mean_s"])
    if tried["ttft_mean_s"] <= patience:
        return LOAD * estimate
    high = min(LOAD * estimate, len(requests) / tried["span_s"])
    for _ in range(_TRIES):
        middle = (low * high) ** 0.5
        if run(middle)["ttft_mean_s"] <= patience:
            low = middle
        else:
            high = middle
    return LOAD * low
