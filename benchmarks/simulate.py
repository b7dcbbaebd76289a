"""Policies against each other on traffic that no constant was chosen on, simulated (goal: predicted drain first in mean
and p99 time to first token, and at most 1.15 times greedy with perfect information in the mean).

    python benchmarks/simulate.py [--seeds N] [--first SEED] [--given DIRECTORY] [--picture FILE] [--write]

No wall time is measured but that of the simulator itself; the figures depend on nothing but the code. A load is a share
of what the pool could just carry by the estimate of `simulate_arrivals.capacity`. Traffic is made by traffic.py: a seed
draws the numbers that make a workload, so that two seeds are two different workloads.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import traffic
from rigs import report

from headrace.inference.simulate import Objectives, PoolSettings, Result, simulate
from headrace.inference.simulate_arrivals import capacity, poisson, sessions, stretched
from headrace.inference.simulate_plot import plot
from headrace.inference.simulate_workloads import WORKLOADS
from headrace.inference.traces import Trace, TraceRequest, read_trace

OURS, PERFECT = "predicted-drain", "greedy"
RIVALS = ("gie", "token-aware")
SIMPLE = ("least-request", "round-robin", "prefix", "random-two")
LOADS = (0.4, 0.65, 0.9)
MIDDLE = 0.65
"""The load at which policies that know nothing of tokens run too; they are far behind at every other."""
HEADING = ["traffic", "cases", "mean: typical (worst)", "lower in", "p99: typical (worst)", "lower in", "mean / greedy"]


@dataclass(frozen=True)
class Case:
    """One workload at one load on one pool, with the figures of every policy."""

    name: str
    results: dict[str, Result]

    def figure(self, policy: str, key: str) -> float:
        return self.results[policy].figures[key]

    def against_best(self, key: str) -> float:
        """Predicted drain's figure over that of the best policy that needs no perfect information."""
        best = min(self.figure(policy, key) for policy in self.results if policy not in (OURS, PERFECT))
        return self.figure(OURS, key) / best

    def against_perfect(self) -> float:
        return self.figure(OURS, "ttft_mean_s") / self.figure(PERFECT, "ttft_mean_s")


def measure(
    name: str,
    requests: Sequence[TraceRequest],
    load: float,
    settings: PoolSettings,
    others: Sequence[str] = (*SIMPLE, *RIVALS),
) -> Case:
    """`load` is that of engines with 400,000 tokens of cache at the model's speed, whatever `settings` are."""
    timed = stretched(requests, load * capacity(requests, settings.workers, 400_000, settings.sequences))
    fitting = [one for one in timed if one.prompt + one.answer + 16 <= settings.kv_tokens]
    return Case(name, {one: simulate(fitting, one, settings, Objectives()) for one in (OURS, *others, PERFECT)})


def held_out(first: int, seeds: int) -> Iterator[tuple[str, list[Case]]]:
    """Every kind of traffic on 8 servers, then other pools and other engines."""
    made = {
        (kind, seed): make(3000, Random(seed))
        for kind, make in traffic.KINDS.items()
        for seed in range(first, first + seeds)
    }
    plain = PoolSettings()
    for kind in traffic.KINDS:
        chosen = [(seed, made[kind, seed]) for seed in range(first, first + seeds)]
        yield (
            f"{kind}, 8 servers",
            [
                measure(f"{kind} {seed} at {load}", one, load, plain, RIVALS if load != MIDDLE else (*SIMPLE, *RIVALS))
                for seed, one in chosen
                for load in LOADS
            ],
        )
    others = (
        ("32 servers", 1.0, replace(plain, workers=32)),
        ("4 servers", 1.0, replace(plain, workers=4)),
        ("caches of 150,000 tokens", 0.4, replace(plain, kv_tokens=150_000)),
        ("caches of 1,000,000 tokens", 1.0, replace(plain, kv_tokens=1_000_000)),
        ("engines twice as fast", 1.6, replace(plain, slowness=(0.5,) * 8)),
        ("engines half as fast", 0.5, replace(plain, slowness=(2.0,) * 8)),
        ("token counts off by up to half", 1.0, replace(plain, token_error=0.5)),
        ("8 requests at once an engine", 1.0, replace(plain, sequences=8)),
    )
    for name, share, settings in others:
        cases = [
            measure(f"{kind} {seed}", one, 0.65 * share, settings, RIVALS)
            for (kind, seed), one in made.items()
            if seed < first + 2
        ]
        yield f"all five, {name}", cases


def given(directory: Path) -> Iterator[tuple[str, list[Case]]]:
    """The files that the project was given: lengths, and six distributions."""
    lengths = read_trace(directory / "arxiv-summarization.csv", 3000)
    assert isinstance(lengths, Trace)
    timed = poisson(lengths.requests, 1.0, Random(11))
    plain = PoolSettings()
    yield "given lengths (summarization)", [measure(f"lengths at {load}", timed, load, plain) for load in LOADS]
    for path in sorted(directory.glob("*.json")):
        data = read_trace(path)
        assert isinstance(data, dict)
        requests = sessions(data, str(path), 3000, Random(11))
        loads = (0.4, 0.55, 0.7)
        yield (
            f"given {path.stem}",
            [measure(f"{path.stem} at {load}", requests, load, plain, (*RIVALS, "least-request")) for load in loads],
        )


def made_up(seed: int) -> Iterator[tuple[str, list[Case]]]:
    """The workloads that constants were once chosen on, at a seed and loads that were not looked at."""
    for name, make in WORKLOADS.items():
        requests = make(3000, Random(seed))
        yield (
            f"made-up {name}",
            [measure(f"{name} at {load}", requests, load, PoolSettings(), RIVALS) for load in (0.45, 0.7)],
        )


def typical(ratios: Sequence[float]) -> float:
    """The geometric mean."""
    return math.exp(sum(math.log(ratio) for ratio in ratios) / len(ratios))


def row(name: str, cases: Sequence[Case]) -> list[str]:
    cells = [name, str(len(cases))]
    for key in ("ttft_mean_s", "ttft_p99_s"):
        ratios = [case.against_best(key) for case in cases]
        cells += [f"{typical(ratios):.3f} ({max(ratios):.2f})", f"{sum(ratio < 1 for ratio in ratios)}"]
    perfect = [case.against_perfect() for case in cases]
    return [*cells, f"{typical(perfect):.2f} ({max(perfect):.2f})"]


def losses(cases: Sequence[Case]) -> list[str]:
    """The cases in which another policy has the lower mean, worst first."""
    lost = sorted((case for case in cases if case.against_best("ttft_mean_s") > 1.005), key=lambda case: case.name)
    return [
        f"{case.name}: {case.figure(OURS, 'ttft_mean_s'):.3g} s, {case.against_best('ttft_mean_s'):.2f} times the best"
        for case in lost
    ]


def several_routers(first: int) -> str:
    """Routers that share nothing, beside one that sees everything."""
    cells = []
    requests = traffic.conversations(3000, Random(first))
    for routers in (1, 4):
        case = measure("routers", requests, 0.65, replace(PoolSettings(), routers=routers), (*RIVALS, "least-request"))
        figures = (
            f"{one} {case.figure(one, 'ttft_mean_s'):.3g} / {case.figure(one, 'ttft_p99_s'):.3g}"
            for one in case.results
        )
        cells.append(f"{routers}: {', '.join(figures)}")
    return f"- routers that share nothing (conversations at 0.65, mean / p99 in s): {'; '.join(cells)}"


def long_run(first: int) -> str:
    requests = traffic.conversations(12_000, Random(first))
    began = time.perf_counter()
    case = measure("long", requests, 0.65, PoolSettings(), ())
    return (
        f"- 12,000 requests on 8 servers took {time.perf_counter() - began:.1f} s with predicted drain and with greedy "
        f"together (goal: each < 60 s; means {case.figure(OURS, 'ttft_mean_s'):.3g} and "
        f"{case.figure(PERFECT, 'ttft_mean_s'):.3g} s)"
    )


def picture(path: Path, seed: int) -> None:
    requests = traffic.conversations(4000, Random(seed))
    case = measure("picture", requests, 0.65, PoolSettings(), (*SIMPLE, *RIVALS))
    path.write_text(plot(list(case.results.values()), "Conversations on 8 model servers, load 0.65"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4, help="workloads of each kind")
    parser.add_argument("--first", type=int, default=7000, help="the first seed")
    parser.add_argument("--given", type=Path, help="the directory of the given workloads")
    parser.add_argument("--picture", type=Path, help="write the picture of docs/guides/scheduling.md here")
    parser.add_argument("--write", action="store_true", help="put the section into RESULTS.md")
    options = parser.parse_args()
    began = time.perf_counter()
    groups = list(held_out(options.first, options.seeds))
    fresh = [case for _, cases in groups for case in cases]
    groups += list(made_up(options.first))
    if options.given:
        groups += list(given(options.given))
    rest = [case for _, cases in groups for case in cases][len(fresh) :]
    lines = [
        "Predicted drain against the best of all other policies that need no perfect information, case by case (a "
        "workload, a load, a pool): its mean and p99 time to first token over that policy's. Typical is the geometric "
        f"mean. Loads {', '.join(map(str, LOADS))} unless a row says more, 3,000 requests a case; the engines are "
        "simulated step by step (docs/reference/engine-model.md), `gie` scrapes every 50 ms. least-request, "
        f"round-robin, prefix and random-two take part at load {MIDDLE} in the first rows, where they are far behind; "
        "elsewhere the best other is `gie` or `token-aware`.",
        "",
        f"Workloads of the first rows are drawn from seeds {options.first} to {options.first + options.seeds - 1}, "
        "which nothing was chosen on: constants were chosen on other seeds of the same generators, and on the "
        "made-up ones.",
        "",
        *report.table(HEADING, [row(name, cases) for name, cases in groups]),
        "",
        *(
            f"- **{name}**: " + "; ".join(row("", cases)[1:])
            for name, cases in (("all fresh", fresh), ("others", rest))
        ),
        f"- fresh cases with a mean that another policy beats: {'; '.join(losses(fresh)) or 'none'}",
        f"- others: {'; '.join(losses(rest)) or 'none'}",
        several_routers(options.first),
        long_run(options.first),
        f"- everything together took {time.perf_counter() - began:.0f} s",
    ]
    report.publish("Choosing a model server, simulated", lines, write=options.write)
    if options.picture:
        picture(options.picture, options.first)


if __name__ == "__main__":
    main()
