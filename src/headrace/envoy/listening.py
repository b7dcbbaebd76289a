"""The scope from which a proxy's listeners are made: with what Telemetry and extensions add to the mesh's settings.

Called by `envoy.scopes`. Clusters and routes are made from the scope itself, so that nothing of a log or a trace
touches them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from headrace.model.mesh import MeshConfig
from headrace.model.proxy import Proxy
from headrace.model.telemetry import Producer

if TYPE_CHECKING:
    from headrace.envoy.view import Scope

_CANONICAL = ("service.istio.io/canonical-name", "app.kubernetes.io/name", "app")
_REVISION = ("service.istio.io/canonical-revision", "app.kubernetes.io/version", "version")


class ListeningScopes:
    """Keeps the derived scopes and their settings: the same scope (or settings) and producer give the same object, so
    that listeners are not made again where only services or routes changed."""

    def __init__(self) -> None:
        self._known: dict[tuple[Scope, Producer | None], Scope] = {}
        self._settings: dict[tuple[MeshConfig, Producer], MeshConfig] = {}

    def of(self, scope: Scope, proxy: Proxy) -> Scope | None:
        """The scope for the listeners of `proxy`; None: nothing is attached to `scope`. Spans say whose they are: where
        there are some, each workload has a scope of its own."""
        if scope.attached is None:
            return None
        producer = producer_of(proxy) if scope.attached.observed.traced else None
        known = self._known.get((scope, producer))
        if known is None:
            mesh, key = scope.attached, scope.key
            if producer is not None:
                mesh, key = self._produced(mesh, producer), replace(key, workload=proxy.workload)
            known = self._known[scope, producer] = replace(scope, key=key, mesh=mesh, attached=None)
        return known

    def keep(self, scopes: Iterable[Scope]) -> None:
        """Forget what was derived from other scopes than these."""
        kept = set(scopes)
        attached = {scope.attached for scope in kept}
        self._known = {key: known for key, known in self._known.items() if key[0] in kept}
        self._settings = {key: known for key, known in self._settings.items() if key[0] in attached}

    def _produced(self, mesh: MeshConfig, producer: Producer) -> MeshConfig:
        """The settings `mesh` with whose the spans are."""
        known = self._settings.get((mesh, producer))
        if known is None:
            known = self._settings[mesh, producer] = replace(mesh, producer=producer)
        return known


def producer_of(proxy: Proxy) -> Producer:
    """Whose a proxy's spans are. Names and revisions are found as Istio finds them."""
    labels = proxy.labels
    canonical = next((labels[name] for name in _CANONICAL if labels.get(name)), proxy.workload)
    revision = next((labels[name] for name in _REVISION if labels.get(name)), "latest")
    service = f"{proxy.workload}.{proxy.namespace}"
    return Producer(service, proxy.workload, canonical, revision, proxy.namespace)
