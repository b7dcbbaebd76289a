"""Backends of routes become destinations: Services, InferencePools, host names; of other namespaces where a
ReferenceGrant allows it.

Used by `rules`. A backend that is not there, or that may not be named, is a destination that answers 500 for its share
of the requests (the Gateway API's rule); anything else that is wrong keeps the whole route out of force (Istio's).
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.model.gateway_api import BackendRef
from headrace.model.inference import POOL_GROUP
from headrace.model.names import service_fqdn
from headrace.model.traffic import Destination
from headrace.registry.gateway_api.conditions import Refusal
from headrace.registry.gateway_api.world import World

NOWHERE = Destination("")
_HOSTNAME = ("networking.istio.io", "Hostname")
_IMPORT = ("multicluster.x-k8s.io", "ServiceImport")
_POOL = (POOL_GROUP, "InferencePool")
_NOT_FOUND = "BackendNotFound"
_SOFT = (_NOT_FOUND, "RefNotPermitted", "InvalidKind")


@dataclass(frozen=True, slots=True)
class Found:
    """Where a backend leads: a destination, with what is wrong with it; None: the route cannot be used at all."""

    destination: Destination | None
    problem: Refusal | None = None


def find(world: World, backend: BackendRef, route: tuple[str, str], *, granted: bool) -> Found:
    """The destination of a backend of a route (`route`: kind and namespace). `granted`: another namespace must allow
    it, as gateways ask for it and the mesh does not."""
    ref, namespace = backend.ref, backend.ref.namespace or route[1]
    kind = (ref.group, ref.kind)
    if granted and not world.allowed(route, (*kind, namespace), ref.name):
        message = (
            f'backendRef {ref.name}/{namespace} not accessible to a {route[0]} in namespace "{route[1]}" '
            "(missing a ReferenceGrant?)"
        )
        return Found(NOWHERE, Refusal("RefNotPermitted", message))
    if kind == _POOL:
        return _pool(world, backend, namespace)
    if kind in (("", "Service"), _IMPORT):
        if "." in ref.name:
            message = "service name invalid; the name of the Service must be used, not the hostname."
            return _hard(message)
        return _at(service_fqdn(ref.name, namespace), backend, (namespace, ref.name) in world.services)
    if kind == _HOSTNAME:
        if ref.namespace:
            return _hard("namespace may not be set with Hostname type")
        return _at(ref.name.lower(), backend, (namespace, ref.name.lower()) in world.hosts)
    message = f'referencing unsupported backendRef: group "{ref.group}" kind "{ref.kind}"'
    return Found(NOWHERE, Refusal("InvalidKind", message))


def _hard(message: str) -> Found:
    return Found(None, Refusal("InvalidDestination", message))


def _at(host: str, backend: BackendRef, there: bool) -> Found:
    if not backend.port:
        return _hard("port is required in backendRef")
    problem = None if there else Refusal(_NOT_FOUND, f"backend({host}) not found")
    return Found(Destination(host, port=backend.port), problem)


def _pool(world: World, backend: BackendRef, namespace: str) -> Found:
    """An InferencePool has one port, whatever the backend says."""
    if "." in backend.ref.name:
        return _hard("InferencePool.Name invalid; the name of the InferencePool must be used, not the hostname.")
    pool = world.pools.get((namespace, backend.ref.name))
    if pool is None:
        return Found(NOWHERE, Refusal(_NOT_FOUND, f"backend({backend.ref.name}) not found"))
    return Found(Destination(pool.host, port=pool.ports[0].number))


def is_soft(problem: Refusal) -> bool:
    """Whether the rest of the route works without the backend."""
    return problem.reason in _SOFT
