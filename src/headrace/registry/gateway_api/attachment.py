"""Which listeners (or the mesh) a route attaches to, and why it does not where it does not.

Used by `routes`. The rules are the Gateway API's: section and port first, then host names and namespaces, then kinds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from headrace.model.gateway_api import CONTROLLER, ROUTES, ParentRef, Route
from headrace.model.policy import GATEWAY_GROUP
from headrace.registry.gateway_api.conditions import ACCEPTED, RESOLVED, Conditions, Refusal, Status
from headrace.registry.gateway_api.gateways import Parent, ParentKey
from headrace.registry.gateway_api.hostnames import overlap, within
from headrace.registry.gateway_api.world import World

MESH = "mesh"
_MESH_PARENT = Parent(MESH, ROUTES)
_RANK = ("", "NotAllowedByListeners", "NoMatchingListenerHostname", "ParentRefConflict", "NoMatchingParent")
"""Of several listeners of one parent the first of these is what the route is told."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A route at one listener (or the mesh). `refused`: why it is not attached; `taken`: host names that other
    listeners of the same port and protocol have, which are theirs alone where they fit better."""

    ref: ParentRef
    parent: Parent
    refused: Refusal | None
    taken: frozenset[str] = frozenset()

    @property
    def mesh(self) -> bool:
        return self.parent.name == MESH

    def may_serve(self, host: str) -> bool:
        """Whether no other listener has the better right to a host name of the route (listener isolation)."""
        own = self.parent.hostname
        if own and not own.startswith("*"):
            return True
        if own and not overlap(host, own):
            return False
        return not any(len(own) <= len(other) and within(host, other) for other in self.taken)


def attachments(world: World, parents: Mapping[ParentKey, list[Parent]], route: Route) -> list[Attachment]:
    """The route at every listener that its parentRefs name, in the order of the refs' text."""
    found: list[Attachment] = []
    for ref in route.parents:
        if (ref.group, ref.kind) in (("", "Service"), ("networking.istio.io", "ServiceEntry")):
            found.append(Attachment(ref, _MESH_PARENT, _mesh_refusal(world, route, ref)))
        elif ref.group == GATEWAY_GROUP and ref.kind in ("Gateway", "ListenerSet"):
            near = parents.get(ref.owner(route.meta.namespace), [])
            for parent in near:
                others = [item for item in near if (item.port, item.protocol) == (parent.port, parent.protocol)]
                taken = frozenset(item.hostname for item in others) - {parent.hostname}
                found.append(Attachment(ref, parent, _refusal(route, ref, parent), taken))
    return sorted(found, key=lambda item: _text(item.ref, route.meta.namespace))


def _mesh_refusal(world: World, route: Route, ref: ParentRef) -> Refusal | None:
    place = (ref.namespace or route.meta.namespace, ref.name)
    if ref.kind == "Service" and place not in world.services:
        return Refusal("NoMatchingParent", f'parent service: "{ref.name}" not found')
    if ref.kind == "ServiceEntry" and place not in world.entries:
        return Refusal("NoMatchingParent", f'parent service entry: "{ref.name}" not found')
    return None


def _refusal(route: Route, ref: ParentRef, parent: Parent) -> Refusal | None:
    if ref.port and ref.port != parent.port:
        return Refusal("NoMatchingParent", f"port {ref.port} not found")
    if ref.section and ref.section != parent.section:
        return Refusal("NoMatchingParent", f'sectionName "{ref.section}" not found')
    names = route.hostnames if route.kind != "TCPRoute" else ()
    fitting = [part for part, host in parent.hosts if any(overlap(host, name) for name in names or ("*",))]
    if not fitting:
        message = f'no hostnames matched parent hostname "{parent.hostname}"'
        return Refusal("NoMatchingListenerHostname", message)
    if not {"*", route.meta.namespace} & set(fitting):
        message = (
            f'hostnames matched parent hostname "{parent.hostname}", but namespace "{route.meta.namespace}" '
            "is not allowed by the parent"
        )
        return Refusal("NotAllowedByListeners", message)
    if route.kind not in parent.kinds:
        return Refusal("NotAllowedByListeners", f"kind {route.meta.key.kind} is not allowed")
    return None


def _text(ref: ParentRef, namespace: str) -> str:
    return f"{ref.group}/{ref.kind}/{ref.name}/{ref.section}/{ref.port}.{ref.namespace or namespace}"


def route_status(
    route: Route, found: Iterable[Attachment], at_gateways: Refusal | None, in_mesh: Refusal | None
) -> Status:
    """The status of a route: one entry for each parentRef that is ours, with what its rules could not resolve."""
    by_ref: dict[ParentRef, list[Attachment]] = {}
    for item in found:
        by_ref.setdefault(item.ref, []).append(item)
    entries = []
    for ref in sorted(by_ref, key=lambda ref: _text(ref, route.meta.namespace), reverse=True):
        near = by_ref[ref]
        conditions = Conditions()
        count = sum(item.refused is None for item in near)
        message = f"Route was valid, bound to {count} parents" if count > 1 else "Route was valid"
        conditions.settle(ACCEPTED, _reported(near), ACCEPTED, message)
        conditions.settle(RESOLVED, in_mesh if near[0].mesh else at_gateways, RESOLVED, "All references resolved")
        entries.append({"parentRef": _written(ref), "controllerName": CONTROLLER, "conditions": conditions.data()})
    return {"parents": entries}


def _reported(near: list[Attachment]) -> Refusal | None:
    """What is said of a ref whose listeners do not agree: good news first, then the most telling refusal, of several
    alike all their words."""
    ranked = [(_RANK.index(item.refused.reason if item.refused else ""), item.refused) for item in near]
    best = min(rank for rank, _ in ranked)
    found: Refusal | None = None
    for rank, refusal in ranked:
        if rank == best and refusal is not None:
            found = refusal if found is None else found.and_then(refusal)
    return found


def _written(ref: ParentRef) -> dict[str, object]:
    """The reference as the document writes it, with the defaults of its group and kind."""
    narrow = {"namespace": ref.namespace, "sectionName": ref.section, "port": ref.port}
    written = {name: value for name, value in narrow.items() if value}
    return {"group": ref.group, "kind": ref.kind, "name": ref.name, **written}
