"""`headrace describe route`: one VirtualService, host by host and rule by rule: whom it serves, and what never counts.

Reads a snapshot only; called through `described`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headrace.app.control_plane import precedence
from headrace.app.control_plane.answers import Refused
from headrace.app.control_plane.describe import place, virtual_service
from headrace.envoy.translate.route_match import route_match, takes_everything
from headrace.model.names import MESH_GATEWAY
from headrace.model.traffic import HttpRoute, VirtualService
from headrace.registry.gateway_api.routes import documents_of
from headrace.registry.snapshot import MeshSnapshot


def route(snapshot: MeshSnapshot, namespace: str, name: str) -> dict[str, Any]:
    """A VirtualService (or what was lowered to one) by name; Refused where there is none."""
    found = [item for item in snapshot.virtual_services if (namespace, name) in _names(item)]
    if not found:
        known = sorted({f"{owner}/{one}" for item in snapshot.virtual_services for owner, one in _names(item)})
        raise Refused(404, f"no route {name!r} in namespace {namespace!r}; there are: {', '.join(known) or 'none'}")
    one = found[0]
    answer = virtual_service(one, "none written", _exported(snapshot, one))
    del answer["virtual_service"]  # of a route of the Gateway API, a name that no document has
    answer = {"route": f"{namespace}/{name}", "kind": one.meta.key.short_kind} | answer
    answer["hosts"] = [_host(snapshot, one, host) for host in one.hosts]
    answer["gateways"] = list(_gateways(snapshot, one))
    dead = _dead(one)
    for number, rule in enumerate(answer["rules"]):
        if number in dead:
            rule["standing"] = dead[number]
    return answer


def _names(item: VirtualService) -> Iterator[tuple[str, str]]:
    """Namespace and name of every document that an item was made from: Gateway API's routes for one host make one
    item."""
    made = documents_of(item.meta)
    yield from made or [(item.meta.namespace, item.meta.name)]


def _exported(snapshot: MeshSnapshot, one: VirtualService) -> str:
    words = one.export_to or snapshot.mesh.default_virtual_service_export_to
    return f"visible in {', '.join('every namespace' if word == '*' else word for word in words)}"


def _host(snapshot: MeshSnapshot, one: VirtualService, host: str) -> str:
    known = snapshot.services.get(host, ())
    what = f"service {known[0].meta.key}" if known else ("a pattern" if host.startswith("*") else "no service")
    if MESH_GATEWAY not in one.gateways:
        return f"{host} ({what})"
    namespace = one.meta.namespace
    order = precedence.speaking(snapshot, host, namespace)
    return f"{host} ({what}): {precedence.standing(snapshot, one, host, namespace, order)}"


def _gateways(snapshot: MeshSnapshot, one: VirtualService) -> Iterator[str]:
    """The gateways it is bound to, with those that share its hosts there."""
    known = {f"{item.meta.namespace}/{item.meta.name}": item for item in snapshot.gateways}
    for name in one.gateways:
        if name == MESH_GATEWAY:
            yield "mesh: sidecars"
            continue
        gateway = known.get(name)
        if gateway is None:
            yield f"{name}: there is no such Gateway"
            continue
        sharing = [
            f"{item.meta.namespace}/{item.meta.name}"
            for item in snapshot.virtual_services
            if item is not one and name in item.gateways and set(item.hosts) & set(one.hosts)
        ]
        merged = f"; shares hosts with {', '.join(sharing)}: routes append oldest first, catch-alls last"
        yield f"{name} {place(gateway.meta)}" + (merged if sharing else "")


def _dead(one: VirtualService) -> dict[int, str]:
    """Rules that never count, by position: those behind one that takes every request."""
    for number, rule in enumerate(one.http):
        if _takes_all(rule):
            why = f"never reached: rule {number + 1} takes every request"
            return dict.fromkeys(range(number + 1, len(one.http)), why)
    return {}


def _takes_all(rule: HttpRoute) -> bool:
    """Whether a rule takes every request of every caller."""
    if not rule.matches:
        return True
    return any(
        takes_everything(route_match(match))
        and not (match.port or match.source_labels or match.source_namespace or match.gateways)
        for match in rule.matches
    )
