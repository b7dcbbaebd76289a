"""The judgement of documents as a whole, without a mesh: what `headrace check` says.

Called by `app.cli.check`; the same rules as the store's, so that what passes here comes into force there.
"""

from __future__ import annotations

from collections.abc import Iterable

from headrace.config.documents import ReadResult
from headrace.config.revision import ConfigRevision
from headrace.config.store import ConfigStore
from headrace.model.problem import Problem


def judge(results: Iterable[ReadResult]) -> list[Problem]:
    """All problems of everything that was read, single documents and across them, sorted by file and line."""
    return list(brought(results).problems)


def brought(results: Iterable[ReadResult]) -> ConfigRevision:
    """What everything that was read would bring into force."""
    read = list(results)
    joined = ReadResult(
        tuple(document for result in read for document in result.documents),
        tuple(problem for result in read for problem in result.problems),
        frozenset(name for result in read for name in result.broken),
    )
    return ConfigStore().replace_source("check", joined)
