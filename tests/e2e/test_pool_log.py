"""The JSON access log of a way into a pool, as it comes without any format written: time in the mesh's queue and time
at the model server can be told apart, for each request."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import aiohttp
import pytest
from tests.e2e.asking import at_once, burst, example, needs_module
from tests.e2e.conftest import StartMesh
from tests.e2e.load import Target, ask
from tests.e2e.load import burst as paced
from tests.e2e.running import RunningMesh, until

pytestmark = needs_module
TOKENS = 60
COMPUTE_MS = 300.0
"""60 tokens at 200 a second."""


@pytest.fixture(scope="module")
def mesh(start_mesh: StartMesh, tmp_path_factory: pytest.TempPathFactory) -> RunningMesh:
    settings = tmp_path_factory.mktemp("mesh") / "mesh.yaml"
    settings.write_text("accessLogFile: /dev/stdout\naccessLogEncoding: JSON\n")
    files = example("throttle")
    files["policy.yaml"] = files["policy.yaml"].replace("requestsPerSecond: 20", "requestsPerSecond: 4")
    return start_mesh(files, "--mesh-config", str(settings))


def entries(mesh: RunningMesh, path: str) -> list[dict[str, Any]]:
    """What the gateway's access log says of requests to this path."""
    gateway = next(name for name in mesh.proxies() if name.startswith("istio-system/"))
    lines = mesh.places.proxy_log(gateway).read_text().splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{") and '"queue_ms"' in line]
    return [entry for entry in found if entry["path"] == path]


def test_queue_and_compute_time_are_told_apart(mesh: RunningMesh) -> None:
    """Four at once, four a second: each waits a quarter of a second more than the one before, and computes alike."""
    assert burst(mesh.gateway(), ["warm"])[0].status == 200
    until(lambda: len(entries(mesh, "/v1/chat/completions")) == 1, "the first entry (Envoy writes every 10 s)", 30.0)
    answers = asyncio.run(at_once(mesh.gateway(), 4, TOKENS))
    assert [answer.status for answer in answers] == [200] * 4
    until(lambda: len(entries(mesh, "/v1/chat/completions")) == 5, "four more", 30.0)
    found = sorted(entries(mesh, "/v1/chat/completions")[1:], key=lambda entry: float(entry["queue_ms"]))
    for entry in found:
        print({name: entry[name] for name in ("duration", "queue_ms", "tokens_in", "tokens_out", "outcome", "pool")})
    waits = [entry["queue_ms"] for entry in found]
    assert all(150 < later - earlier < 350 for earlier, later in itertools.pairwise(waits)), waits
    for entry in found:
        assert (entry["response_code"], entry["outcome"], entry["tokens_out"]) == (200, "ok", TOKENS)
        assert entry["tokens_in"] > 0 and entry["attempts"] == 1
        assert entry["pool"] == "chat.default.svc.cluster.local:80"
        assert entry["upstream_host"] == entry["endpoint"]
        compute = entry["duration"] - entry["queue_ms"]
        assert COMPUTE_MS - 20 <= compute <= COMPUTE_MS + 400, entry


def test_a_stream_tells_when_its_first_token_came(mesh: RunningMesh) -> None:
    before = len(entries(mesh, "/v1/chat/completions"))
    assert paced(Target(mesh.gateway()), 1).failed == 0

    async def stream() -> str:
        async with aiohttp.ClientSession() as session:
            return (await ask(session, Target(mesh.gateway()), TOKENS, stream=True)).error

    assert asyncio.run(stream()) == ""
    until(lambda: len(entries(mesh, "/v1/chat/completions")) == before + 2, "two more", 30.0)
    unary, streamed = entries(mesh, "/v1/chat/completions")[before:]
    assert unary["ttft_ms"] is None
    assert streamed["queue_ms"] <= streamed["ttft_ms"] < streamed["duration"] - 200, streamed
    assert streamed["tokens_out"] == TOKENS


def test_what_was_refused_says_why(mesh: RunningMesh) -> None:
    policy = example("throttle")["policy.yaml"].replace("requestsPerSecond: 20", "requestsPerSecond: 0.5")
    mesh.write("policy.yaml", policy.replace("depth: 30", "depth: 0"))
    until(lambda: "rate" in {answer.reason for answer in burst(mesh.gateway(), ["x"] * 3)}, "the limit is in force")

    def refused() -> list[dict[str, Any]]:
        found = entries(mesh, "/v1/chat/completions")
        return [entry for entry in found if entry["response_code_details"] == "headrace_rate"]

    entry = until(refused, "the log has it", 30.0)[0]
    assert (entry["response_code"], entry["outcome"], entry["endpoint"]) == (429, "refused", "")
    assert entry["upstream_host"] is None
