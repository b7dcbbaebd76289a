"""Every example runs as it is shipped: the canary with real llama.cpp servers, asked by the openai client, and the demo
that plays it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any

import openai
import pytest
from tests.e2e.conftest import StartMesh
from tests.e2e.running import RunningMesh, until
from tests.e2e.shop import EXAMPLE

MODELS = {"v1-fast-model", "v2-smart-model"}
pytestmark = pytest.mark.skipif(
    subprocess.run([sys.executable, "-c", "import xllamacpp, gguf"], capture_output=True).returncode != 0,
    reason="the llamacpp engine is not installed (pip install 'headrace[models]')",
)


def test_every_example_has_a_test() -> None:
    assert {path.name for path in EXAMPLE.parent.iterdir() if path.is_dir()} == {
        "canary",
        "gateway-api",
        "overflow",
        "pool",
        "safe-paths",
        "throttle",
    }


@pytest.fixture(scope="module")
def mesh(start_mesh: StartMesh) -> RunningMesh:
    return start_mesh({path.name: path.read_text() for path in sorted(EXAMPLE.iterdir()) if path.is_file()})


def streamed(url: str, **headers: str) -> tuple[str, str]:
    """One streamed answer: the model that gave it, and its text."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60.0)
    stream = client.chat.completions.create(
        model="any",
        messages=[{"role": "user", "content": "What does the wheel do?"}],
        max_tokens=16,
        stream=True,
        extra_headers={name.replace("_", "-"): value for name, value in headers.items()},
    )
    model, text, finished = "", "", False
    for chunk in stream:
        model = chunk.model or model
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        finished = finished or bool(chunk.choices and chunk.choices[0].finish_reason)
    assert finished
    return model, text


def test_canary_through_the_gateway(mesh: RunningMesh) -> None:
    model, text = streamed(mesh.gateway())
    assert model in MODELS and text.strip(), (model, text)
    for _ in range(3):
        model, text = streamed(mesh.gateway(), x_canary="v2")
        assert model == "v2-smart-model" and text.strip()


def test_canary_through_the_client_workload(mesh: RunningMesh) -> None:
    log = mesh.places.workload_log("default/client-0")

    def answers() -> list[dict[str, Any]]:
        return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]

    until(lambda: len(answers()) >= 5, "five answers", 30.0)
    failed = [answer for answer in answers() if not answer["ok"]]
    assert not failed, failed[:3]
    assert {answer["model"] for answer in answers()} <= MODELS


def test_demo() -> None:
    """The demo in short: it ends by itself, no request fails outside the injected failures, and all is gone after."""
    done = subprocess.run(
        [sys.executable, "-m", "headrace", "demo", "--seconds", "2", "--rate", "20"],
        capture_output=True,
        text=True,
        timeout=150,
        env={**os.environ, "COLUMNS": "200"},
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    counted = re.search(r"requests sent: (\d+); failed: (\d+) \(outside the (\d+) injected failures\)", done.stdout)
    assert counted, done.stdout
    assert int(counted[1]) > 150 and int(counted[2]) == 0 and int(counted[3]) >= 5
    assert re.search(r"with 0 requests to it, then back", done.stdout), done.stdout
    assert re.search(r"ejected: .* failed +0 +v1-fast-model +0\.0 % +v2-smart-model +100\.0 %", done.stdout), (
        done.stdout
    )
