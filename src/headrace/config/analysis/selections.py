"""Sidecars and Telemetries by what they select: workloads that exist, and one document for each of them.

IST0101 (selector), IST0110, IST0111, IST0159, IST0160 and IST0167. Called by `analyse`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from headrace.config.analysis.codes import Code
from headrace.config.analysis.index import Index, Running, enumerated, shown
from headrace.config.analysis.written import Written, pairs, within
from headrace.config.documents import Path
from headrace.model.problem import Problem
from headrace.model.resource import Labels


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one kind selects, and the codes for two of its documents that select the same."""

    group: str
    name: str
    selector: Path
    overlapping: Code
    several: Code
    has_selector: Callable[[Written], bool]

    def selected(self, written: Written) -> Labels:
        return pairs(written.spec, *(str(part) for part in self.selector[1:]))


_SIDECAR = _Kind(
    "networking.istio.io",
    "Sidecar",
    ("spec", "workloadSelector", "labels"),
    Code.CONFLICTING_SIDECARS,
    Code.SEVERAL_SIDECARS,
    lambda written: bool(pairs(written.spec, "workloadSelector", "labels")),
)
_TELEMETRY = _Kind(
    "telemetry.istio.io",
    "Telemetry",
    ("spec", "selector", "matchLabels"),
    Code.CONFLICTING_TELEMETRIES,
    Code.SEVERAL_TELEMETRIES,
    lambda written: within(written.spec, "selector") is not None,
)


def judge_selections(index: Index) -> Iterator[Problem]:
    """Every judgement of what Sidecars and Telemetries select."""
    ambient = {
        written.name
        for written in index.written.kind("", "Namespace")
        if written.labels.get("istio.io/dataplane-mode") == "ambient"
        and written.labels.get("istio-injection") != "enabled"
        and not written.labels.get("istio.io/rev")
    }
    yield from _judge(index, _SIDECAR, ambient)
    yield from _judge(index, _TELEMETRY, set())


def _judge(index: Index, kind: _Kind, ambient: set[str]) -> Iterator[Problem]:
    wide: dict[str, list[Written]] = defaultdict(list)
    narrow: dict[int, tuple[Running, list[Written]]] = {}
    for written in index.written.kind(kind.group, kind.name):
        labels = kind.selected(written)
        if not kind.has_selector(written):
            wide[written.namespace].append(written)
        elif labels:
            found = index.pods_with(written.namespace, labels)
            for running in found:
                narrow.setdefault(id(running), (running, []))[1].append(written)
            if not found:
                yield written.problem(
                    Code.NOT_FOUND,
                    kind.selector,
                    f'Referenced selector not found: "{shown(labels)}".',
                    "Correct the labels: a selector is for workloads of its own namespace.",
                )
    yield from _judge_shared(index, kind, narrow)
    for namespace, documents in wide.items():
        if namespace in ambient:
            for written in documents:
                yield _ineffective(written, "its namespace is in ambient mode")
        elif len(documents) > 1:
            names = enumerated(written.name for written in documents)
            for written in documents:
                yield written.problem(
                    kind.several,
                    ("spec",),
                    f"Several of kind {kind.name} in namespace {namespace} have no workload selector: {names}.",
                    "Keep one of them for the namespace, and give the others a selector.",
                )


def _judge_shared(index: Index, kind: _Kind, narrow: dict[int, tuple[Running, list[Written]]]) -> Iterator[Problem]:
    """IST0110 and IST0159, once a document; IST0167 for workloads without a sidecar."""
    said: set[int] = set()
    for running, documents in narrow.values():
        ambient = kind is _SIDECAR and index.is_ambient(running)
        for written in documents if len(documents) > 1 or ambient else ():
            if id(written) in said:
                continue
            said.add(id(written))
            if ambient:
                yield _ineffective(written, "the selected workload is in ambient mode")
                continue
            names = enumerated(document.name for document in documents)
            where = f"{running.meta.namespace}/{running.meta.name}"
            yield written.problem(
                kind.overlapping,
                kind.selector,
                f"Several of kind {kind.name} select the same workload {where}: {names}.",
                "Make the selectors exclude each other: only one has effect.",
            )


def _ineffective(written: Written, reason: str) -> Problem:
    message = f"The policy has no impact: {reason}."
    return written.problem(Code.INEFFECTIVE_POLICY, ("spec",), message, "Take it out, or give the workload a sidecar.")
