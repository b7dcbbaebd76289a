"""Documents as they are written, for judgements of what no resource has: webhooks, conditions, containers, wrong ones.

Built by `analyse`; the judgements read it. Nothing here judges. Documents may be wrong in any way (refused ones are
among them), so every look into one says what to take where something else is written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.config.analysis.codes import Code
from headrace.config.documents import Document, Path, same_field
from headrace.config.schema import Finding, problem_of
from headrace.model.problem import Problem
from headrace.model.resource import Labels


def within(value: Any, *path: str) -> Any:
    """What stands at a path of field names below a value; None where nothing does."""
    for name in path:
        if not isinstance(value, dict):
            return None
        if name in value:
            value = value[name]
        else:
            value = next((item for written, item in value.items() if same_field(str(written), name)), None)
    return value


def mapping(value: Any, *path: str) -> Mapping[str, Any]:
    """`within`, where a mapping is expected; empty for anything else."""
    found = within(value, *path)
    return found if isinstance(found, dict) else {}


def items(value: Any, *path: str) -> list[Any]:
    """`within`, where a list is expected; empty for anything else."""
    found = within(value, *path)
    return found if isinstance(found, list) else []


def text(value: Any, *path: str) -> str:
    """`within`, where text is expected; empty for anything else."""
    found = within(value, *path)
    return found if isinstance(found, str) else ""


def pairs(value: Any, *path: str) -> dict[str, str]:
    """`mapping`, with what is text on both sides."""
    return {
        name: item for name, item in mapping(value, *path).items() if isinstance(name, str) and isinstance(item, str)
    }


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """A document, with the metadata that judgements ask for most."""

    document: Document
    labels: Labels
    annotations: Labels

    @classmethod
    def of(cls, document: Document) -> Written:
        metadata = document.data.get("metadata")
        return cls(document, pairs(metadata, "labels"), pairs(metadata, "annotations"))

    @property
    def name(self) -> str:
        return self.document.name

    @property
    def namespace(self) -> str:
        return self.document.namespace

    @property
    def full_name(self) -> str:
        """`namespace/name`, or the name alone of what stands in no namespace."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    @property
    def spec(self) -> Mapping[str, Any]:
        return mapping(self.document.data, "spec")

    def problem(self, code: Code, path: Path, message: str, remedy: str) -> Problem:
        """A problem of this document, at the line of the field."""
        return problem_of(self.document, Finding(path, message, remedy, code.code, code.severity))


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All documents by API group and kind, in the order of namespace and name."""

    _by_kind: Mapping[tuple[str, str], list[Written]] = field(default_factory=dict)
    _by_name: Mapping[tuple[str, str, str, str], Written] = field(default_factory=dict)

    @classmethod
    def of(cls, documents: Iterable[Document]) -> Catalogue:
        found: dict[tuple[str, str], list[Written]] = defaultdict(list)
        for document in documents:
            if document.name:
                found[document.group, document.kind].append(Written.of(document))
        for written in found.values():
            written.sort(key=lambda item: (item.namespace, item.name))
        names = {
            (group, kind, item.namespace, item.name): item for (group, kind), items in found.items() for item in items
        }
        return cls(found, names)

    def kind(self, group: str, name: str) -> list[Written]:
        """The documents of one kind; the core group is ''."""
        return self._by_kind.get((group, name), [])

    def find(self, group: str, kind: str, namespace: str, name: str) -> Written | None:
        """One document; None where there is none."""
        return self._by_name.get((group, kind, namespace, name))

    def __iter__(self) -> Iterator[Written]:
        for written in self._by_kind.values():
            yield from written
