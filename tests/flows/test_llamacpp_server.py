"""A real llama.cpp server with a generated model: readable, tellable answers, and sickness on demand."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest

from headrace.inference.tiny_model import CORPORA, TinyModel, ensure_model, read_corpus


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.02)


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=2.0) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(params=CORPORA, scope="module")
def server(request: pytest.FixtureRequest, cache: Path) -> Iterator[tuple[str, str, int]]:
    """(text, base URL, pid) of a running server."""
    port = free_port()
    process = subprocess.Popen(
        f"{sys.executable} -m headrace model-server --engine llamacpp "
        f"--text {request.param} --model {request.param} --port {port}".split(),
        env=os.environ | {"HEADRACE_CACHE": str(cache)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: status_of(f"{url}/health") == 200)
        yield request.param, url, process.pid
    finally:
        process.terminate()
        assert process.wait(20.0) == 0


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z']+", text.lower()))


def ask(url: str) -> tuple[str, str, int]:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    text, model, tokens = "", "", 0
    stream = client.chat.completions.create(
        model="any",
        messages=[{"role": "user", "content": "hello"}],
        max_tokens=24,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        model = chunk.model
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
        if chunk.usage:
            tokens = chunk.usage.completion_tokens
    return text, model, tokens


def test_answers_are_made_of_the_models_own_words(server: tuple[str, str, int]) -> None:
    corpus, url, _ = server
    text, model, tokens = ask(url)
    assert model == corpus
    assert 1 <= tokens <= 24
    assert words(text) and words(text) <= words(read_corpus(corpus))


def test_it_falls_sick_and_recovers_on_signals(server: tuple[str, str, int]) -> None:
    _, url, pid = server
    models = f"{url}/v1/models"
    assert status_of(models) == 200
    os.kill(pid, signal.SIGUSR1)
    until(lambda: status_of(models) == 500)
    assert status_of(f"{url}/health") == 200
    os.kill(pid, signal.SIGUSR2)
    until(lambda: status_of(models) == 200)


def test_the_two_texts_can_be_told_apart() -> None:
    river, forge = (words(read_corpus(name)) for name in CORPORA)
    assert len(river & forge) <= 0.25 * min(len(river), len(forge))


def test_a_model_is_written_once_and_is_the_same_each_time(tmp_path: Path) -> None:
    first = ensure_model(TinyModel("river"), tmp_path / "a")
    second = ensure_model(TinyModel("river"), tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()
    stamp = first.stat().st_mtime_ns
    assert ensure_model(TinyModel("river"), tmp_path / "a").stat().st_mtime_ns == stamp
    assert [item.name for item in (tmp_path / "a").iterdir()] == [first.name]
