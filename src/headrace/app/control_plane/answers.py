"""Documents as the management API shows and changes them: `get`, `apply` and `delete`.

Called by `control_plane.mesh`. What a person may write for a kind is settled here, once for all commands.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from headrace.app.control_plane.documents import LiveDocuments
from headrace.config.documents import ReadResult, read_paths, read_text
from headrace.config.store import API, Stored
from headrace.model.problem import Problem

_SHORT = {
    "vs": "virtualservice",
    "dr": "destinationrule",
    "gw": "gateway",
    "se": "serviceentry",
    "we": "workloadentry",
    "pa": "peerauthentication",
    "svc": "service",
    "ns": "namespace",
    "sa": "serviceaccount",
    "ep": "endpoints",
    "po": "pod",
    "wl": "workload",
}
_HIDDEN = "(hidden)"
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
"""Annotation in which kubectl keeps the whole document as it was applied: of a Secret, with its values."""


Statuses = Callable[[Stored], Mapping[str, Any] | None]
"""What tells the status of a document; None: it has none."""


class Refused(Exception):
    """The API says no: one line with a remedy, and the HTTP status that fits."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _forms(kind: str) -> set[str]:
    """Every spelling of a kind that people use, in lower case."""
    low = kind.lower()
    if low.endswith("y") and low[-2:-1] not in "aeiou":
        return {low, low[:-1] + "ies"}
    return {low, low + ("es" if low.endswith(("s", "ch")) else "s")}


def is_kind(wanted: str, kind: str) -> bool:
    """Whether a person who writes `wanted` (vs, virtualservices, VirtualService, ...) means `kind`."""
    low = wanted.lower()
    return low == "all" or _SHORT.get(low, low) in _forms(kind)


def documents(
    live: LiveDocuments, kind: str, namespace: str | None, name: str | None, status: Statuses = lambda _: None
) -> list[dict[str, Any]]:
    """The documents in force that fit, each with its `status`; Refused where one was asked for and there is none."""
    stored = live.store.documents()
    known = {item.key.short_kind for item in stored}
    if kind.lower() != "all" and not any(is_kind(kind, item) for item in known):
        raise Refused(404, f"no documents of kind {kind!r}; there are: {', '.join(sorted(known)) or 'none'}")
    found = [
        item
        for item in stored
        if is_kind(kind, item.key.short_kind)
        and (namespace is None or item.key.namespace == namespace)
        and (name is None or item.key.name == name)
    ]
    if name is not None and not found:
        raise Refused(404, f"no {kind} called {name!r}: `headrace get {kind}` lists them")
    return [as_json(item, status(item)) for item in found]


def as_json(stored: Stored, status: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A document with its version, where it came from, and its status. The values of Secrets are left out."""
    data: dict[str, Any] = copy.deepcopy(dict(stored.document.data))
    if status is not None:
        data["status"] = dict(status)
    metadata = data.setdefault("metadata", {})
    if stored.key.namespace:
        metadata["namespace"] = stored.key.namespace
    metadata["resourceVersion"] = str(stored.version)
    annotations = metadata.get("annotations") or {}
    metadata["annotations"] = annotations | {
        "headrace.dev/source": stored.document.source,
        "headrace.dev/place": f"{stored.document.file}:{stored.document.line}",
    }
    if stored.key.kind == "Secret":
        if _APPLIED in metadata["annotations"]:
            metadata["annotations"][_APPLIED] = _HIDDEN
        for part in ("data", "stringData"):
            if isinstance(data.get(part), dict):
                data[part] = dict.fromkeys(data[part], _HIDDEN)
    return data


def apply(live: LiveDocuments, sources: list[tuple[str, object]]) -> dict[str, Any]:
    """Bring documents: (name, text) pairs, or (path, None) for files and directories on this machine."""
    results: list[ReadResult] = [
        read_text(text, name, API) if isinstance(text, str) else read_paths([name], API) for name, text in sources
    ]
    applied, unreadable = live.apply(results)
    changed = set(applied.changed)
    problems: list[Problem] = sorted({*unreadable, *applied.problems})
    return {
        "applied": [f"{key} {'configured' if key in changed else 'unchanged'}" for key in applied.keys],
        "problems": [problem.as_json() | {"line_text": problem.as_line()} for problem in problems],
    }


def delete(live: LiveDocuments, kind: str, namespace: str, name: str) -> dict[str, Any]:
    """Take one document out of force; Refused with the reason where that is not to be."""
    found = [
        item.key
        for item in live.store.documents()
        if is_kind(kind, item.key.short_kind) and item.key.name == name and item.key.namespace in (namespace, "")
    ]
    if not found:
        raise Refused(404, f"no {kind} called {name!r} in namespace {namespace!r}: `headrace get {kind}` lists them")
    problem = live.delete(found[0])
    if problem is not None:
        raise Refused(409, f"{problem.message}. {problem.remedy}")
    return {"deleted": f"{found[0]} deleted"}
