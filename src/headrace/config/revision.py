"""One consistent state of all documents in force, and the lines of what is said about them.

Made by `config.store`; read by `registry.build` and by everything that shows problems.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from headrace.config.analysis import analyse
from headrace.config.documents import Document
from headrace.model.mesh import MeshConfig
from headrace.model.problem import Problem
from headrace.model.resource import ResourceKey


@dataclass(frozen=True, eq=False)
class ConfigRevision:
    """All resources in force at one moment, sorted by key.

    `findings` are the problems of single documents and of files; `problems` adds the judgements across documents,
    made when first asked for, so that a change reaches the proxies before it is commented on. `unread` are documents
    that nothing is made of, as they are wrong or of another kind: analysis looks at some of them.
    """

    number: int
    resources: Mapping[ResourceKey, Any]
    findings: tuple[Problem, ...]
    mesh: MeshConfig
    documents: Mapping[ResourceKey, Document]
    unread: tuple[Document, ...] = ()

    @cached_property
    def problems(self) -> tuple[Problem, ...]:
        """Everything that is wrong or worth saying, sorted by file and line."""
        judged = analyse(self.resources, self.mesh, self.documents, self.unread)
        return tuple(sorted({*self.findings, *judged}))
