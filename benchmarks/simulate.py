"""Policies on made-up workloads and on the lengths in shared/traces, simulated (goal: predicted drain first in mean and
p99 time to first token, and at most 1.15 times greedy with perfect information in the mean).

    python benchmarks/simulate.py [--requests N] [--lengths FILE] [--picture FILE] [--write]

No wall time is measured but that of the simulator itself; the figures depend on nothing but the code. A load is a share
of what the pool could just carry by the estimate of `simulate_arrivals.capacity`.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

from rigs import report

from headrace.inference.simulate import Objectives, PoolSettings, Result, simulate
from headrace.inference.simulate_arrivals import capacity, poisson, stretched
from headrace.inference.simulate_plot import plot
from headrace.inference.simulate_workloads import WORKLOADS
from headrace.inference.traces import Trace, TraceRequest, read_trace

OURS, PERFECT = "predicted-drain", "greedy"
OTHERS = ("least-request", "round-robin", "prefix", "random-two", "gie", "token-aware")
CASES = ((8, 0.5), (8, 0.7), (32, 0.7))
PICTURED = ("chat", 8, 0.7)


@dataclass(frozen=True)
class Case:
    """One workload at one load on one pool."""

    name: str
    workers: int
    load: float
    results: dict[str, Result]

    def figure(self, policy: str, key: str) -> float:
        return self.results[policy].figures[key]

    def best_other(self, key: str) -> str:
        return min(OTHERS, key=lambda policy: self.figure(policy, key))


def workload(name: str, count: int, lengths: Path | None) -> list[TraceRequest]:
    if name != "lengths":
        return WORKLOADS[name](count, Random(1))
    assert lengths is not None
    trace = read_trace(lengths, count)
    assert isinstance(trace, Trace)
    return poisson(trace.requests, 1.0, Random(1))


def measure(name: str, workers: int, load: float, count: int, lengths: Path | None) -> Case:
    settings = PoolSettings(workers=workers)
    requests = workload(name, count, lengths)
    requests = stretched(requests, load * capacity(requests, workers, settings.kv_tokens, settings.sequences))
    policies = (OURS, *OTHERS, PERFECT)
    return Case(name, workers, load, {one: simulate(requests, one, settings, Objectives()) for one in policies})


def row(case: Case) -> list[str]:
    policies = (OURS, *OTHERS, PERFECT)
    cells = (f"{case.figure(one, 'ttft_mean_s'):.3g} / {case.figure(one, 'ttft_p99_s'):.3g}" for one in policies)
    return [f"{case.name}, {case.workers} servers, load {case.load:g}", *cells]


def summary(cases: list[Case]) -> list[str]:
    lines = []
    for key, word in (("ttft_mean_s", "mean"), ("ttft_p99_s", "p99")):
        ratios = [case.figure(OURS, key) / case.figure(case.best_other(key), key) for case in cases]
        lines.append(
            f"- {word} against the best other policy of each row: {report.spread(ratios)}; "
            f"lower in {sum(ratio < 1 for ratio in ratios)} of {len(ratios)} rows"
        )
    perfect = [case.figure(OURS, "ttft_mean_s") / case.figure(PERFECT, "ttft_mean_s") for case in cases]
    return [*lines, f"- mean against greedy with perfect information: {report.spread(perfect)}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=6000)
    parser.add_argument("--lengths", type=Path, help="a CSV of lengths, as `headrace simulate` reads it")
    parser.add_argument("--picture", type=Path, help="write the picture of docs/guides/scheduling.md here")
    parser.add_argument("--write", action="store_true", help="put the section into RESULTS.md")
    options = parser.parse_args()
    began = time.perf_counter()
    names = [*WORKLOADS, *(["lengths"] if options.lengths else [])]
    cases = [
        measure(name, workers, load, options.requests, options.lengths) for name in names for workers, load in CASES
    ]
    seconds = time.perf_counter() - began
    lines = [
        f"{options.requests} requests a row, every policy on the same ones; seconds to the first token, mean / p99. "
        "The engines are simulated step by step (docs/reference/engine-model.md), `gie` scrapes every 50 ms.",
        "",
        "Predicted drain's constants were chosen on these very workloads at this seed, among some twenty settings: the "
        "rows show what it can do, not how it does on traffic it has not seen.",
        "",
        *report.table(["workload", OURS, *OTHERS, PERFECT], [row(case) for case in cases]),
        "",
        *summary(cases),
        f"- all {len(cases) * (len(OTHERS) + 2)} runs together took {seconds:.0f} s",
    ]
    report.publish("Choosing a model server, simulated", lines, write=options.write)
    if options.picture:
        pictured = next(case for case in cases if (case.name, case.workers, case.load) == PICTURED)
        title = f"Conversations on {pictured.workers} model servers, load {pictured.load:g}"
        options.picture.write_text(plot(list(pictured.results.values()), title))


if __name__ == "__main__":
    main()
