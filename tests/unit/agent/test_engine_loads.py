"""The host's table of engines' loads, and the file that Envoys read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from headrace.agent.capture import ProxyDoor
from headrace.agent.engine_loads import EngineLoads, ReplicaLoad
from headrace.agent.engine_watch import endpoint_addresses, engine_of, metrics_port
from headrace.agent.loads_file import LoadsFile, loads_page
from headrace.inference.metrics import EngineMetrics, LoraMetrics
from headrace.model.workload import Engine, WorkloadPort
from headrace.wire import agent_v1_pb2 as wire

BUSY = EngineMetrics(
    waiting=3, running=4, kv_used=0.5, kv_tokens=16000, slots=8, lora=LoraMetrics(("a b", "fr"), (), 2)
)


class Clock:
    """Says what the test says."""

    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return 1_000_000 + self.time

    def monotonic(self) -> float:
        return self.time


def table() -> EngineLoads:
    loads = EngineLoads()
    loads.set("default/llm-0", ReplicaLoad(("127.16.0.1:8000", "127.16.0.1:9000"), BUSY, 99.75))
    loads.set("default/llm-1", ReplicaLoad(("127.16.0.2:8000",)).failed("/metrics answered 500"))
    return loads


def test_the_file_has_a_line_for_every_endpoint_of_which_something_is_known() -> None:
    page = loads_page(table().endpoints(100.0), 100.0, 1.5)
    assert page.decode() == (
        "headrace-engine-loads 1 1500\n"
        "127.16.0.1:8000 age_ms=250 waiting=3 running=4 kv_used=0.5 kv_tokens=16000 slots=8 most_adapters=2\n"
        "127.16.0.1:8000 age_ms=250 adapters=a%20b,fr\n"
        "127.16.0.1:9000 age_ms=250 waiting=3 running=4 kv_used=0.5 kv_tokens=16000 slots=8 most_adapters=2\n"
        "127.16.0.1:9000 age_ms=250 adapters=a%20b,fr\n"
    )


def test_a_failure_keeps_the_figures_until_they_are_old() -> None:
    loads = table()
    before = loads.own("default/llm-0")
    assert before is not None
    loads.set("default/llm-0", before.failed("no answer"))
    assert len(loads.endpoints(104.0)) == 2
    assert loads.endpoints(105.0) == []


def test_the_control_plane_is_told_figures_and_problems() -> None:
    message = table().message("here", 100.0)
    first, second = message.loads
    assert (first.replica_id, first.age_ms, first.waiting, first.kv_used) == ("default/llm-0", 250, 3, 0.5)
    assert (first.slots, first.most_adapters, list(first.adapters)) == (8, 2, ["a b", "fr"])
    assert (second.problem, second.HasField("waiting"), second.age_ms) == ("/metrics answered 500", False, 0)
    assert message.host == "here"


def test_others_are_heard_and_this_host_s_own_word_on_its_own_goes_first() -> None:
    loads = table()
    loads.hear(
        wire.MeshEngineLoads(
            loads=[
                wire.EngineLoad(addresses=["127.16.0.1:8000"], waiting=99),
                wire.EngineLoad(addresses=["10.0.0.7:8000"], waiting=5, age_ms=1000),
                wire.EngineLoad(addresses=["10.0.0.8:8000"]),
                wire.EngineLoad(addresses=["10.0.0.9:8000"], waiting=float("nan")),
                wire.EngineLoad(addresses=["evil\n10.0.0.1:1", "a b", "", "x" * 100], waiting=1),
            ]
        ),
        100.0,
    )
    found = {load.address: load.figures["waiting"] for load in loads.endpoints(100.0)}
    assert found == {"10.0.0.7:8000": 5, "127.16.0.1:8000": 3, "127.16.0.1:9000": 3}
    assert "10.0.0.7:8000" not in {load.address for load in loads.endpoints(104.5)}


def test_words_wake_readers_and_what_others_say_is_no_news_of_this_host() -> None:
    loads = table()
    before = loads.own_revision.value, loads.revision.value, loads.words()
    loads.hear(wire.MeshEngineLoads(), 100.0)
    assert (loads.own_revision.value, loads.revision.value) == (before[0], before[1] + 1)
    loads.set("default/llm-0", ReplicaLoad(("127.16.0.1:8000",), BUSY, 101.0))
    assert loads.words() == before[2]
    loads.forget("default/llm-1")
    loads.forget("default/llm-1")
    assert loads.own_revision.value == before[0] + 2
    assert loads.words() != before[2]


def test_the_file_is_private_written_for_news_and_again_after_a_second(tmp_path: Path) -> None:
    clock, loads, path = Clock(), EngineLoads(), tmp_path / "engine-loads"
    file = LoadsFile(path, clock)
    assert not file.update(loads) and not path.exists()
    loads.set("default/llm-0", ReplicaLoad(("127.16.0.1:8000",), BUSY, clock.time))
    assert file.update(loads)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    clock.time += 0.5
    loads.set("default/llm-0", ReplicaLoad(("127.16.0.1:8000",), BUSY, clock.time))
    assert not file.update(loads)
    clock.time += 0.6
    assert file.update(loads)
    loads.set("default/llm-0", ReplicaLoad(("127.16.0.1:8000",), EngineMetrics(waiting=1), clock.time))
    assert file.update(loads)
    assert path.read_text().splitlines()[1] == "127.16.0.1:8000 age_ms=0 waiting=1"
    loads.forget("default/llm-0")
    assert file.update(loads)
    assert path.read_text() == f"headrace-engine-loads 1 {int(clock.now() * 1000)}\n"


def test_what_an_earlier_agent_left_is_replaced_at_once(tmp_path: Path) -> None:
    path = tmp_path / "engine-loads"
    path.write_text("headrace-engine-loads 1 1\n127.16.0.1:8000 age_ms=0 waiting=9\n")
    assert LoadsFile(path, Clock()).update(EngineLoads())
    assert len(path.read_text().splitlines()) == 1


def test_a_directory_that_is_gone_is_survived(tmp_path: Path) -> None:
    assert LoadsFile(tmp_path / "gone" / "engine-loads", Clock()).update(table())


def test_whom_to_ask() -> None:
    assert engine_of("vllm") is Engine.VLLM
    assert [engine_of(text) for text in ("", "ollama", "of-tomorrow")] == [None, None, None]
    ports = (WorkloadPort(8000, "http"), WorkloadPort(8002, "metrics"))
    assert (metrics_port(ports), metrics_port(ports[:1])) == (8002, 0)
    assert endpoint_addresses("::1", (80, 81)) == ("[::1]:80", "[::1]:81")


def test_proxies_that_are_users_of_their_own_get_copies_once_a_second(tmp_path: Path) -> None:
    def door(name: str, owner: int | None) -> ProxyDoor:
        (tmp_path / name).mkdir()
        return ProxyDoor(tmp_path / name / "x", tmp_path / name / "a", tmp_path / name / "bootstrap.json", owner)

    own, shared = door("own", os.getuid()), door("shared", None)
    gone = ProxyDoor(tmp_path / "gone/x", tmp_path / "gone/a", tmp_path / "gone/bootstrap.json", os.getuid())
    clock, loads = Clock(), EngineLoads()
    file = LoadsFile(tmp_path / "engine-loads", clock, lambda: [gone, own, shared])
    assert own.loads is not None and shared.loads is None
    for waiting, copied in ((1, 1), (2, 1), (3, 3)):
        loads.set("default/llm-0", ReplicaLoad(("127.16.0.1:8000",), EngineMetrics(waiting=waiting), clock.time))
        assert file.update(loads)
        assert f"waiting={waiting}" in (tmp_path / "engine-loads").read_text()
        assert f"waiting={copied}" in own.loads.read_text()
        clock.time += 0.6
    assert stat.S_IMODE(own.loads.stat().st_mode) == 0o600
    assert list((tmp_path / "shared").iterdir()) == []


def test_adapters_are_bounded_in_number_and_length() -> None:
    names = ("x" * 257, "", *(f"adapter-{number}" for number in range(100)))
    told = ReplicaLoad((), EngineMetrics(lora=LoraMetrics(names))).adapters()
    assert told[0] == "adapter-0" and len(told) == 62
