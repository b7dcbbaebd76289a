"""What documents attach to a scope of proxies: settings of its listeners, and patches of everything.

Part of a scope, so that nothing of it reaches translation undeclared. Made by `envoy.scopes`; which documents count is
decided by `registry.extensions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from headrace.envoy.observing import observed
from headrace.model.envoy_filter import Patch
from headrace.model.extension import Extension
from headrace.model.mesh import MeshConfig
from headrace.model.resource import Labels
from headrace.model.telemetry import UNOBSERVED, Observed
from headrace.registry.extensions import Extensions
from headrace.registry.snapshot import MeshSnapshot

if TYPE_CHECKING:
    from headrace.envoy.view import Target


class Attachments:
    """Keeps the settings of listeners from snapshot to snapshot: equal ones are one object for all scopes."""

    def __init__(self) -> None:
        self._extensions: Extensions | None = None
        self._mesh = MeshConfig()
        self._settings: dict[tuple[Observed, tuple[Extension, ...]], MeshConfig] = {}
        self._last: dict[tuple[Observed, tuple[Extension, ...]], MeshConfig] = {}

    @property
    def labels(self) -> frozenset[str]:
        """The labels of workloads that decide what is attached to them."""
        return self._extensions.labels if self._extensions is not None else frozenset()

    def turn(self, snapshot: MeshSnapshot) -> None:
        """Look things up in this snapshot from now on."""
        self._extensions = Extensions(snapshot)
        self._last, self._settings = (self._settings if snapshot.mesh is self._mesh else {}), {}
        self._mesh = snapshot.mesh

    def of(
        self, namespace: str, labels: Labels, by_host: Mapping[str, Target]
    ) -> tuple[MeshConfig | None, tuple[Patch, ...]]:
        """The settings of listeners and the patches for a scope (None: those of the mesh); `by_host` is what its
        proxies can call."""
        found = self._extensions
        if found is None:
            return None, ()
        seen = observed(self._mesh, found.telemetries(namespace, labels), by_host)
        code = found.code(namespace, labels)
        if seen == UNOBSERVED and not code:
            return None, found.patches(namespace, labels)
        settings = self._settings.get((seen, code)) or self._last.get((seen, code))
        if settings is None:
            settings = replace(self._mesh, observed=seen, extensions=code)
        self._settings[seen, code] = settings
        return settings, found.patches(namespace, labels)
