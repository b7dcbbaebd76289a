"""A real Envoy with the native module and the file of engines' loads: it steers picks, and whatever else stands in it
does no lasting harm."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.flows.envoy_process import EnvoyProcess, wait_until
from tests.flows.module_rig import PoolBootstrap, ask, chat, needs_pools, pool_envoy, simulated, upstreams

from headrace.agent.engine_loads import VARIABLE, EndpointLoad
from headrace.agent.loads_file import loads_page
from headrace.floor.files import write_private

pytestmark = needs_pools
IDLE = {"waiting": 0.0, "running": 0.0}


@dataclass
class Rig:
    """One Envoy before two servers, A and B, that are idle; and the file."""

    envoy: EnvoyProcess
    file: Path
    a: str
    b: str

    def write(self, a: dict[str, float], b: dict[str, float] | None = None, age: float = 0.0) -> None:
        """What the engines say, as the agent writes it."""
        at = 100.0 - age
        loads = [EndpointLoad(self.a, a, at), EndpointLoad(self.b, IDLE if b is None else b, at)]
        self.put(loads_page(loads, 100.0, time.time()))

    def put(self, text: bytes) -> None:
        write_private(self.file, text, durable=False)

    def counts(self, count: int = 12) -> Counter[str]:
        """Where so many requests go, one after the other."""
        answers = [ask(self.envoy, chat(f"prompt {time.monotonic()} {number}")) for number in range(count)]
        assert {answer.status for answer in answers} == {200}
        return Counter(answer.endpoint for answer in answers)

    def picks(self, count: int = 12) -> set[str]:
        """Which endpoints get some of so many requests."""
        return set(self.counts(count))

    def steer(self) -> None:
        """A says that it is busy, as often as it takes until it is avoided."""

        def avoided() -> bool:
            self.write({"waiting": 40.0})
            return self.picks() == {self.b}

        wait_until(avoided, "A is avoided", 30.0)

    def until_both(self) -> None:
        """Both get their share, and not one a request now and then to see whether it still says so."""

        def shared() -> bool:
            counts = self.counts(24)
            return min(counts[self.a], counts[self.b]) >= 4

        wait_until(shared, "both get requests", 30.0)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    directory = tmp_path_factory.mktemp("loads")
    file = directory / "engine-loads"
    with upstreams() as servers:
        ports = [servers.add(simulated(default_tokens=1)) for _ in range(2)]
        bootstrap = PoolBootstrap(directory / "admin.sock", {"models": ports}, {"policy": "random-two"})
        with pool_envoy(bootstrap, {VARIABLE: str(file)}) as envoy:
            yield Rig(envoy, file, *(f"127.0.0.1:{port}" for port in ports))


def test_an_engine_that_is_busy_with_others_requests_is_avoided_until_it_no_longer_is(rig: Rig) -> None:
    rig.until_both()
    for busy, other in ((rig.a, rig.b), (rig.b, rig.a)):
        loads = {"waiting": 40.0, "running": 8.0}

        def steered(busy: str = busy, other: str = other, loads: dict[str, float] = loads) -> bool:
            rig.write(loads, IDLE) if busy == rig.a else rig.write(IDLE, loads)
            return rig.picks() == {other}

        wait_until(steered, f"{busy} is avoided", 30.0)
    rig.write(IDLE)
    rig.until_both()


def test_what_was_said_too_long_ago_counts_no_more(rig: Rig) -> None:
    rig.steer()
    rig.until_both()
    rig.write({"waiting": 40.0}, age=6.0)
    time.sleep(1.0)
    assert rig.picks(30) == {rig.a, rig.b}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\0" * 4096,
        b"headrace-engine-loads 2 1\n",
        b"headrace-engine-loads 1 99999999999999999999999\n",
        b"headrace-engine-loads 1 1\n" + b"x" * 3_000_000,
        b"headrace-engine-loads 1 1\n" + b"a:1 age_ms=0 waiting=1\n" * 40_000,
        b"\xff\xfe" * 1000,
    ],
    ids=["empty", "zeros", "version", "time", "huge", "lines", "noise"],
)
def test_a_malformed_file_changes_nothing_and_the_next_good_one_is_read(rig: Rig, text: bytes) -> None:
    rig.put(text)
    time.sleep(0.6)
    assert rig.picks(30) == {rig.a, rig.b}
    rig.steer()
    rig.write(IDLE)
    rig.until_both()


def test_lies_are_believed_for_five_seconds_at_most_and_never_fail_a_request(rig: Rig) -> None:
    endless = {"waiting": 1e300, "running": 1e300, "kv_used": 1e300, "kv_tokens": 1e300}
    rig.write(endless, endless)
    time.sleep(0.6)
    assert rig.picks(30) <= {rig.a, rig.b}
    rig.write(IDLE)
    rig.until_both()
    in_an_hour = loads_page([EndpointLoad(rig.a, {"waiting": 40.0}, 0.0)], 0.0, time.time() + 3600)
    rig.put(in_an_hour)
    rig.until_both()


def test_a_file_that_others_may_write_or_that_is_none_is_not_read(rig: Rig) -> None:
    rig.write(IDLE)
    rig.until_both()
    other = rig.file.with_name("other")
    other.write_bytes(loads_page([EndpointLoad(rig.a, {"waiting": 40.0}, 0.0)], 0.0, time.time()))
    other.chmod(0o666)
    other.replace(rig.file)
    time.sleep(0.6)
    assert rig.picks(30) == {rig.a, rig.b}
    rig.file.unlink()
    os.mkfifo(rig.file)
    time.sleep(0.6)
    rig.file.unlink()
    rig.steer()


def test_one_thread_follows_the_file_and_none_where_no_file_is_named(rig: Rig, tmp_path: Path) -> None:
    def threads(envoy: EnvoyProcess) -> list[str]:
        tasks = Path(f"/proc/{envoy.process.pid}/task").iterdir()
        return [name for task in tasks if (name := (task / "comm").read_text().strip()) == "headrace-loads"]

    assert threads(rig.envoy) == ["headrace-loads"]
    with upstreams() as servers:
        bootstrap = PoolBootstrap(tmp_path / "admin.sock", {"models": [servers.add(simulated())]})
        with pool_envoy(bootstrap) as envoy:
            assert ask(envoy, chat("hello")).status == 200
            assert threads(envoy) == []
