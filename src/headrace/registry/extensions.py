"""What a workload's proxy has beyond routes and policies: patches of its configuration, code that it runs, and what it
says of its traffic, as far as documents of the root namespace and of its own say it.

Called by `envoy.scopes` for each scope. A document of another namespace reaches nobody (Istio's rule of attachment, as
for policies: `registry.policies`).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from headrace.model.envoy_filter import EnvoyFilter, Patch
from headrace.model.extension import Extension
from headrace.model.policy import GATEWAY_NAME_LABEL
from headrace.model.resource import Labels
from headrace.model.telemetry import Telemetry
from headrace.registry.policies import PolicyTable, Scoped
from headrace.registry.snapshot import MeshSnapshot

_LAST = 2**31


class Extensions:
    """The documents of one snapshot, ready to be looked up. `labels` are the names of labels that they select on."""

    def __init__(self, snapshot: MeshSnapshot) -> None:
        root = snapshot.mesh.root_namespace
        self.empty = not (snapshot.envoy_filters or snapshot.extensions or snapshot.telemetries)
        self._filters: PolicyTable[EnvoyFilter] = PolicyTable(snapshot.envoy_filters, root)
        self._extensions: PolicyTable[Extension] = PolicyTable(snapshot.extensions, root)
        self._telemetries: PolicyTable[Telemetry] = PolicyTable(snapshot.telemetries, root)
        self.labels = label_names(chain(snapshot.envoy_filters, snapshot.extensions, snapshot.telemetries))

    def filters(self, namespace: str, labels: Labels) -> list[EnvoyFilter]:
        """The EnvoyFilters for a workload, in the order in which they apply: by priority, then the root namespace's,
        then by age (Istio's order)."""
        return sorted(self._filters.of(namespace, labels), key=lambda item: item.priority)

    def patches(self, namespace: str, labels: Labels) -> tuple[Patch, ...]:
        """The patches for a workload, in the order in which they apply."""
        return tuple(patch for item in self.filters(namespace, labels) for patch in item.patches)

    def code(self, namespace: str, labels: Labels) -> tuple[Extension, ...]:
        """The extensions for a workload: highest priority first, those without one last; then the workload's
        namespace before the root one, each by age."""
        found = self._extensions.of(namespace, labels)
        return tuple(sorted(found, key=lambda item: (_rank(item), item.meta.namespace != namespace, item.meta.age())))

    def telemetries(self, namespace: str, labels: Labels) -> tuple[Telemetry, ...]:
        """The Telemetry documents for a workload: the mesh's, then its namespace's, then its own. Of those for a whole
        namespace the oldest counts alone; a selector in the root namespace counts for that namespace's workloads
        only."""
        wide: dict[str, Telemetry] = {}
        own: list[Telemetry] = []
        for item in self._telemetries.of(namespace, labels):
            if not item.scope.selector and not item.scope.targets:
                wide.setdefault(item.meta.namespace, item)
            elif item.meta.namespace == namespace:
                own.append(item)
        return (*wide.values(), *own)


def _rank(extension: Extension) -> int:
    return _LAST if extension.priority is None else -extension.priority


def label_names(documents: Iterable[Scoped]) -> frozenset[str]:
    """The labels that decide for whom these documents are."""
    names = set[str]()
    for item in documents:
        names.update(name for name, _ in item.scope.selector)
        if item.scope.targets:
            names.add(GATEWAY_NAME_LABEL)
    return frozenset(names)
