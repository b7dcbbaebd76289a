"""A bug in the module costs nobody a request: it is caught, counted, and the request goes on, in a real Envoy.

The module is built with bugs on purpose (feature `faults`, native/envoy-module/src/faults.rs)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.flows.admission_rig import HeldServer, count, gated
from tests.flows.envoy_process import running_envoy, wait_until
from tests.flows.module_rig import Answer, Upstreams, ask, chat, in_threads, needs_pools, upstreams

from headrace.envoy import module as native

NATIVE = Path(__file__).parents[2] / "native"
needs_cargo = pytest.mark.skipif(shutil.which("cargo") is None, reason="no cargo: the module cannot be built with bugs")
pytestmark = [needs_pools, needs_cargo]

TIMES = 3
PLACES = ("headers", "body", "entered", "choose", "verdict", "settle", "answer", "end")


@pytest.fixture(scope="module")
def faulty() -> Path:
    """The directory of a module with bugs on purpose."""
    command = ["cargo", "build", "--quiet", "--locked", "--offline", "--package", "envoy-module"]
    target = NATIVE / "target" / "faults"
    subprocess.run(
        [*command, "--features", "faults", "--target-dir", target], cwd=NATIVE, check=True, timeout=600, text=True
    )
    return target / "debug"


@pytest.fixture
def servers() -> Iterator[Upstreams]:
    with upstreams() as started:
        yield started


@pytest.mark.parametrize("place", PLACES)
def test_a_panic_is_counted_and_every_request_is_answered(
    tmp_path: Path, servers: Upstreams, faulty: Path, place: str
) -> None:
    held = [HeldServer(open_at_once=True) for _ in range(2)]
    admission = {"concurrency_per_endpoint": 1, "queue": {"requests": 50, "seconds": 30}}
    bootstrap = gated(tmp_path, [servers.add(server.app()) for server in held], admission)
    environment = {native.SEARCH_PATH: str(faulty), "HEADRACE_FAULT": f"{place}:{TIMES}"}
    with running_envoy(bootstrap.encode(), bootstrap.admin, environment) as envoy:
        wait_until(lambda: envoy.listener_address("front")[1], "the listener listens")
        for _ in range(3):
            answers: list[Answer] = in_threads(8, lambda _: ask(envoy, chat("x")))
            assert {answer.status for answer in answers} == {200}
        wait_until(lambda: count(envoy, "panics") == TIMES, "each panic is counted", 30)
        wait_until(lambda: count(envoy, "in_flight") == count(envoy, "waiting") == 0, "nothing is left", 30)
        assert ask(envoy, chat("x")).endpoint != "", "the pool goes on"
        assert envoy.log_text().count(f"on purpose, at {place}") == TIMES
