"""The simulator: deterministic, sane, and predicted drain does not lose on any made-up workload."""

import time
from random import Random

import pytest

from headrace.inference.simulate import CoreMissing, Objectives, PoolSettings, Result, compare, native_core, simulate
from headrace.inference.simulate_arrivals import block_names, capacity, poisson, sessions, stretched
from headrace.inference.simulate_plot import plot
from headrace.inference.simulate_rate import default_rate
from headrace.inference.simulate_workloads import WORKLOADS
from headrace.inference.traces import TraceRequest

try:
    native_core()
except CoreMissing as missing:
    pytest.skip(str(missing), allow_module_level=True)

OTHERS = ("least-request", "round-robin", "prefix", "random-two", "gie", "token-aware")
OBJECTIVES = Objectives()


def workload(name: str, load: float, workers: int = 8, count: int = 3000) -> list[TraceRequest]:
    requests = WORKLOADS[name](count, Random(1))
    return stretched(requests, load * capacity(requests, workers, 400_000, 256))


def run(requests: list[TraceRequest], policy: str, settings: PoolSettings | None = None) -> Result:
    return simulate(requests, policy, settings or PoolSettings(), OBJECTIVES)


@pytest.mark.parametrize("load", [0.5, 0.7])
@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_predicted_drain_does_not_lose(name: str, load: float) -> None:
    requests = workload(name, load)
    ours, *others = compare(requests, ["predicted-drain", *OTHERS], PoolSettings(), OBJECTIVES)
    best = min(others, key=lambda one: one.figures["ttft_mean_s"])
    assert ours.figures["ttft_mean_s"] <= best.figures["ttft_mean_s"] * 1.005, best.policy
    best = min(others, key=lambda one: one.figures["ttft_p99_s"])
    assert ours.figures["ttft_p99_s"] <= best.figures["ttft_p99_s"] * 1.03, best.policy


@pytest.mark.parametrize("name", ["chat", "agents", "retrieval", "questions"])
def test_predicted_drain_is_close_to_perfect_information(name: str) -> None:
    requests = workload(name, 0.6)
    ours, perfect = compare(requests, ["predicted-drain", "greedy"], PoolSettings(), OBJECTIVES)
    assert ours.figures["ttft_mean_s"] <= 1.15 * perfect.figures["ttft_mean_s"]


@pytest.mark.parametrize("name", ["chat", "questions"])
def test_token_counts_that_are_off_by_half_cost_little(name: str) -> None:
    requests = workload(name, 0.6)
    exact = run(requests, "predicted-drain").figures["ttft_mean_s"]
    guessed = run(requests, "predicted-drain", PoolSettings(token_error=0.5)).figures["ttft_mean_s"]
    assert guessed < 1.1 * exact


def test_a_slow_server_is_learned() -> None:
    requests = workload("questions", 0.5)
    slow = PoolSettings(slowness=(3.0,))
    ours, counting = compare(requests, ["predicted-drain", "least-request"], slow, OBJECTIVES)
    assert ours.figures["ttft_mean_s"] < counting.figures["ttft_mean_s"]
    assert ours.figures["ttft_p99_s"] < 2 * run(requests, "predicted-drain").figures["ttft_p99_s"]


def test_overload_costs_perfect_information_little() -> None:
    """Going through all that waits for every request took 10 s here, and grew with the cube of the requests."""
    requests = workload("chat", 2.8, count=2000)
    began = time.process_time()
    waited = run(requests, "greedy").figures["ttft_mean_s"]
    assert waited > 10.0
    assert time.process_time() - began < 5.0


@pytest.mark.parametrize("name", ["chat", "completion"])
def test_the_default_rate_is_the_estimate_where_that_is_carried(name: str) -> None:
    requests = WORKLOADS[name](1000, Random(1))
    rate = default_rate(requests, lambda wanted: stretched(requests, wanted), PoolSettings())
    assert rate == 0.7 * capacity(requests, 8, 400_000, 256)


def test_routers_that_share_nothing_are_worse() -> None:
    requests = workload("completion", 0.8)
    alone = run(requests, "predicted-drain").figures["ttft_mean_s"]
    many = run(requests, "predicted-drain", PoolSettings(routers=8)).figures["ttft_mean_s"]
    assert many > alone


@pytest.mark.parametrize("policy", ["predicted-drain", "random-two", "gie", "greedy"])
def test_a_run_depends_on_nothing_but_its_inputs(policy: str) -> None:
    requests = workload("chat", 0.5, count=500)
    one, two = (run(requests, policy, PoolSettings(seed=7)) for _ in range(2))
    assert one == two


def test_every_request_is_served_and_no_sooner_than_it_can_be() -> None:
    requests = workload("chat", 0.5, count=800)
    for policy in native_core().POLICIES:
        result = run(requests, policy)
        assert result.figures["requests"] == len(requests) == len(result.first_tokens)
        assert min(result.first_tokens) > 0.0077  # no step is shorter


def test_unknown_policies_and_senseless_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="no policy called 'best'"):
        run([TraceRequest(0.0, 1, 1)], "best")
    with pytest.raises(ValueError, match="above 0"):
        run([TraceRequest(0.0, 1, 1)], "greedy", PoolSettings(workers=0))


def test_poisson_times_have_the_wanted_rate() -> None:
    timed = poisson([TraceRequest(0.0, 1, 1)] * 5000, 20.0, Random(1))
    assert 4999 / timed[-1].at == pytest.approx(20.0, rel=0.05)


def test_sessions_grow_and_share_the_system_prompt() -> None:
    def part(mean: float, least: float = 1, most: float = 20_000) -> dict[str, object]:
        return {"mean": mean, "standard_deviation": mean / 4, "min": least, "max": most, "distribution_type": "normal"}

    data = {
        "input_sequence_length": part(3000),
        "output_sequence_length": part(100),
        "number_of_turns": part(4),
        "time_between_turns": part(10),
        "system_prompt": {**part(1024), "standard_deviation": 0},
        "input_sequence_length_per_turn": part(50),
    }
    drawn = sessions(data, "x", 200, Random(3))
    assert len(drawn) == 200
    assert len({one.blocks[:2] for one in drawn if one.prompt > 1100}) == 1
    assert block_names(1, 2048, 1024)[:2] == block_names(2, 2048, 1024)[:2]
    assert block_names(1, 2048, 1024)[2:] != block_names(2, 2048, 1024)[2:]


def test_the_picture_is_svg_with_every_policy() -> None:
    results = compare(workload("chat", 0.5, count=300), ["predicted-drain", "gie"], PoolSettings(), OBJECTIVES)
    picture = plot(results, "a < b & c")
    assert picture.startswith("<svg ") and picture.endswith("</svg>\n")
    assert all(word in picture for word in ("predicted-drain", "gie", "a &lt; b &amp; c"))
