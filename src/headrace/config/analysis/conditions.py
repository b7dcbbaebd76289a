"""Status conditions that a controller has set to "this does not work", in documents that were read from a cluster.

IST0171. Called by `analyse`; which conditions count, by kind, is Istio's list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from headrace.config.analysis.codes import Code
from headrace.config.analysis.index import Index
from headrace.config.analysis.written import Written, items, text
from headrace.config.documents import Path
from headrace.model.problem import Problem

_WAYPOINT = ("istio.io/WaypointBound",)
_GATEWAY_API = ("Accepted", "Programmed", "ResolvedRefs")
_NEGATIVE: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("", "Service"): _WAYPOINT,
    ("networking.istio.io", "ServiceEntry"): _WAYPOINT,
    ("networking.istio.io", "WorkloadEntry"): _WAYPOINT,
    ("security.istio.io", "AuthorizationPolicy"): ("ZtunnelAccepted", "WaypointAccepted"),
    ("gateway.networking.k8s.io", "Gateway"): _GATEWAY_API,
    ("gateway.networking.k8s.io", "HTTPRoute"): _GATEWAY_API,
    ("gateway.networking.k8s.io", "GRPCRoute"): _GATEWAY_API,
}
_ROUTES = ("HTTPRoute", "GRPCRoute")


def judge_conditions(index: Index) -> Iterator[Problem]:
    """IST0171 for every condition that says no."""
    for (group, kind), types in _NEGATIVE.items():
        for written in index.written.kind(group, kind):
            for path, condition in _conditions(written):
                if _says_no(condition, types):
                    said = f"{text(condition, 'type')} {text(condition, 'reason')}: {text(condition, 'message')}"
                    yield written.problem(
                        Code.NEGATIVE_CONDITION,
                        path,
                        f"The status has a condition that says no: {said[:500]}",
                        "Mend what its message names; the controller writes the condition anew.",
                    )


def _conditions(written: Written) -> Iterator[tuple[Path, Any]]:
    status = written.document.data.get("status")
    if written.document.kind not in _ROUTES:
        for at, condition in enumerate(items(status, "conditions")):
            yield ("status", "conditions", at), condition
        return
    for number, parent in enumerate(items(status, "parents")):
        for at, condition in enumerate(items(parent, "conditions")):
            yield ("status", "parents", number, "conditions", at), condition


def _says_no(condition: Any, types: tuple[str, ...]) -> bool:
    kind = text(condition, "type")
    partly = kind == "WaypointAccepted" and text(condition, "reason") == "PartiallyInvalid"
    return kind in types and (text(condition, "status") == "False" or partly)
