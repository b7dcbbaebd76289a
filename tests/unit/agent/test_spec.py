"""Assignments become specs, or are refused with a reason."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.agent.spec import SpecError, parse_message, parse_replica
from headrace.model.workload import Probe, WorkloadRole
from headrace.wire import agent_v1_pb2 as wire


def message(**changes: Any) -> wire.Replica:
    fields: dict[str, Any] = {
        "id": "default/chat-0",
        "namespace": "default",
        "workload": "chat",
        "role": "sidecar",
        "command": ["serve"],
        "identity": "spiffe://cluster.local/ns/default/sa/chat",
        "spec_hash": "1",
        "grace_period_ms": 1500,
    }
    return wire.Replica(**{**fields, **changes})


def test_a_whole_assignment_is_understood() -> None:
    probe = wire.Probe(http_path="/health", period_ms=500, timeout_ms=250, initial_delay_ms=100, failure_threshold=7)
    spec = parse_replica(message(readiness=probe, ports=[wire.Port(number=8000, name="http")], bind="127.0.0.9"))
    assert (spec.id, spec.name, spec.role, spec.grace_period) == ("default/chat-0", "chat-0", WorkloadRole.SIDECAR, 1.5)
    assert spec.readiness == Probe(
        http_path="/health", period=0.5, timeout=0.25, initial_delay=0.1, success_threshold=1, failure_threshold=7
    )
    assert spec.liveness is None and spec.startup is None
    assert spec.bind == "127.0.0.9" and parse_replica(message()).bind == "127.0.0.1"
    assert parse_message(spec.message) == spec


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"id": ""}, "empty"),
        ({"id": "x" * 600}, "longer than"),
        ({"id": "a\nb"}, "unprintable"),
        ({"role": "waypoint"}, "waypoint"),
        ({"identity": "spiffe://x"}, "spiffe://"),
        ({"command": []}, "no command"),
        ({"command": ["a\0b"]}, "NUL"),
        ({"ports": [wire.Port(number=0)]}, "port 0"),
        ({"ports": [wire.Port(number=70000)]}, "port 70000"),
    ],
)
def test_what_cannot_be_run_is_refused(change: dict[str, Any], why: str) -> None:
    with pytest.raises(SpecError, match=why):
        parse_replica(message(**change))


def test_a_gateway_needs_no_command() -> None:
    assert parse_replica(message(role="gateway", command=[])).is_gateway


def test_bytes_that_are_no_assignment_are_refused() -> None:
    with pytest.raises(SpecError):
        parse_message(b"\xff\xff\xff")


def test_secrets_in_the_environment_stay_out_of_texts() -> None:
    assert "hunter2" not in repr(parse_replica(message(env=[wire.Variable(name="KEY", value="hunter2")])))
