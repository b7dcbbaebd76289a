"""`headrace simulate` as its users run it, and the step-based engine behind a real server against the simulator."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from headrace.inference.engine_driver import EngineSettings, block_hashes
from headrace.inference.simulate import CoreMissing, Objectives, PoolSettings, native_core, simulate
from headrace.inference.simulated_server import ServerSettings, SimulatedServer
from headrace.inference.traces import TraceRequest

try:
    native_core()
except CoreMissing as missing:
    pytest.skip(str(missing), allow_module_level=True)


def headrace(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "headrace", "simulate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def mooncake(folder: Path, count: int = 400) -> Path:
    path = folder / "trace.jsonl"
    lines = (
        {
            "timestamp": 50 * at,
            "input_length": 600 + 37 * (at % 50),
            "output_length": 5 + at % 7,
            "hash_ids": [at % 10, 100 + at],
        }
        for at in range(count)
    )
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def test_json_has_one_object_for_each_policy(tmp_path: Path) -> None:
    run = headrace(
        "--workload", mooncake(tmp_path), "--workers", 4, "--policy", "predicted-drain,greedy,gie", "-o", "json"
    )
    assert run.returncode == 0, run.stderr
    rows = json.loads(run.stdout)
    assert [row["policy"] for row in rows] == ["predicted-drain", "greedy", "gie"]
    for row in rows:
        wanted = {"policy", "requests", "ttft_mean_s", "ttft_p50_s", "ttft_p99_s", "itl_p99_s", "goodput"}
        assert wanted <= row.keys()
        assert row["requests"] == 400
        assert 0 < row["ttft_p50_s"] <= row["ttft_p99_s"]
        assert 0 <= row["goodput"] <= 1
    assert run.stderr == ""


def test_the_same_seed_gives_the_same_bytes_and_faster_arrivals_wait_longer(tmp_path: Path) -> None:
    arguments = ["--workload", mooncake(tmp_path), "--workers", 2, "--policy", "random-two", "-o", "json", "--seed", 3]
    first, second = headrace(*arguments), headrace(*arguments)
    assert first.stdout == second.stdout
    faster = headrace(*arguments, "--speedup", 10)
    assert json.loads(faster.stdout)[0]["ttft_mean_s"] > json.loads(first.stdout)[0]["ttft_mean_s"]


def test_the_picture_is_written(tmp_path: Path) -> None:
    picture = tmp_path / "p.svg"
    run = headrace("--workload", mooncake(tmp_path, 50), "--plot", picture)
    assert run.returncode == 0, run.stderr
    assert picture.read_text().startswith("<svg ")
    assert run.stdout.splitlines()[0].startswith("POLICY")


@pytest.mark.parametrize(
    ("text", "more", "words"),
    [
        ('{"timestamp": 1, "input_length": "x", "output_length": 1}', [], ":1: input_length"),
        ('{"timestamp": 1, "input_length": 500000, "output_length": 1}', [], ":1: 500000 + 1 tokens do not fit"),
        ('{"timestamp": 1, "input_length": 5, "output_length": 1}', ["--policy", "best"], "no policy called 'best'"),
        ('{"timestamp": 1, "input_length": 5, "output_length": 1}', ["--rate", "2"], "--speedup instead"),
    ],
)
def test_what_cannot_be_simulated_is_one_line_of_error(tmp_path: Path, text: str, more: list[str], words: str) -> None:
    path = tmp_path / "w.jsonl"
    path.write_text(text + "\n")
    run = headrace("--workload", path, *more)
    assert run.returncode == 1
    assert run.stdout == ""
    assert run.stderr.count("\n") == 1 and words in run.stderr


def test_requests_that_no_cache_can_hold_are_left_out_and_stderr_says_so(tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl"
    lengths = [100, 2000, 300, 5000, 400]
    lines = ({"timestamp": 9 - at, "input_length": tokens, "output_length": 1} for at, tokens in enumerate(lengths))
    path.write_text("\n".join(json.dumps(line) for line in lines))
    run = headrace("--workload", path, "--kv-tokens", 1024, "--policy", "predicted-drain", "-o", "json")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)[0]["requests"] == 3
    assert run.stderr.count("\n") == 1
    assert f"{path}:2: 2000 + 1 tokens" in run.stderr and "2 of 5 requests are left out" in run.stderr


def test_long_sessions_come_by_default_at_a_rate_that_is_carried(tmp_path: Path) -> None:
    def part(mean: float, deviation: float = 0.0) -> dict[str, object]:
        spread = {"standard_deviation": deviation, "min": mean / 8, "max": mean * 2}
        return {"mean": mean, "distribution_type": "log_normal", **spread}

    path = tmp_path / "sessions.json"
    data = {
        "input_sequence_length": part(60_000, 30_000),
        "output_sequence_length": part(400, 200),
        "number_of_turns": part(6),
        "time_between_turns": part(5),
        "system_prompt": part(1024),
        "input_sequence_length_per_turn": part(4000),
    }
    path.write_text(json.dumps(data))
    arguments = ["--workload", path, "--limit", 1500, "--policy", "predicted-drain", "-o", "json"]
    default, idle = headrace(*arguments), headrace(*arguments, "--rate", 0.01)
    assert default.returncode == 0, default.stderr
    (figures,) = json.loads(default.stdout)
    assert figures["ttft_mean_s"] <= 2 * json.loads(idle.stdout)[0]["ttft_mean_s"]
    overloaded = headrace(*arguments, "--rate", 3 * 1500 / figures["span_s"])
    assert json.loads(overloaded.stdout)[0]["ttft_mean_s"] > 5 * figures["ttft_mean_s"]


@asynccontextmanager
async def serving(settings: EngineSettings) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    runner = web.AppRunner(
        SimulatedServer(ServerSettings(model="sim", engine=settings)).app(),
        handler_cancellation=True,
        shutdown_timeout=0.1,
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession() as session:
        yield session, f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def ask(session: aiohttp.ClientSession, url: str, words: str, tokens: int) -> tuple[float, float]:
    """Seconds to the first token, and to the end."""
    body: dict[str, Any] = {"model": "sim", "prompt": words, "max_tokens": tokens, "stream": True}
    began, first = time.monotonic(), 0.0
    async with session.post(f"{url}/v1/completions", json=body) as answer:
        assert answer.status == 200
        async for line in answer.content:
            if line.startswith(b"data: {") and not first:
                first = time.monotonic() - began
    return first, time.monotonic() - began


async def metrics(session: aiohttp.ClientSession, url: str) -> dict[str, float]:
    async with session.get(f"{url}/metrics") as answer:
        lines = [line.rpartition(" ") for line in (await answer.text()).splitlines() if not line.startswith("#")]
    return {name.partition("{")[0]: float(value) for name, _, value in lines if "_bucket" not in name}


async def test_a_cached_prompt_is_answered_sooner_and_metrics_say_so() -> None:
    prompt = " ".join(f"w{at}" for at in range(8000))
    async with serving(EngineSettings()) as (session, url):
        cold, _ = await ask(session, url, prompt, 2)
        warm, _ = await ask(session, url, prompt, 2)
        assert warm < 0.6 * cold
        assert cold > 0.25
        told = await metrics(session, url)
        assert told["vllm:prefix_cache_hits_total"] == 7984
        assert told["vllm:prefix_cache_queries_total"] == 16000
        assert told["vllm:cache_config_info"] == 1
        assert told["vllm:num_requests_running"] == told["vllm:num_requests_waiting"] == 0
        assert told["vllm:request_queue_time_seconds_count"] == 2


async def test_a_client_that_goes_away_leaves_the_engine() -> None:
    async with serving(EngineSettings()) as (session, url):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await ask(session, url, "a b c", 50_000)
        async with asyncio.timeout(10.0):
            while (await metrics(session, url))["vllm:num_requests_running"]:
                await asyncio.sleep(0.02)


async def test_what_never_fits_is_a_bad_request() -> None:
    async with serving(EngineSettings(kv_tokens=1024)) as (session, url):
        body = {"model": "sim", "prompt": "a " * 2000, "max_tokens": 5}
        async with session.post(f"{url}/v1/completions", json=body) as answer:
            assert answer.status == 400
            assert "KV cache" in (await answer.json())["error"]["message"]


async def test_live_and_simulated_engines_agree() -> None:
    """Sixteen prompts at once, the server three times as slow as an H100, so that this machine's noise matters less."""
    prompts = [" ".join(f"{at}-{word}" for word in range(1000)) for at in range(16)]
    async with serving(EngineSettings(time_scale=3.0)) as (session, url):
        measured = await asyncio.gather(*(ask(session, url, prompt, 20) for prompt in prompts))
    requests = [TraceRequest(0.0, 1000, 20) for _ in prompts]
    settings = PoolSettings(workers=1, slowness=(3.0,))
    simulated = simulate(requests, "round-robin", settings, Objectives()).figures["ttft_mean_s"]
    live = sum(first for first, _ in measured) / len(measured)
    assert live == pytest.approx(simulated, rel=0.15)


def test_block_hashes_are_chained() -> None:
    words = [str(at) for at in range(64)]
    hashes = block_hashes(words)
    assert len(hashes) == 4
    assert block_hashes(words[:40]) == hashes[:2]
    assert block_hashes(["x", *words[1:]])[1:] != hashes[1:]
