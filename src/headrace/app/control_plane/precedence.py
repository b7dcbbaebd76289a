"""Of several documents for one service, which counts, and why the others do not.

Called by `describe` and `describe_route`. The rules themselves are `envoy.translate.claims` (VirtualServices) and
`envoy.visibility` (exportTo, DestinationRules); here they are put into words, for callers in the service's namespace.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from headrace.envoy.translate.claims import claims_of
from headrace.envoy.visibility import MeshIndex, RuleMerger, exported_to, host_specificity, wildcard_covers
from headrace.model.destination import DestinationRule
from headrace.model.names import MESH_GATEWAY
from headrace.model.service import Service
from headrace.model.traffic import HttpRoute, L4Route, VirtualService
from headrace.registry.snapshot import MeshSnapshot

IN_FORCE = "in force"


def virtual_services(snapshot: MeshSnapshot, service: Service) -> Iterator[tuple[VirtualService, str]]:
    """The VirtualServices that concern a service, those that count first, each with its standing."""
    speakers = speaking(snapshot, service.host, service.namespace)
    rest = [item for item in snapshot.virtual_services if item not in speakers and _concerns(item, service.host)]
    for item in (*speakers, *rest):
        yield item, standing(snapshot, item, service.host, service.namespace, speakers)


def speaking(snapshot: MeshSnapshot, host: str, namespace: str) -> tuple[VirtualService, ...]:
    """The VirtualServices that sidecars of `namespace` ask for a host, in the order in which they are asked."""
    visible = MeshIndex(snapshot, RuleMerger()).visible_virtual_services(namespace)
    return claims_of([item for item in visible if MESH_GATEWAY in item.gateways]).of(host)


def standing(
    snapshot: MeshSnapshot, item: VirtualService, host: str, namespace: str, order: Sequence[VirtualService]
) -> str:
    """What a VirtualService is for callers of `namespace` that ask for `host`; `order` is who is `speaking` there."""
    default = snapshot.mesh.default_virtual_service_export_to
    if not exported_to(item.export_to, default, item.meta.namespace, namespace):
        return f"no effect in namespace {namespace}: exported to {', '.join(item.export_to or default) or 'nobody'}"
    if not any(wildcard_covers(pattern, host) for pattern in item.hosts):
        return "sends requests to it"
    if MESH_GATEWAY not in item.gateways:
        return "in force at its gateways only"
    if order and order[0] is item:
        return IN_FORCE
    first = order[0]
    name = f"{first.meta.namespace}/{first.meta.name}"
    own = min((pattern for pattern in item.hosts if wildcard_covers(pattern, host)), key=host_specificity)
    theirs = min((pattern for pattern in first.hosts if wildcard_covers(pattern, host)), key=host_specificity)
    why = (
        f"its host {theirs} is more specific than {own}"
        if host_specificity(theirs) < host_specificity(own)
        else "older"
    )
    return f"shadowed for sidecars by {name} ({why}): asked only by callers for whom that has no rule"


def _concerns(item: VirtualService, host: str) -> bool:
    """Whether it names the host, or sends requests there."""
    if any(wildcard_covers(pattern, host) for pattern in item.hosts):
        return True
    rules: tuple[HttpRoute | L4Route, ...] = (*item.http, *item.tls, *item.tcp)
    return any(to.destination.host == host for rule in rules for to in rule.route)


def destination_rules(snapshot: MeshSnapshot, service: Service) -> Iterator[tuple[DestinationRule, str]]:
    """The DestinationRules whose host covers a service, those that count first, each with its standing."""
    covering = [item for item in snapshot.destination_rules if wildcard_covers(item.host, service.host)]
    index = MeshIndex(snapshot, RuleMerger())
    counting = index.rules_for(service, service.namespace, {})
    for item in counting:
        more = "" if item is counting[0] else f", merged into {counting[0].meta.namespace}/{counting[0].meta.name}: "
        yield item, IN_FORCE + (more + "its subsets add, its policy counts where none came before" if more else "")
    for item in covering:
        if item not in counting:
            yield item, _lost(snapshot, item, counting, service)


def _lost(snapshot: MeshSnapshot, item: DestinationRule, counting: list[DestinationRule], service: Service) -> str:
    namespace, default = service.namespace, snapshot.mesh.default_destination_rule_export_to
    if not exported_to(item.export_to, default, item.meta.namespace, namespace):
        return f"no effect in namespace {namespace}: exported to {', '.join(item.export_to or default) or 'nobody'}"
    if item.workload_selector is not None:
        return "in force for callers that its workloadSelector selects"
    if item.meta.namespace not in (namespace, snapshot.mesh.root_namespace):
        return f"in force for callers in namespace {item.meta.namespace} only"
    if not counting:
        return "no effect"
    first = counting[0]
    name = f"{first.meta.namespace}/{first.meta.name}"
    if first.meta.namespace != item.meta.namespace:
        return f"shadowed by {name}: rules of namespace {first.meta.namespace} come first"
    if first.host != item.host:
        return f"shadowed by {name}: its host {first.host} is more specific"
    return f"shadowed by {name}: it is exported otherwise"
