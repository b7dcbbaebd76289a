"""Routes become VirtualServices of Istio's model: one for each listener (or, in the mesh, namespace) and host name.

Called by `convert`. HTTPRoutes and GRPCRoutes for one listener and host make one VirtualService together, whose rules
stand in the order that the Gateway API gives them across documents. In the mesh a route of the service's own namespace
(producer) is for every caller, one of another namespace (consumer) only for callers there, before the producer's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from headrace.model.gateway_api import HTTP_ROUTES, Route
from headrace.model.names import MESH_GATEWAY, service_fqdn
from headrace.model.policy import GATEWAY_GROUP
from headrace.model.resource import Metadata, ResourceKey
from headrace.model.traffic import PARENTS, HttpRoute, L4Route, VirtualService
from headrace.registry.gateway_api.attachment import Attachment, attachments, route_status
from headrace.registry.gateway_api.conditions import Status
from headrace.registry.gateway_api.gateways import INTERNAL, Doors
from headrace.registry.gateway_api.hostnames import intersection, overlap
from headrace.registry.gateway_api.rules import (
    Lowered,
    at_port,
    connections_at_port,
    in_order,
    lower,
    with_names,
)
from headrace.registry.gateway_api.world import World

EVERYBODY = ("*",)
OWN_NAMESPACE = (".",)


@dataclass(slots=True)
class Bound:
    """What routes become: VirtualServices, statuses, how many routes are at each listener (by kind, namespace, name and
    section), and which Gateways (namespace, name) lead to a backend (group, kind, namespace, name)."""

    virtual_services: list[VirtualService] = field(default_factory=list)
    statuses: dict[ResourceKey, Status] = field(default_factory=dict)
    attached: dict[tuple[str, str, str], dict[str, int]] = field(default_factory=dict)
    behind: dict[tuple[str, str, str, str], set[tuple[str, str]]] = field(default_factory=dict)
    memory: Memory | None = None


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What one route becomes by itself."""

    status: Status | None
    good: tuple[Attachment, ...]
    parts: tuple[_Part, ...]
    connections: tuple[VirtualService, ...]


@dataclass(frozen=True, slots=True)
class Memory:
    """What was made of each route and of each key's parts, as long as `basis` (parents, and what backends lead to)
    stays: a change of one route of a thousand is worked out for that one."""

    basis: object = None
    outcomes: Mapping[Route, _Outcome] = field(default_factory=dict)
    merged: Mapping[str, tuple[tuple[_Part, ...], VirtualService]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """What one HTTPRoute or GRPCRoute brings to a VirtualService: `key` is what it is merged by."""

    key: str
    route: Route
    host: str
    gateway: str
    export_to: tuple[str, ...]
    rules: tuple[HttpRoute, ...]


def bind(world: World, doors: Doors, routes: Sequence[Route], memory: Memory) -> Bound:
    """Attach all routes; they are ordered by rank, first comes first."""
    bound = Bound()
    basis = (doors.parents, world.destinations)
    known = memory.outcomes if memory.basis == basis else {}
    outcomes: dict[Route, _Outcome] = {}
    parts: dict[str, list[_Part]] = {}
    for route in routes:
        outcome = outcomes[route] = known.get(route) or _outcome(world, doors, route)
        if outcome.status is not None:
            bound.statuses[route.meta.key] = outcome.status
        _count(bound, route, outcome.good)
        for part in outcome.parts:
            parts.setdefault(part.key, []).append(part)
        bound.virtual_services += outcome.connections
    merged = {key: _remembered(memory, key, tuple(parts[key])) for key in sorted(parts)}
    bound.virtual_services += [item for _, item in merged.values()]
    bound.memory = Memory(basis, outcomes, merged)
    return bound


def _outcome(world: World, doors: Doors, route: Route) -> _Outcome:
    found = attachments(world, doors.parents, route)
    at_gateways = lower(world, route, mesh=False) if any(not item.mesh for item in found) else Lowered()
    in_mesh = lower(world, route, mesh=True) if any(item.mesh for item in found) else Lowered()
    status = route_status(route, found, at_gateways.problem, in_mesh.problem) if found else None
    good = tuple(sorted((item for item in found if item.refused is None), key=lambda item: item.parent.name))
    if route.kind in HTTP_ROUTES:
        return _Outcome(status, good, tuple(_http_parts(world, route, good, at_gateways, in_mesh)), ())
    return _Outcome(status, good, (), tuple(_connections(world, route, good, at_gateways, in_mesh)))


def _remembered(memory: Memory, key: str, parts: tuple[_Part, ...]) -> tuple[tuple[_Part, ...], VirtualService]:
    """The VirtualService of these parts: the last one where the parts are the same objects."""
    old = memory.merged.get(key)
    return old if old is not None and old[0] == parts else (parts, _merged(key, parts))


def _count(bound: Bound, route: Route, good: Iterable[Attachment]) -> None:
    namespace = route.meta.namespace
    listeners = {(*item.ref.owner(namespace), item.parent.section) for item in good if not item.mesh}
    for kind, owner, name, section in listeners:
        counts = bound.attached.setdefault((kind, owner, name), {})
        counts[section] = counts.get(section, 0) + 1
    gateways = {ref.owner(namespace)[1:] for ref in route.parents if ref.kind == "Gateway"}
    for rule in route.rules:
        for backend in rule.backends:
            ref = backend.ref
            key = (ref.group, ref.kind, ref.namespace or namespace, ref.name)
            bound.behind.setdefault(key, set()).update(gateways)


def _mesh_hosts(world: World, route: Route, item: Attachment) -> tuple[str, ...]:
    """The host names of the Service or ServiceEntry that a route is for."""
    place = (item.ref.namespace or route.meta.namespace, item.ref.name)
    if item.ref.kind == "ServiceEntry":
        return world.entries[place].hosts
    return (service_fqdn(place[1], place[0]),)


def _export(route: Route, item: Attachment) -> tuple[str, ...]:
    """Who follows a route in the mesh: everybody, or only callers of its namespace where the service is another's."""
    owner = item.ref.namespace or route.meta.namespace
    return EVERYBODY if owner == route.meta.namespace else OWN_NAMESPACE


def _http_parts(
    world: World, route: Route, good: Iterable[Attachment], at_gateways: Lowered, in_mesh: Lowered
) -> Iterator[_Part]:
    for item in good:
        rules = list((in_mesh if item.mesh else at_gateways).http)
        if not rules:
            continue
        names: tuple[str, ...] = route.hostnames or ("*",)
        key: str = item.parent.name
        export: tuple[str, ...] = EVERYBODY
        if item.mesh:
            names, key, export = _mesh_hosts(world, route, item), route.meta.namespace, _export(route, item)
            if item.ref.port:
                rules, key = at_port(rules, item.ref.port), f"{key}/{item.ref.port}"
        for host in names:
            if item.mesh or item.may_serve(host):
                yield _Part(f"{key}/{host}", route, host, item.parent.name, export, tuple(rules))


def _merged(key: str, parts: Sequence[_Part]) -> VirtualService:
    """The VirtualService of all routes for one key, oldest first."""
    routes = [part.route for part in parts]
    rules = in_order([rule for part in parts for rule in part.rules])
    first = parts[0]
    return VirtualService(
        meta=_meta(first.route.meta, key.replace("/", "~"), routes),
        hosts=(first.host,),
        gateways=(first.gateway,),
        http=tuple(replace(rule, position=at) for at, rule in enumerate(rules)),
        export_to=first.export_to,
    )


def _meta(meta: Metadata, name: str, routes: Sequence[Route]) -> Metadata:
    """Metadata of what is made of several routes: the oldest's, with a digest of all."""
    parents = ",".join(dict.fromkeys(f"{item.kind}/{item.meta.name}.{item.meta.namespace}" for item in routes))
    return replace(
        meta,
        key=ResourceKey(meta.key.kind, meta.namespace, name),
        annotations={PARENTS: parents},
        digest="+".join(dict.fromkeys(item.meta.digest for item in routes)),
    )


def documents_of(meta: Metadata) -> list[tuple[str, str]]:
    """Namespace and name of the routes that something was made of (none: of no route)."""
    if not meta.key.kind.startswith(f"{GATEWAY_GROUP}/"):
        return []
    written = [text.partition("/")[2].rpartition(".") for text in meta.annotations.get(PARENTS, "").split(",")]
    return [(namespace, name) for name, _, namespace in written]


def _connections(
    world: World, route: Route, good: Iterable[Attachment], at_gateways: Lowered, in_mesh: Lowered
) -> Iterator[VirtualService]:
    """The VirtualServices of a TCPRoute or TLSRoute."""
    tls = route.kind == "TLSRoute"
    count = 0
    for item in good:
        rules: list[L4Route] = list((in_mesh if item.mesh else at_gateways).l4)
        names: Sequence[str] = (route.hostnames or ("*",)) if tls else ("*",)
        export: tuple[str, ...] = EVERYBODY
        if item.mesh:
            names, export = _mesh_hosts(world, route, item), _export(route, item)
            if item.ref.port:
                rules = connections_at_port(rules, item.ref.port)
        elif tls and item.parent.hostname:
            names = intersection(names, item.parent.hostname)
            rules = list(with_names(rules, names))
        for host in names if rules else ():
            own = list(with_names(rules, _asked(route, names, host))) if tls and item.mesh else rules
            name = f"{route.meta.name}~{'tls' if tls else 'tcp'}~{count}~{INTERNAL}"
            yield VirtualService(
                meta=_meta(route.meta, name, [route]),
                hosts=(host,),
                gateways=(item.parent.name if not item.mesh else MESH_GATEWAY,),
                http=(),
                export_to=export,
                tls=tuple(own) if tls else (),
                tcp=() if tls else tuple(own),
            )
            count += 1


def _asked(route: Route, services: Sequence[str], host: str) -> list[str]:
    """The SNI names by which a service in the mesh is asked for: the route's own, of several those that fit the
    service; without any the services' names."""
    names = list(route.hostnames) or list(services)
    return [name for name in names if overlap(host, name)] if len(names) > 1 else names
