"""`headrace simulate`: what each way of choosing a model server would do to a workload, without any wall time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.app.cli import CommandFailed
from headrace.app.cli.output import Format, FormatOption, print_rows

if TYPE_CHECKING:
    from headrace.inference.simulate import Result
    from headrace.inference.traces import TraceRequest

app = typer.Typer(add_completion=False)

_COLUMNS = (
    ("policy", "POLICY"),
    ("requests", "REQUESTS"),
    ("ttft_mean_s", "TTFT MEAN s"),
    ("ttft_p50_s", "P50 s"),
    ("ttft_p99_s", "P99 s"),
    ("itl_p99_s", "ITL P99 s"),
    ("goodput", "GOODPUT"),
    ("cached_share", "CACHED"),
    ("preemptions", "PREEMPTED"),
)
_DEFAULT_COUNT = 5000


@app.command()
def simulate(
    workload: Annotated[
        Path, typer.Option(help="Mooncake-style JSONL, Azure-style CSV, CSV of lengths, or JSON of distributions.")
    ],
    workers: Annotated[int, typer.Option(min=1, max=4096, help="Model servers.")] = 8,
    policy: Annotated[str, typer.Option(help="Policies, separated by commas; `all` for every one.")] = (
        "predicted-drain,least-request,round-robin"
    ),
    speedup: Annotated[float, typer.Option(min=0.001, help="Let requests arrive this many times as fast.")] = 1.0,
    routers: Annotated[int, typer.Option(min=1, max=256, help="Routers that do not share what they know.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of all chance.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first requests.")] = None,
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, help="Requests a second, if the file has no times (default: 70 % load)."),
    ] = None,
    scrape: Annotated[float, typer.Option(min=0.001, help="Seconds between two looks at metrics (gie).")] = 0.05,
    kv_tokens: Annotated[int, typer.Option(min=1024, help="Tokens that a server's KV cache holds.")] = 400_000,
    slo_ttft: Annotated[float, typer.Option(min=0, help="Good: at most so many seconds to the first token ...")] = 2.0,
    slo_itl: Annotated[float, typer.Option(min=0, help="... and so many between tokens, on average.")] = 0.1,
    plot: Annotated[Path | None, typer.Option(help="Write a picture (SVG) here.")] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Compare ways of choosing a model server on a workload, in a simulation of the engines' own steps.

    goodput is the share of requests that kept both --slo-ttft and --slo-itl. All times are simulated seconds; a run
    depends only on the file, the options and the seed. Requests that a KV cache can never hold are left out, and stderr
    says how many.
    """
    from headrace.inference import simulate as simulation
    from headrace.inference.traces import WorkloadError

    policies = _policies(policy, list(simulation.POLICIES))
    settings = simulation.PoolSettings(workers=workers, routers=routers, seed=seed, scrape=scrape, kv_tokens=kv_tokens)
    objectives = simulation.Objectives(slo_ttft, slo_itl)
    try:
        requests = _faster(_requests(workload, limit, rate, settings), speedup)
        results = [
            simulation.simulate(requests, name, settings, objectives, _progress(name, len(requests)))
            for name in policies
        ]
    except (WorkloadError, simulation.CoreMissing) as error:
        raise CommandFailed(str(error)) from None
    finally:
        _clear_progress()
    if plot is not None:
        _write_plot(plot, results, f"{workload.name}: {len(requests)} requests, {workers} model servers")
    print_rows([_row(result, output) for result in results], _COLUMNS, output)


def _policies(text: str, known: list[str]) -> list[str]:
    wanted = known if text.strip() == "all" else [name.strip() for name in text.split(",") if name.strip()]
    for name in wanted:
        if name not in known:
            raise CommandFailed(f"no policy called {name!r}: there are {', '.join(known)}")
    if not wanted:
        raise CommandFailed(f"--policy names none: there are {', '.join(known)}")
    return list(dict.fromkeys(wanted))


def _requests(path: Path, limit: int | None, rate: float | None, settings: object) -> list[TraceRequest]:
    """The workload; times are made where the file has none."""
    from headrace.inference.simulate import PoolSettings
    from headrace.inference.simulate_arrivals import poisson, sessions, stretched
    from headrace.inference.simulate_rate import default_rate
    from headrace.inference.traces import Trace, read_trace

    assert isinstance(settings, PoolSettings)
    trace = read_trace(path, limit)
    source = Random(settings.seed)  # noqa: S311 - arrival times, not secrets
    if isinstance(trace, Trace):
        if trace.timed and rate is not None:
            raise CommandFailed(f"{path} has arrival times: use --speedup instead of --rate")
        found = _that_fit(path, trace.requests, settings.kv_tokens)
        if trace.timed:
            return found
    else:
        found = _that_fit(path, sessions(trace, f"{path}:1", limit or _DEFAULT_COUNT, source), settings.kv_tokens)
    chance = source.getstate()

    def timed(wanted: float) -> list[TraceRequest]:
        source.setstate(chance)
        return poisson(found, wanted, source) if isinstance(trace, Trace) else stretched(found, wanted)

    return timed(rate or default_rate(found, timed, settings))


def _that_fit(path: Path, requests: Sequence[TraceRequest], kv_tokens: int) -> list[TraceRequest]:
    """The requests without those that a server's KV cache can never hold, of which stderr is told."""
    from headrace.inference.simulate import fits

    kept = [one for one in requests if fits(one, kv_tokens)]
    if len(kept) == len(requests):
        return kept
    first = min((one for one in requests if not fits(one, kv_tokens)), key=lambda one: one.line)
    where = f"{path}:{first.line}" if first.line else str(path)
    needed = f"{first.prompt} + {first.answer} tokens do not fit into a KV cache of {kv_tokens}"
    if not kept:
        raise CommandFailed(f"{where}: {needed}, nor does any other request: raise --kv-tokens")
    left_out = len(requests) - len(kept)
    typer.echo(f"{where}: {needed}: {left_out} of {len(requests)} requests are left out; raise --kv-tokens", err=True)
    return kept


def _faster(requests: list[TraceRequest], speedup: float) -> list[TraceRequest]:
    from dataclasses import replace

    return requests if speedup == 1.0 else [replace(one, at=one.at / speedup) for one in requests]


def _progress(policy: str, requests: int) -> Callable[[int], None]:
    """Shows on a terminal, at most five times a second, how far a run is."""
    shown = time.monotonic()

    def show(done: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if sys.stderr.isatty() and now - shown > 0.2:
            shown = now
            sys.stderr.write(f"\r\x1b[K{policy}: {done} of {requests} requests")
            sys.stderr.flush()

    return show


def _clear_progress() -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")


def _row(result: Result, output: Format) -> dict[str, object]:
    data = result.as_data()
    if output is not Format.TABLE:
        return data
    return {name: f"{value:.3f}" if isinstance(value, float) else value for name, value in data.items()}


def _write_plot(path: Path, results: list[Result], title: str) -> None:
    from headrace.inference.simulate_plot import plot

    try:
        path.write_text(plot(results, title), encoding="utf-8")
    except OSError as error:
        raise CommandFailed(f"cannot write {path}: {error.strerror}") from error
