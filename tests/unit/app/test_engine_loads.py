"""The table of all hosts' engines' loads: who may speak for whom, what is relayed, and what people see."""

from __future__ import annotations

import pytest
from tests.unit.app.documents import of_type, revision_of

from headrace.app.control_plane.assignments import PlannedReplica, plan
from headrace.app.control_plane.engine_loads import EngineLoadBook
from headrace.app.control_plane.hosts import HostBook
from headrace.model.workload import Workload
from headrace.wire import agent_v1_pb2 as wire

_WORKLOAD = """
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {name: llm}
spec:
  engine: vllm
  replicas: 2
  command: [serve]
  ports: [{name: http, port: 8000}, {name: grpc, port: 9000}]
"""


def planned() -> tuple[PlannedReplica, ...]:
    revision = revision_of(_WORKLOAD)
    return plan(of_type(revision, Workload), [], revision.mesh)


class Mesh:
    """Two hosts with a replica each."""

    def __init__(self) -> None:
        self.time = 100.0
        self.hosts = HostBook()
        self.hosts.planned(planned(), "127.0.0.1")
        for index, host in enumerate(("here", "there")):
            report = wire.ReplicaReport(id=f"default/llm-{index}", address=f"127.16.0.{index + 1}", state="ready")
            self.hosts.report(wire.HostReport(host=host, replicas=[report]))
        self.book = EngineLoadBook(self.hosts, lambda: self.time)

    def say(self, host: str, *loads: wire.EngineLoad) -> None:
        self.book.hear(wire.HostEngineLoads(host=host, loads=loads))


@pytest.fixture
def mesh() -> Mesh:
    return Mesh()


def load(index: int, **fields: float) -> wire.EngineLoad:
    return wire.EngineLoad(replica_id=f"default/llm-{index}", **fields)  # type: ignore[arg-type]


def test_a_host_hears_of_the_others_endpoints(mesh: Mesh) -> None:
    mesh.say("here", load(0, waiting=3, running=4))
    mesh.say("there", load(1, waiting=7, kv_used=0.5, age_ms=200))
    mesh.time += 0.3
    (heard,) = mesh.book.for_host("here").loads
    assert list(heard.addresses) == ["127.16.0.2:8000", "127.16.0.2:9000"]
    assert (heard.waiting, heard.kv_used, heard.age_ms) == (7, 0.5, 500)
    assert not heard.HasField("running")
    assert [item.waiting for item in mesh.book.for_host("there").loads] == [3]
    assert len(mesh.book.for_host("a third").loads) == 2


def test_a_host_speaks_for_its_own_replicas_only(mesh: Mesh) -> None:
    mesh.say("there", load(0, waiting=1000), load(1, waiting=1), load(7, waiting=9))
    assert [item.replica_id for item in mesh.book.for_host("here").loads] == ["default/llm-1"]
    assert set(mesh.book.rows()) == {"default/llm-1"}


def test_what_is_old_or_gone_is_not_relayed_but_people_see_how_old_it_is(mesh: Mesh) -> None:
    mesh.say("there", load(1, waiting=7))
    mesh.time += 5.1
    assert not mesh.book.for_host("here").loads
    assert mesh.book.rows()["default/llm-1"]["age_s"] == 5.1
    before = mesh.book.revision.value
    mesh.book.forget("there")
    assert not mesh.book.rows() and mesh.book.revision.value == before + 1


def test_people_see_what_was_said_and_why_nothing_was(mesh: Mesh) -> None:
    mesh.say("here", wire.EngineLoad(replica_id="default/llm-0", problem="GET /metrics answered 404"))
    mesh.say(
        "there", load(1, waiting=7, running=2, kv_used=0.12345, age_ms=40, slots=8, most_adapters=2, adapters=["fr"])
    )
    relayed = mesh.book.for_host("here").loads[0]
    assert (relayed.slots, relayed.most_adapters, list(relayed.adapters)) == (8, 2, ["fr"])
    assert mesh.book.rows() == {
        "default/llm-0": {
            "waiting": None,
            "running": None,
            "kv_used": None,
            "kv_tokens": None,
            "slots": None,
            "most_adapters": None,
            "adapters": None,
            "age_s": None,
            "problem": "GET /metrics answered 404",
        },
        "default/llm-1": {
            "waiting": 7.0,
            "running": 2.0,
            "kv_used": 0.123,
            "kv_tokens": None,
            "slots": 8.0,
            "most_adapters": 2.0,
            "adapters": ["fr"],
            "age_s": 0.0,
            "problem": None,
        },
    }
