"""From a change to the wire: snapshot, translation of every connected proxy's view, publication.

Driven by the control plane whenever documents or reports changed; bursts are merged by `envoy.xds.debounce` before
they get here. Everything below is pure, so one pass is synchronous and sees one consistent state.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import structlog

from headrace.app.control_plane.hosts import HostBook
from headrace.config.revision import ConfigRevision
from headrace.envoy.resources import ResourceSet
from headrace.envoy.scopes import Scopes, view_of
from headrace.envoy.translate import Translator
from headrace.model.mesh import MeshConfig
from headrace.model.proxy import Proxy
from headrace.registry.build import build_snapshot
from headrace.registry.snapshot import MeshSnapshot

_log = structlog.get_logger()


class Publisher(Protocol):
    """What the pipeline needs of the discovery hub."""

    def publish(self, sets: dict[str, ResourceSet]) -> int: ...


class Revisions(Protocol):
    """What the pipeline needs of the document store."""

    def revision(self) -> ConfigRevision: ...


@dataclass(slots=True)
class Pipeline:
    """Keeps the newest snapshot and every proxy's newest set. `failures` holds proxies whose translation failed, with
    the reason: they keep their last set, all others go on."""

    store: Revisions
    hosts: HostBook
    publisher: Publisher
    translator: Translator = field(default_factory=lambda: Translator(salt=os.urandom(16)))
    scopes: Scopes = field(default_factory=Scopes)
    snapshot: MeshSnapshot | None = None
    failures: dict[str, str] = field(default_factory=dict)
    last_seconds: float = 0.0
    generation: int = 0
    shape: Callable[[MeshConfig], MeshConfig] = lambda mesh: mesh
    """What a running mesh adds to the mesh-wide settings of the documents."""
    shaped: tuple[MeshConfig, MeshConfig] | None = None
    open: bool = False
    """False until every host known from before a restart has reported (or had its time): a half-known mesh must not
    take endpoints away."""

    def run(self) -> int:
        """Bring every known proxy up to date; the generation that was published (the last one where not open)."""
        started = time.perf_counter()
        self.snapshot = build_snapshot(
            self._revision(), self.hosts.observed(), self.snapshot, addressed=self.hosts.names_resolved
        )
        if not self.open:
            return self.generation
        sets: dict[str, ResourceSet] = {}
        failures: dict[str, str] = {}
        for name, proxy in self.hosts.proxies().items():
            try:
                sets[name] = self._translate(self.snapshot, proxy)
            except Exception as error:  # one proxy's trouble must not stop the others'
                failures[name] = f"{type(error).__name__}: {error}"
                _log.exception("translation failed; the proxy keeps its configuration", proxy=name)
        self.failures = failures
        self.generation = self.publisher.publish(sets)
        self.last_seconds = time.perf_counter() - started
        return self.generation

    def _revision(self) -> ConfigRevision:
        """The newest revision; mesh-wide settings that did not change are the same object."""
        revision = self.store.revision()
        if self.shaped is None or self.shaped[0] is not revision.mesh:
            self.shaped = (revision.mesh, self.shape(revision.mesh))
        return replace(revision, mesh=self.shaped[1])

    def _translate(self, snapshot: MeshSnapshot, proxy: Proxy) -> ResourceSet:
        return self.translator.resources(view_of(snapshot, proxy, self.scopes))
