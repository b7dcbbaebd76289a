"""Arrivals that are made, not recorded: Poisson times for lengths without times, sessions drawn from distributions.

Called by `headrace simulate` and by the workloads of benchmarks/simulate.py. All chance comes from the given source.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from headrace.inference.traces import BLOCK_TOKENS, TraceRequest, WorkloadError

LONGEST_CONTEXT = 131_072
"""Tokens of prompt and answer together, as Llama 3.1 takes them; longer draws are cut."""
_STEP, _TOKEN, _READ, _PAIR, _STEP_TOKENS = 7.72e-3, 29.6e-6, 52.7e-9, 1.06e-9, 2048
"""The engine's timing (docs/reference/engine-model.md), for an estimate of what a pool can carry."""


def capacity(requests: Sequence[TraceRequest], workers: int, kv_tokens: int, sequences: int) -> float:
    """Requests a second that `workers` could just carry: an estimate, in which half of all KV caches holds prompts that
    come again. It is too high where contexts are so long that they leave no such room (`simulate_rate` sees to that).
    """
    known: OrderedDict[int, None] = OrderedDict()
    room = workers * kv_tokens // (2 * BLOCK_TOKENS)
    seconds = 0.0
    context = sum(one.prompt + one.answer / 2 for one in requests) / len(requests)
    batch = max(1.0, min(float(sequences), 0.8 * kv_tokens / context))
    for one in requests:
        cached = min(sum(block in known for block in one.blocks) * BLOCK_TOKENS, one.prompt - 1)
        for block in one.blocks:
            known[block] = None
            known.move_to_end(block)
        while len(known) > room:
            known.popitem(last=False)
        computed = one.prompt - cached
        seconds += computed * (_TOKEN + _STEP / _STEP_TOKENS) + 0.5 * (one.prompt**2 - cached**2) * _PAIR
        seconds += one.answer * (_TOKEN + _READ * (one.prompt + one.answer / 2) + _STEP / batch)
    return workers * len(requests) / seconds


def poisson(requests: Iterable[TraceRequest], rate: float, source: Random) -> list[TraceRequest]:
    """The requests at the times of a Poisson process of `rate` a second, in their order."""
    now, timed = 0.0, []
    for one in requests:
        timed.append(replace(one, at=now))
        now += source.expovariate(rate)
    return timed


def stretched(requests: Sequence[TraceRequest], rate: float) -> list[TraceRequest]:
    """The requests with their times scaled so that they come at `rate` a second on average."""
    span = requests[-1].at - requests[0].at
    factor = (len(requests) - 1) / rate / span if span > 0 else 0.0
    return [replace(one, at=(one.at - requests[0].at) * factor) for one in requests]


@dataclass(frozen=True, slots=True)
class Distribution:
    """One distribution of inference-perf's catalog: kind, mean, standard deviation, bounds."""

    kind: str
    mean: float
    deviation: float
    least: float
    most: float

    @classmethod
    def parse(cls, data: dict[str, Any], name: str, where: str) -> Distribution:
        """The distribution called `name`; WorkloadError where a part is missing."""
        part = data.get(name)
        try:
            if not isinstance(part, dict):
                raise TypeError
            figures = [float(part[key]) for key in ("mean", "standard_deviation", "min", "max")]
        except (KeyError, TypeError, ValueError):
            raise WorkloadError(f"{where}: {name} needs numbers min, max, mean, standard_deviation") from None
        if not all(math.isfinite(one) and one >= 0 for one in figures) or figures[2] > figures[3]:
            raise WorkloadError(f"{where}: {name}: min, max, mean, standard_deviation are 0 or more, min below max")
        return cls(str(part.get("distribution_type", "normal")), *figures)

    def draw(self, source: Random) -> float:
        """One value within the bounds."""
        return min(self.most, max(self.least, self._unbounded(source)))

    def _unbounded(self, source: Random) -> float:
        if self.deviation == 0 or self.mean == 0:
            return self.mean
        if self.kind == "uniform":
            return source.uniform(self.least, self.most)
        if self.kind == "exponential":
            return self.least + source.expovariate(1.0 / max(1.0, self.mean - self.least))
        if self.kind == "log_normal":
            variance = math.log(1.0 + (self.deviation / self.mean) ** 2)
            return source.lognormvariate(math.log(self.mean) - variance / 2, math.sqrt(variance))
        if self.kind == "bimodal":  # two clusters with the wanted mean and deviation
            low = max(self.least, self.mean - self.deviation)
            high = self.mean + self.deviation**2 / max(1.0, self.mean - low)
            share = (self.mean - low) / max(1.0, high - low)
            return (high if source.random() < share else low) * source.uniform(0.8, 1.2)
        return source.gauss(self.mean, self.deviation)


def sessions(data: dict[str, Any], where: str, count: int, source: Random) -> list[TraceRequest]:
    """About `count` requests of sessions drawn from distributions: each turn's prompt is all that was said before.

    All sessions share the system prompt. Sessions begin one a second on average; scale the times with `stretched`.
    """
    names = ("input_sequence_length", "output_sequence_length", "number_of_turns", "time_between_turns",
             "system_prompt", "input_sequence_length_per_turn")  # fmt: skip
    first, answer, turns, pause, system, more = (Distribution.parse(data, name, where) for name in names)
    shared = int(system.mean)
    drawn: list[TraceRequest] = []
    session, begin = 0, 0.0
    while len(drawn) < count:
        session += 1
        begin += source.expovariate(1.0)
        now, prompt = begin, max(int(first.draw(source)), shared + 1)
        for _ in range(max(1, min(round(turns.draw(source)), 64))):
            length = max(1, int(answer.draw(source)))
            prompt = min(prompt, LONGEST_CONTEXT - length)
            drawn.append(TraceRequest(now, prompt, length, block_names(session, prompt, shared)))
            now += pause.draw(source)
            prompt += length + max(1, int(more.draw(source)))
    drawn.sort(key=lambda one: one.at)
    return drawn[:count]


def block_names(session: int, prompt: int, shared: int, system: int = 0) -> tuple[int, ...]:
    """Hashes of a prompt's blocks: its first `shared` tokens are those of system prompt number `system`."""
    common = shared // BLOCK_TOKENS
    return tuple(
        (system << 20 | at) if at < common else (1 << 60 | session << 20 | at) for at in range(prompt // BLOCK_TOKENS)
    )
