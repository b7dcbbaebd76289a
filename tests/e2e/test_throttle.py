"""examples/throttle (the articles' twenty a second, with a bounded queue) and examples/overflow (what does not fit goes
to another model), run as they are shipped."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections import Counter

import aiohttp
import pytest
from tests.e2e.asking import EXAMPLES, Answer, at_once, burst, example, needs_module
from tests.e2e.conftest import StartMesh
from tests.e2e.load import burst as paced
from tests.e2e.load import through_client
from tests.e2e.running import RunningMesh, until
from tests.e2e.shop import CLIENT

pytestmark = needs_module


@pytest.fixture(scope="module")
def throttle(start_mesh: StartMesh) -> RunningMesh:
    mesh = start_mesh(example("throttle"))
    assert {answer.status for answer in burst(mesh.gateway(), ["warm"])} == {200}
    return mesh


@pytest.fixture(scope="module")
def overflow(start_mesh: StartMesh) -> RunningMesh:
    mesh = start_mesh({**example("overflow"), "client.yaml": CLIENT})
    assert {answer.status for answer in burst(mesh.gateway(), ["warm"])} == {200}
    return mesh


def test_twenty_a_second_thirty_wait_the_rest_is_told_to_come_back(throttle: RunningMesh) -> None:
    """To the request, as docs/reference/admission.md counts: one starts at once and twenty within the second, thirty at
    most wait, and what waits for a second is told so. A busy machine may deliver the burst late, so it gets three
    tries; never may more start than the rate allows."""
    for _ in range(3):
        time.sleep(0.2)  # what came before must have left no debt: at 20 a second that takes 50 ms
        answers = asyncio.run(at_once(throttle.gateway(), 60))
        served = sorted(answer.after for answer in answers if answer.status == 200)
        assert len(served) <= 1 + 20 * served[-1], served
        kinds = Counter((answer.status, answer.reason) for answer in answers)
        if kinds == {(200, ""): 21, (429, "queue-full"): 29, (429, "queue-timeout"): 10}:
            break
    else:
        pytest.fail(str(sorted(answers, key=lambda answer: answer.after)))
    assert 0.95 < served[-1] < 1.6, served
    assert max(answer.after for answer in answers if answer.reason == "queue-full") < 0.5
    late = [answer.after for answer in answers if answer.reason == "queue-timeout"]
    assert min(late) > 0.95 and max(late) < 1.6, late
    assert all(int(answer.retry_after) >= 1 for answer in answers if answer.status == 429)


def test_a_pace_within_the_limit_loses_nothing(throttle: RunningMesh) -> None:
    until(lambda: burst(throttle.gateway(), ["again"])[0].status == 200, "the bucket has filled", 5.0)
    answers = burst(throttle.gateway(), [f"pace {number}" for number in range(15)])
    assert Counter(answer.status for answer in answers) == {200: 15}


def test_a_changed_limit_comes_into_force_while_the_mesh_runs(throttle: RunningMesh) -> None:
    text = example("throttle")["policy.yaml"]
    throttle.write("policy.yaml", text.replace("requestsPerSecond: 20", "requestsPerSecond: 1000\n    burst: 100"))
    until(
        lambda: Counter(answer.status for answer in burst(throttle.gateway(), ["x"] * 60)) == {200: 60},
        "sixty at once pass",
        20.0,
        0.5,
    )


def fate(answer: Answer) -> str:
    """What became of a request: served by a model, or refused and why."""
    if answer.status == 200:
        return f"{answer.model}, {'redirected' if answer.redirected else 'served'}"
    return f"{answer.status} {answer.reason}"


def test_a_burst_is_queued_redirected_and_rejected(overflow: RunningMesh) -> None:
    """Thirty at once, each of 20 tokens (0.1 s at the large model, 1 s at the small one): one starts, five wait their
    turn of 50 ms, twenty-four overflow; the small model takes eight of them, and sixteen are told to come back."""
    wanted = {"large, served": 6, "small, redirected": 8, "429 concurrency": 16}
    for _ in range(3):
        time.sleep(2.0)  # all that ran before has ended
        answers = asyncio.run(at_once(overflow.gateway(), 30, 20))
        fates = Counter(fate(answer) for answer in answers)
        if fates == wanted:
            break
    else:
        pytest.fail(f"{fates}\n{sorted(answers, key=lambda answer: answer.after)}")
    refused = [answer for answer in answers if answer.status == 429]
    assert all(int(answer.retry_after) >= 1 for answer in refused)
    assert max(answer.after for answer in refused) < 0.5
    assert {answer.redirected for answer in answers if answer.model == "small"} == {"queue-full"}
    assert {answer.redirected for answer in answers if answer.model == "large"} == {""}


def test_a_sidecar_redirects_too(overflow: RunningMesh) -> None:
    """Where no VirtualService speaks for the service, and with books of its own."""
    time.sleep(1.5)
    tally = paced(through_client(overflow), 30, at_once=30, tokens=20)
    models = tally.models()
    assert models["large"] >= 6 and models["small"] >= 8, tally
    assert {answer.status for answer in tally.answers} == {200, 429}, tally


def test_a_client_cannot_ask_for_the_other_model(overflow: RunningMesh) -> None:
    name = "outbound|80||chat-small.default.svc.cluster.local"
    until(lambda: burst(overflow.gateway(), ["go"])[0].model == "large", "the large model has room", 5.0)
    for _ in range(3):
        (answer,) = burst(overflow.gateway(), ["go"], x_headrace_overflow=name)
        assert (answer.status, answer.model, answer.redirected) == (200, "large", "")
        time.sleep(0.1)


def test_the_books_are_right_after_redirects(overflow: RunningMesh) -> None:
    gateway = next(name for name in overflow.proxies() if name.startswith("istio-system/"))

    def at_rest() -> bool:
        found = overflow.stats(gateway, "dynamicmodulescustom.headrace_")
        return not any(
            value for name, value in found.items() if "headrace_in_flight" in name or "headrace_waiting" in name
        )

    until(at_rest, "nobody waits or runs by the books", 10.0)
    found = overflow.stats(gateway, "dynamicmodulescustom.headrace_redirects")
    assert sum(found.values()) >= 24, found


def test_envoys_timers_run_from_the_dispatch_not_while_a_request_is_held(throttle: RunningMesh) -> None:
    """A route's timeout of one second, a wait of up to four."""
    policy = example("throttle")["policy.yaml"].replace("requestsPerSecond: 20", "requestsPerSecond: 1")
    throttle.write("policy.yaml", policy.replace("time: 1s", "time: 10s"))
    door = example("throttle")["gateway.yaml"]
    throttle.write("gateway.yaml", door.replace("timeout: 300s", "timeout: 1s\n    retries: {attempts: 0}"))
    until(lambda: burst(throttle.gateway(), ["x"] * 3)[2].after > 0.9, "the limit is in force", 20.0, 1.0)
    time.sleep(1.0)
    answers = burst(throttle.gateway(), [f"patient {number}" for number in range(4)])
    assert [answer.status for answer in answers] == [200] * 4, answers
    assert max(answer.after for answer in answers) > 2.5


def promised(text: str) -> dict[str, int]:
    """What a README says that examples/burst.py prints: what became of requests, and of how many."""
    return {found[2]: int(found[1]) for found in re.finditer(r"^ *(\d+)  (.+?), after ", text, re.MULTILINE)}


@pytest.mark.parametrize(("name", "exact"), [("throttle", True), ("overflow", True), ("pool", False)])
def test_the_readmes_say_what_happens(start_mesh: StartMesh, name: str, exact: bool) -> None:
    """The command of the README, run as it stands there. `pool` is weighted by chance, so its numbers may differ."""
    readme = (EXAMPLES / name / "README.md").read_text()
    wanted = promised(readme)
    command = re.search(r"^    python (examples/burst\.py) http://\S+ (.+)$", readme, re.MULTILINE)
    assert wanted and command
    mesh = start_mesh(example(name))
    assert burst(mesh.gateway(), ["warm"])[0].status == 200
    script = [sys.executable, str(EXAMPLES.parent / command[1]), mesh.gateway(), *command[2].split()]
    for _ in range(3):
        time.sleep(2.0)
        done = subprocess.run(script, capture_output=True, text=True, timeout=60.0)
        found = promised(done.stdout)
        if found == wanted or (not exact and found.keys() == wanted.keys()):
            break
    else:
        pytest.fail(f"{found} instead of {wanted}: {done.stderr}")
    if not exact:
        assert sum(found.values()) == sum(wanted.values())
    guide = (EXAMPLES.parent / "docs" / "guides" / "throttling.md").read_text()
    assert not exact or wanted.items() <= promised(guide).items(), "the guide prints something else than the README"


def test_a_stream_that_waits_hears_that_it_is_not_forgotten(throttle: RunningMesh) -> None:
    """Comments of event streams while the request is held; then the answer, whole."""
    policy = example("throttle")["policy.yaml"].replace("requestsPerSecond: 20", "requestsPerSecond: 1")
    policy = policy.replace("time: 1s", "time: 10s") + "  timeouts:\n    keepalive: 300ms\n"
    throttle.write("policy.yaml", policy)
    throttle.write("gateway.yaml", example("throttle")["gateway.yaml"])

    async def streams() -> list[tuple[int, bytes]]:
        body = {"messages": [{"role": "user", "content": "go"}], "max_tokens": 3, "stream": True}
        timeout = aiohttp.ClientTimeout(total=30.0)

        async def one(session: aiohttp.ClientSession) -> tuple[int, bytes]:
            async with session.post(f"{throttle.gateway()}/v1/chat/completions", json=body) as answer:
                return answer.status, await answer.read()

        async with aiohttp.ClientSession(timeout=timeout) as session:
            return await asyncio.gather(*(one(session) for _ in range(3)))

    def waited() -> list[tuple[int, bytes]]:
        found = asyncio.run(streams())
        return found if any(b": waiting" in text for _, text in found) else []

    answers = until(waited, "the policy is in force", 30.0)
    assert all(status == 200 and text.endswith(b"data: [DONE]\n\n") for status, text in answers), answers
    longest = max(text.count(b": waiting\n\n") for _, text in answers)
    assert 3 <= longest <= 12 and any(text.startswith(b": waiting\n\n") for _, text in answers), answers
