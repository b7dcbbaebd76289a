"""The documents in force, live: files that are followed, documents applied by the API, and the root PeerAuthentication
that `up` adds. Every accepted change wakes the pipeline.

Owned by the control plane; the rules (one owner a document, last good revision) are `config.store`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import structlog

from headrace.app.control_plane.sources import Source
from headrace.app.settings import MeshSettings
from headrace.config.documents import ReadResult, read_text
from headrace.config.journal import SqliteJournal
from headrace.config.store import API, Applied, ConfigStore
from headrace.floor.places import Places
from headrace.model.problem import Problem
from headrace.model.resource import ResourceKey
from headrace.model.security import PeerAuthentication

_log = structlog.get_logger()
DEFAULTS_SOURCE = "headrace"
"""Owner's name of what `up` itself adds."""
_STRICT = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: headrace-strict, namespace: {root}}}
spec: {{mtls: {{mode: STRICT}}}}
"""


class LiveDocuments:
    """The store with its journal and its sources. `changed` is called after every change that was accepted."""

    def __init__(self, places: Places, settings: MeshSettings, changed: Callable[[], None]) -> None:
        self._settings = settings
        self._changed = changed
        self.store = ConfigStore(SqliteJournal.open(places.documents))
        self._reported: set[Problem] = set()
        self._strict = ""

    @property
    def sources(self) -> list[Source]:
        """What is followed on disk: the MeshConfig file, then the documents."""
        mesh = self._settings.mesh_config
        found = [Source(Path(mesh), mesh_config=True)] if mesh else []
        return found + [Source(Path(item)) for item in self._settings.documents]

    def load(self) -> None:
        """Bring the files into force as they are now (what was applied before comes back from the journal)."""
        for source in self.sources:
            self.store.replace_source(source.name, source.read())
        self._after_change()

    def replace(self, source: str, result: ReadResult) -> None:
        """A source's whole content, as it is on disk now."""
        before = self.store.revision()
        if self.store.replace_source(source, result) is not before:
            self._after_change()

    def apply(self, results: list[ReadResult]) -> tuple[Applied, list[Problem]]:
        """Documents from `headrace apply`; with the problems of what could not be read."""
        applied = self.store.apply(API, [document for result in results for document in result.documents])
        self._after_change()
        return applied, [problem for result in results for problem in result.problems]

    def delete(self, key: ResourceKey) -> Problem | None:
        """Take one document out; the problem says why not (another owner, or none of that name)."""
        problem = self.store.delete(API, key)
        if problem is None:
            self._after_change()
        return problem

    def report(self) -> None:
        """Log what is newly wrong with the documents. Called after a change has reached the proxies."""
        problems = set(self.store.revision().problems)
        for problem in sorted(problems - self._reported):
            _log.warning("document", problem=problem.as_line())
        self._reported = problems

    def _after_change(self) -> None:
        self._settle_strict()
        self._changed()

    def _settle_strict(self) -> None:
        """STRICT for the whole mesh where no document says anything about the whole mesh."""
        revision = self.store.revision()
        root = revision.mesh.root_namespace
        own = any(
            isinstance(item, PeerAuthentication)
            and item.meta.namespace == root
            and not item.selector
            and item.meta.origin.source != DEFAULTS_SOURCE
            for item in revision.resources.values()
        )
        wanted = "" if own or not self._settings.strict_mtls else _STRICT.format(root=root)
        if wanted != self._strict:
            self._strict = wanted
            self.store.replace_source(DEFAULTS_SOURCE, read_text(wanted, "<headrace up>", DEFAULTS_SOURCE))
