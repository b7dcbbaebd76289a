"""Pools of model servers through a gateway and a sidecar (examples/pool, run as it is shipped): rules in front of them,
picking, edits while they serve, and what is counted."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import urllib.request
from collections import Counter

import pytest
from tests.e2e.asking import Answer, asked, burst, example, needs_module
from tests.e2e.conftest import StartMesh
from tests.e2e.load import Load, Target
from tests.e2e.running import RunningMesh, until
from tests.e2e.shop import CLIENT

pytestmark = needs_module


@pytest.fixture(scope="module")
def pools(start_mesh: StartMesh) -> RunningMesh:
    return start_mesh({**example("pool"), "client.yaml": CLIENT})


def test_weights_hold_in_front_of_two_pools(pools: RunningMesh) -> None:
    answers = burst(pools.gateway(), [f"weighed {number}" for number in range(200)], 2)
    models = Counter(answer.model for answer in answers)
    assert Counter(answer.status for answer in answers) == {200: 200}
    assert 5 <= models["small"] <= 45 and models["large"] == 200 - models["small"], models


def test_each_pool_spreads_a_burst_over_its_endpoints(pools: RunningMesh) -> None:
    before = {replica: pools.served(replica) for replica in pools.replicas("large")}
    answers = burst(pools.gateway(), [f"spread {number} " * 50 for number in range(90)], 4)
    assert {answer.status for answer in answers} == {200}
    share = {replica: pools.served(replica) - before[replica] for replica in before}
    assert min(share.values()) >= 15, share


def test_a_prompt_returns_to_where_its_prefix_is(pools: RunningMesh) -> None:
    """One after the other, so that load plays no part: the same long prompt stays on one replica of its pool."""
    prompt = " ".join(f"word{number}" for number in range(3000))
    before = {replica: pools.served(replica) for replica in pools.replicas("large")}
    for number in range(12):
        assert burst(pools.gateway(), [f"{prompt} {number}"])[0].status == 200
    share = sorted(pools.served(replica) - before[replica] for replica in before)
    assert sum(share) >= 6 and share[-1] >= sum(share) - 1, share


def test_streams_go_on_while_the_policy_is_edited(pools: RunningMesh) -> None:
    text = example("pool")["pools.yaml"]
    with Load(Target(pools.gateway()), rate=30.0) as load:
        for policy in ("least-request", "round-robin", "prefix", "random-two", "predicted-drain"):
            pools.write("pools.yaml", text.replace("policy: predicted-drain", f"policy: {policy}"))
            load.run_on(20)
    assert load.tally.failed == 0, load.tally
    assert load.tally.models()["large"] > load.tally.models()["small"] > 0, load.tally


def test_a_sidecar_is_a_way_into_a_pool(pools: RunningMesh) -> None:
    target = Target("http://large.default.inference.local:8000", pools.proxy_url("default/client-0"))
    before = {replica: pools.served(replica) for replica in pools.replicas("large")}
    with Load(target, rate=30.0) as load:
        load.run_on(60)
    assert load.tally.failed == 0, load.tally
    assert set(load.tally.models()) == {"large"}
    assert min(pools.served(replica) - before[replica] for replica in before) >= 10


def test_mirrored_copies_reach_the_other_pool(pools: RunningMesh) -> None:
    text = example("pool")["gateway.yaml"]
    small = "    - destination:\n        host: small.default.inference.local\n      weight: 10\n"
    assert small in text
    mirror = "    mirrors: [{destination: {host: small.default.inference.local}}]\n"
    pools.write("gateway.yaml", text.replace(small, "").replace("      weight: 90\n", "").rstrip("\n") + "\n" + mirror)
    (replica,) = pools.replicas("small")
    until(
        lambda: {answer.model for answer in burst(pools.gateway(), ["go"] * 12)} == {"large"},
        "all go to the large pool",
    )
    before = pools.served(replica)
    assert {answer.model for answer in burst(pools.gateway(), [f"copy {number}" for number in range(20)])} == {"large"}
    until(lambda: pools.served(replica) >= before + 20, "twenty copies at the small pool")


def test_usage_is_asked_for_counted_and_kept_from_clients_that_did_not_ask(pools: RunningMesh) -> None:
    text = example("pool")["pools.yaml"] + "  observation:\n    usage: Inject\n"
    pools.write("pools.yaml", text)
    host = "large.default.inference.local"
    gateway = next(name for name in pools.proxies() if name.startswith("istio-system/"))

    def counted() -> int:
        found = pools.stats(gateway, "dynamicmodulescustom.headrace_tokens_out")
        return sum(value for name, value in found.items() if host in name)

    def streamed() -> bytes:
        body = json.dumps({"messages": [{"role": "user", "content": "go"}], "max_tokens": 7, "stream": True}).encode()
        request = urllib.request.Request(f"{pools.gateway()}/v1/chat/completions", body)
        request.add_header("content-type", "application/json")
        with urllib.request.urlopen(request, timeout=10.0) as answer:
            return bytes(answer.read())

    def still() -> bool:
        """Whether the count, which the module tells a few times a second, has stopped."""
        found = counted()
        time.sleep(0.6)
        return found == counted()

    def counts_now() -> bool:
        before = counted()
        answers = [streamed() for _ in range(10)]
        assert all(answer.endswith(b"data: [DONE]\n\n") for answer in answers)
        assert not [answer for answer in answers if b"total_tokens" in answer]
        models = sum(b'"model": "large"' in answer for answer in answers)
        until(lambda: counted() == before + 7 * models, f"7 tokens of {models} streams each are counted", 5.0)
        return models > 0

    before = counted()
    until(lambda: streamed() and counted() > before, "the policy is in force: a stream's tokens are counted")
    until(still, "the count stands still")
    until(counts_now, "streams to the large pool")


def test_what_a_dead_server_had_not_answered_is_sent_again_elsewhere(pools: RunningMesh) -> None:
    """Answers without streaming begin when they are complete: whoever dies in between has not answered anybody."""
    pools.write("pools.yaml", example("pool")["pools.yaml"] + "  retries:\n    attempts: 1\n")
    pools.write(
        "gateway.yaml", example("pool")["gateway.yaml"].replace("weight: 90", "weight: 100").replace(": 10\n", ": 0\n")
    )
    until(
        lambda: {answer.model for answer in burst(pools.gateway(), ["go"] * 30)} == {"large"},
        "all go to the large pool",
    )
    victim = pools.replicas("large")[0]
    pid = int(pools.row(victim)["app_pid"])

    async def kill_meanwhile() -> list[Answer]:
        load = asyncio.create_task(asked(pools.gateway(), [f"long {number}" for number in range(24)], 150))
        await asyncio.sleep(0.7)  # less than the 1.5 s that an answer takes: all are at work
        os.kill(pid, signal.SIGKILL)
        return await load

    answers = asyncio.run(kill_meanwhile())
    assert Counter(answer.status for answer in answers) == {200: 24}, Counter(answer.reason for answer in answers)
    assert sum(answer.after > 2.0 for answer in answers) >= 4, sorted(answer.after for answer in answers)
