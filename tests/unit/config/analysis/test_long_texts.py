"""Texts as long as a file may be: judged in time that grows with their length, not with its square."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from headrace.config.documents import read_text
from headrace.config.judge import judge

LENGTH = 400_000


def _pod(annotation: str, value: str) -> dict[str, Any]:
    metadata = {"name": "p", "annotations": {annotation: value}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [{"name": "a"}]}}


def _of(version: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": "n"}, "spec": spec}


LONG = {
    "quantity": (_pod("sidecar.istio.io/proxyCPU", "1" * LENGTH + "x"), "IST0125"),
    "host": (
        _of(
            "networking.istio.io/v1",
            "VirtualService",
            {"hosts": ["a.b"], "http": [{"route": [{"destination": {"host": "." * LENGTH, "subset": "v1"}}]}]},
        ),
        "IST0101",
    ),
    "number in an expression": (
        _of(
            "telemetry.istio.io/v1",
            "Telemetry",
            {"accessLogging": [{"filter": {"expression": "1" * LENGTH}}]},
        ),
        "IST0106",
    ),
    "ports of a module": (
        _of(
            "extensions.istio.io/v1alpha1",
            "WasmPlugin",
            {"url": "oci://a/b", "match": [{"ports": [{"number": number} for number in range(1, 65_000)]}]},
        ),
        "HR0001",
    ),
}


@pytest.mark.parametrize(("document", "code"), LONG.values(), ids=LONG.keys())
def test_long_texts_are_judged_in_time(document: dict[str, Any], code: str) -> None:
    started = time.monotonic()
    problems = judge([read_text(json.dumps(document), "file.json", "test")])
    assert code in [problem.code for problem in problems]
    assert "IST0001" not in [problem.code for problem in problems]
    assert time.monotonic() - started < 20
