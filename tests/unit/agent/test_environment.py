"""Kubernetes' `$(NAME)`, and what an application finds in its environment."""

from __future__ import annotations

import sys

import pytest

from headrace.agent.capture import Attachment
from headrace.agent.environment import application_command, application_environment, expand
from headrace.agent.spec import ReplicaSpec
from headrace.model.identity import Identity
from headrace.model.workload import WorkloadPort, WorkloadRole

VALUES = {"A": "1", "B_2": "two", "EMPTY": ""}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)", "1"),
        ("x$(A)y$(B_2)", "x1ytwo"),
        ("$(MISSING)", "$(MISSING)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$$", "$"),
        ("$A ${A} $", "$A ${A} $"),
        ("$(EMPTY)", ""),
        ("$(A", "$(A"),
        ("$($(A))", "$(1)"),
        ("", ""),
    ],
)
def test_references_are_expanded_as_kubernetes_does(text: str, expected: str) -> None:
    assert expand(text, VALUES) == expected


def spec(**changes: object) -> ReplicaSpec:
    fields = {
        "id": "default/chat-v1-0",
        "namespace": "default",
        "workload": "chat-v1",
        "index": 0,
        "role": WorkloadRole.SIDECAR,
        "identity": Identity("cluster.local", "default", "chat"),
        "spec_hash": "1",
        "ports": (WorkloadPort(8000, "http"), WorkloadPort(9000, "http-admin"), WorkloadPort(7000)),
    }
    return ReplicaSpec(**{**fields, **changes})  # type: ignore[arg-type]


ATTACHMENT = Attachment("127.9.0.1", app_ports=((8000, 20001), (9000, 20002), (7000, 20003)))


def test_ports_and_facts_are_told_by_name_and_number() -> None:
    found = application_environment(spec(), ATTACHMENT, {}, {})
    assert found == {
        "PORT": "20001",
        "PORT_8000": "20001",
        "PORT_HTTP": "20001",
        "PORT_9000": "20002",
        "PORT_HTTP_ADMIN": "20002",
        "PORT_7000": "20003",
        "HEADRACE_REPLICA": "default/chat-v1-0",
        "HEADRACE_NAMESPACE": "default",
        "HEADRACE_WORKLOAD": "chat-v1",
        "HEADRACE_INDEX": "0",
        "HEADRACE_ADDRESS": "127.9.0.1",
        "HEADRACE_IDENTITY": "spiffe://cluster.local/ns/default/sa/chat",
        "HEADRACE_PYTHON": sys.executable,
    }


def test_the_document_wins_over_the_mesh_and_the_mesh_over_what_was_inherited() -> None:
    inherited = {"PATH": "/bin", "http_proxy": "http://corporate", "HTTPS_PROXY": "x", "PORT": "1", "HEADRACE_X": "y"}
    found = application_environment(
        spec(env=(("PORT", "5"), ("PATH", "/opt:$(PATH)"), ("LATER", "$(PORT)"))),
        ATTACHMENT,
        {"http_proxy": "http://mesh"},
        inherited,
    )
    assert (found["PORT"], found["PATH"], found["LATER"], found["http_proxy"]) == ("5", "/opt:/bin", "5", "http://mesh")
    assert found["HTTPS_PROXY"] == "x", "the mesh captures plain HTTP only"
    assert "HEADRACE_X" not in found


def test_commands_see_the_whole_environment() -> None:
    assert application_command(("serve", "--port=$(PORT)"), {"PORT": "20001"}) == ("serve", "--port=20001")
