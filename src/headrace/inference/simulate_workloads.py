"""Made-up workloads with what real ones have: bursts, long tails, prompts that share their beginnings.

For tuning and comparing policies (benchmarks/simulate.py, tests); none is fitted to a published trace with arrival
times. Each is a function of a count and a source of chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import accumulate
from random import Random

from headrace.inference.simulate_arrivals import LONGEST_CONTEXT, block_names
from headrace.inference.traces import TraceRequest


def chat(count: int, source: Random) -> list[TraceRequest]:
    """Conversations: four system prompts, a first prompt with a long tail, turns a quarter of a minute apart."""
    return _sessions(count, source, first=(3000, 1.2), more=(400, 1.0), answer=(350, 0.7), pause=(25, 0.8))


def agents(count: int, source: Random) -> list[TraceRequest]:
    """Tool loops: long shared system prompts, many short turns a few seconds apart, short answers."""
    return _sessions(
        count,
        source,
        first=(6000, 0.5),
        more=(1200, 1.0),
        answer=(120, 0.8),
        pause=(4, 0.7),
        shared=4096,
        turns=12,
    )


def long_chat(count: int, source: Random) -> list[TraceRequest]:
    """Conversations over long documents, up to 128k tokens, that come in batches every three seconds."""
    drawn = _sessions(count, source, first=(9000, 1.1), more=(600, 1.2), answer=(350, 0.6), pause=(40, 0.8))
    return [TraceRequest(math.floor(one.at / 3) * 3.0, one.prompt, one.answer, one.blocks) for one in drawn]


def retrieval(count: int, source: Random) -> list[TraceRequest]:
    """Questions over documents of which some are popular (Zipf), in bursts."""
    documents = [int(min(60_000, source.lognormvariate(math.log(5000), 0.8))) for _ in range(600)]
    popularity = list(accumulate(1 / (rank + 1) for rank in range(len(documents))))
    requests = []
    for at in _bursts(count, source):
        document = source.choices(range(len(documents)), cum_weights=popularity)[0]
        shared = (1024 + documents[document]) // 512 * 512
        prompt = shared + int(source.uniform(20, 400))
        blocks = block_names(0, shared, shared, 1000 + document)
        answer = _long_tail(source, 200, 0.6)
        requests.append(TraceRequest(at, prompt, answer, blocks))
    return requests


def completion(count: int, source: Random) -> list[TraceRequest]:
    """Code completion: prompts of about 2k tokens and tiny answers, in bursts, nothing shared."""
    return [
        TraceRequest(at, min(7500, _long_tail(source, 1600, 0.9)), _long_tail(source, 18, 0.9))
        for at in _bursts(count, source)
    ]


def questions(count: int, source: Random) -> list[TraceRequest]:
    """Short prompts with a long tail and answers of about 200 tokens, in bursts, nothing shared."""
    return [
        TraceRequest(at, min(14_000, _long_tail(source, 700, 1.1)), min(1000, _long_tail(source, 180, 0.7)))
        for at in _bursts(count, source)
    ]


def generation(count: int, source: Random) -> list[TraceRequest]:
    """Long answers to middling prompts: decoding and the KV cache decide, not prefill."""
    return [
        TraceRequest(at, _long_tail(source, 2000, 1.0), min(6000, _long_tail(source, 1200, 0.8)))
        for at in _bursts(count, source)
    ]


WORKLOADS: dict[str, Callable[[int, Random], list[TraceRequest]]] = {
    "chat": chat,
    "agents": agents,
    "long-chat": long_chat,
    "retrieval": retrieval,
    "completion": completion,
    "questions": questions,
    "generation": generation,
}
"""Name → made-up workload. Times are of no particular rate: scale them with `simulate_arrivals.stretched`."""


def _long_tail(source: Random, median: float, sigma: float) -> int:
    return max(1, int(source.lognormvariate(math.log(median), sigma)))


def _bursts(count: int, source: Random) -> Iterator[float]:
    """Arrivals that come in turn at a calm rate and at five times that, each for about ten seconds' worth."""
    now, rate, until = 0.0, 1.0, 0.0
    for _ in range(count):
        while now >= until:
            rate = 5.0 if rate == 1.0 else 1.0
            until += source.expovariate(1 / 10) if rate == 5.0 else source.expovariate(1 / 25)
        now += source.expovariate(rate)
        yield now


def _sessions(
    count: int,
    source: Random,
    *,
    first: tuple[float, float],
    more: tuple[float, float],
    answer: tuple[float, float],
    pause: tuple[float, float],
    shared: int = 1024,
    turns: int = 4,
) -> list[TraceRequest]:
    """Sessions whose figures are (median, sigma) of log-normal draws; `turns` is a geometric mean."""
    drawn: list[TraceRequest] = []
    begins = _bursts(count, source)
    session = 0
    while len(drawn) < count:
        session += 1
        now, system = next(begins) * turns / 2, source.randrange(4)
        prompt = shared + _long_tail(source, *first)
        while True:
            length = _long_tail(source, *answer)
            prompt = min(prompt, LONGEST_CONTEXT - length)
            drawn.append(TraceRequest(now, prompt, length, block_names(session, prompt, shared, system)))
            if source.random() < 1 / turns:
                break
            now += _long_tail(source, *pause)
            prompt += length + _long_tail(source, *more)
    drawn.sort(key=lambda one: one.at)
    return drawn[:count]
