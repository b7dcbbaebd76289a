"""Delegation that leads nowhere: HR0002, as such a route takes no requests. Called by `analyse`."""

from __future__ import annotations

from collections.abc import Iterator

from headrace.config.analysis.codes import Code
from headrace.config.analysis.index import Index
from headrace.model.delegation import delegates_of, is_exported, merged_routes
from headrace.model.problem import Problem
from headrace.model.traffic import HttpRoute, VirtualService


def judge_delegates(index: Index) -> Iterator[Problem]:
    """Roots whose delegate is missing, not exported to them or in conflict; delegates that nobody leads to."""
    delegates = delegates_of(index.virtual_services)
    led_to: set[tuple[str, str]] = set()
    for root in index.virtual_services:
        for route in root.http if root.hosts else ():
            if route.delegate is None:
                continue
            led_to.add(route.delegate)
            yield from _judge_route(index, root, route, delegates.get(route.delegate))
    for key in sorted(set(delegates) - led_to):
        message = "no VirtualService delegates to this one, which has no hosts: it has no effect."
        remedy = "Add hosts, or a route with this delegate to another VirtualService."
        yield index.problem(delegates[key].meta, Code.NO_EFFECT, "spec", message, remedy)


def _judge_route(
    index: Index, root: VirtualService, route: HttpRoute, delegate: VirtualService | None
) -> Iterator[Problem]:
    place = f"spec.http[{route.position}].delegate"
    name = "/".join(route.delegate or ())
    if delegate is None:
        message = f'Delegate not found: "{name}". The route takes no requests.'
        remedy = "Add a VirtualService of that name without hosts, or correct name and namespace."
        yield index.problem(root.meta, Code.NO_EFFECT, place, message, remedy)
        return
    if not is_exported(delegate, index.mesh.default_virtual_service_export_to, root.meta.namespace):
        message = f"Delegate {name} is not exported to {root.meta.namespace}. The route takes no requests."
        yield index.problem(root.meta, Code.NO_EFFECT, place, message, "Add the namespace to the delegate's exportTo.")
        return
    for own, found in zip(delegate.http, merged_routes(route, delegate), strict=True):
        if found is None:
            message = f"Route #{own.position} of delegate {name} has a match outside of this route's: it is left out."
            yield index.problem(
                root.meta, Code.NO_EFFECT, place, message, "Make each of its matches narrower than one of these."
            )
