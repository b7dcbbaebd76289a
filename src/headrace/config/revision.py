"""One consistent state of all documents in force, and the lines of what is said about them.

Made by `config.store`; read by `registry.build` and by everything that shows problems.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from headrace.config.analysis import analyse
from headrace.config.documents import Document, Path
from headrace.model.mesh import MeshConfig
from headrace.model.problem import Problem
from headrace.model.resource import ResourceKey

_PART = re.compile(r'\[(\d+)\]|\["(.*?)"\]|([^.\[\]]+)')


@dataclass(frozen=True, eq=False)
class ConfigRevision:
    """All resources in force at one moment, sorted by key.

    `findings` are the problems of single documents and of files; `problems` adds the judgements across documents,
    made when first asked for, so that a change reaches the proxies before it is commented on.
    """

    number: int
    resources: Mapping[ResourceKey, Any]
    findings: tuple[Problem, ...]
    mesh: MeshConfig
    documents: Mapping[ResourceKey, Document]

    @cached_property
    def problems(self) -> tuple[Problem, ...]:
        """Everything that is wrong or worth saying, sorted by file and line."""
        judged = with_lines(analyse(self.resources, self.mesh), self.documents)
        return tuple(sorted({*self.findings, *judged}))


def with_lines(problems: Iterable[Problem], documents: Mapping[ResourceKey, Document]) -> list[Problem]:
    """The problems with file and exact line of their field, as the documents stand now."""
    by_names = {(key.short_kind, key.namespace, key.name): document for key, document in documents.items()}
    found = []
    for problem in problems:
        document = by_names.get((problem.kind, problem.namespace, problem.name))
        if document is not None:
            line = document.locate(parse_path(problem.field))[1]
            problem = replace(problem, file=document.file, line=line)
        found.append(problem)
    return found


def parse_path(text: str) -> Path:
    """`spec.http[0].route` → `("spec", "http", 0, "route")`: the reverse of `schema.path_text`."""
    return tuple(int(index) if index else quoted or name for index, quoted, name in _PART.findall(text))
