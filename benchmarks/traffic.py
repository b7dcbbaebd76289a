"""Traffic for comparing policies on workloads that nothing was chosen on: every seed draws the numbers that make a
workload, then the workload. Called by simulate.py.

Three kinds with shared beginnings, as Mooncake-style files have them (conversations, tool loops, documents; mean
prompts of 3,000 to 50,000 tokens), and two without, as Azure-style files have them (code, questions). Arrivals are not
Poisson: rates wander, come in bursts, or fall on a grid of up to three seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import accumulate
from random import Random

from headrace.inference.simulate_arrivals import LONGEST_CONTEXT, block_names
from headrace.inference.traces import TraceRequest


def conversations(count: int, source: Random) -> list[TraceRequest]:
    """Sessions of a few turns; first prompts have a long tail, some attach documents in the middle."""
    first, tail = source.uniform(1500, 10_000), source.uniform(0.7, 1.3)
    return _sessions(
        count,
        source,
        systems=source.choice((1, 3, 10, 40)),
        shared=source.choice((0, 512, 1024, 2048)),
        first=lambda: _long_tail(source, first, tail),
        more=_mixed(source, source.uniform(50, 800), source.uniform(1000, 8000), source.uniform(0, 0.25)),
        answer=_tail(source, source.uniform(150, 500), 0.7),
        pause=_tail(source, source.uniform(15, 90), source.uniform(0.6, 1.2)),
        turns=source.uniform(1.5, 7),
    )


def tool_loops(count: int, source: Random) -> list[TraceRequest]:
    """Agents: long system prompts with a few thousand users of each or one, short answers, quick turns."""
    first = source.uniform(500, 6000)
    return _sessions(
        count,
        source,
        systems=source.choice((2, 8, 30)),
        shared=source.choice((2048, 4096, 6144, 10_240)),
        first=lambda: _long_tail(source, first, 0.8),
        more=_mixed(source, source.uniform(100, 1500), source.uniform(1000, 6000), source.uniform(0, 0.3)),
        answer=_tail(source, source.uniform(40, 250), 0.8),
        pause=_tail(source, source.uniform(1.5, 20), source.uniform(0.5, 1.0)),
        turns=source.uniform(2, 20),
    )


def documents(count: int, source: Random) -> list[TraceRequest]:
    """Questions over documents; popularity falls with the rank, and what is popular changes."""
    steepness, sizes = source.uniform(0.6, 1.2), source.uniform(3000, 12_000)
    known = [int(min(60_000, _long_tail(source, sizes, 0.8))) for _ in range(source.choice((100, 600, 3000)))]
    popularity = list(accumulate(1 / (rank + 1) ** steepness for rank in range(len(known))))
    drift = source.choice((0, 0, 40, 200))
    shared, question = source.choice((0, 1024)), _tail(source, source.uniform(30, 500), 0.6)
    answer = _tail(source, source.uniform(60, 400), 0.6)
    drawn = []
    for place, at in enumerate(_arrivals(count, source)):
        rank = source.choices(range(len(known)), cum_weights=popularity)[0]
        document = (rank + (place // drift if drift else 0)) % len(known)
        begin = shared + known[document]
        drawn.append(TraceRequest(at, begin + question(), answer(), block_names(0, begin, begin, 1000 + document)))
    return drawn


def code(count: int, source: Random) -> list[TraceRequest]:
    """Completions: middling prompts and tiny answers, nothing shared."""
    prompt, answer = _tail(source, source.uniform(1000, 3000), 0.9), _tail(source, source.uniform(10, 40), 0.9)
    return [TraceRequest(at, min(8000, prompt()), min(2000, answer())) for at in _arrivals(count, source)]


def questions(count: int, source: Random) -> list[TraceRequest]:
    """Short prompts with a long tail, answers of some hundred tokens, nothing shared."""
    prompt, answer = _tail(source, source.uniform(400, 1500), 1.1), _tail(source, source.uniform(100, 400), 0.7)
    return [TraceRequest(at, min(14_000, prompt()), min(1500, answer())) for at in _arrivals(count, source)]


KINDS: dict[str, Callable[[int, Random], list[TraceRequest]]] = {
    "conversations": conversations,
    "tool-loops": tool_loops,
    "documents": documents,
    "code": code,
    "questions": questions,
}
"""Name → traffic of that kind. Times are of no particular rate: scale them with `simulate_arrivals.stretched`."""


def _sessions(
    count: int,
    source: Random,
    *,
    systems: int,
    shared: int,
    first: Callable[[], int],
    more: Callable[[], int],
    answer: Callable[[], int],
    pause: Callable[[], int],
    turns: float,
) -> list[TraceRequest]:
    grid = source.choice((0.0, 0.0, 0.1, 3.0))
    # A trace is a window: sessions that began before it are cut, as those that go on after it.
    begins = _arrivals(count, source)
    weights = list(accumulate(1 / (rank + 1) for rank in range(systems)))
    drawn: list[TraceRequest] = []
    for session in range(1, count + 1):
        if len(drawn) >= 2 * count:
            break
        now = next(begins) * turns
        system = source.choices(range(systems), cum_weights=weights)[0]
        prompt = shared + first()
        while True:
            length = answer()
            prompt = min(prompt, LONGEST_CONTEXT - length)
            drawn.append(TraceRequest(now, prompt, length, block_names(session, prompt, shared, system)))
            if source.random() < 1 / turns:
                break
            now += 0.02 * length + pause()
            prompt += length + more()
    drawn.sort(key=lambda one: one.at)
    begun = drawn[len(drawn) // 10 :][:count]
    if not grid:
        return begun
    return [TraceRequest(math.floor(one.at / grid) * grid, one.prompt, one.answer, one.blocks) for one in begun]


def _arrivals(count: int, source: Random) -> Iterator[float]:
    """About one a second, at a rate that wanders from minute to minute, with bursts of up to a dozen."""
    sway, burst = source.choice((0.0, 0.3, 0.7)), source.choice((0.0, 0.05, 0.2))
    now, level, until = 0.0, 0.0, 0.0
    left = 0
    for _ in range(count):
        if left:
            left -= 1
            now += source.expovariate(20.0)
        else:
            while now >= until:
                level = 0.8 * level + source.gauss(0.0, sway) * 0.6
                until += 60.0
            now += source.expovariate(math.exp(level))
            left = source.randrange(2, 12) if source.random() < burst else 0
        yield now


def _long_tail(source: Random, median: float, sigma: float) -> int:
    return max(1, int(source.lognormvariate(math.log(median), sigma)))


def _tail(source: Random, median: float, sigma: float) -> Callable[[], int]:
    return lambda: _long_tail(source, median, sigma)


def _mixed(source: Random, little: float, much: float, share: float) -> Callable[[], int]:
    """Mostly `little`, for a share of draws `much` (medians)."""
    return lambda: _long_tail(source, much if source.random() < share else little, 0.8)
