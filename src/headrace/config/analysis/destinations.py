"""Where VirtualServices send requests: does the host exist, has it that port and that subset?

IST0101, IST0112 and IST0140. Called by `analyse`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from headrace.config.analysis.codes import Code
from headrace.config.analysis.index import Index, Target, covers
from headrace.model.names import MESH_GATEWAY
from headrace.model.problem import Problem
from headrace.model.traffic import Destination, VirtualService

_Subsets = dict[str, set[str]]
"""Names of subsets by the host of their DestinationRule."""


@dataclass(frozen=True, slots=True)
class Written:
    """A destination and the field path that it was written at; `mirror` for copies."""

    destination: Destination
    place: str
    mirror: bool = False


def written_destinations(rule: VirtualService) -> Iterator[Written]:
    """Every destination of the document, routes before mirrors."""
    for route in rule.http:
        base = f"spec.http[{route.position}]"
        for number, weighted in enumerate(route.route):
            yield Written(weighted.destination, f"{base}.route[{number}].destination")
        for number, mirror in enumerate(route.mirrors):
            yield Written(mirror.destination, f"{base}.mirrors[{number}].destination", mirror=True)
    for field, opaque in (("tls", rule.tls), ("tcp", rule.tcp)):
        for way in opaque:
            for number, weighted in enumerate(way.route):
                yield Written(weighted.destination, f"spec.{field}[{way.position}].route[{number}].destination")


def judge_destinations(index: Index) -> Iterator[Problem]:
    """IST0101 and IST0112 for every destination of every VirtualService."""
    subsets = _declared_subsets(index)
    wide = {host: names for host, names in subsets.items() if host.startswith("*")}
    for rule in index.virtual_services:
        for written in written_destinations(rule):
            yield from _judge_host(index, rule, written)
            yield from _judge_subset(index, rule, written, subsets, wide)


def _callers(rule: VirtualService) -> tuple[str, ...]:
    """Namespaces that the rule is for, as far as it names them; else its own."""
    own = rule.meta.namespace
    return tuple(own if scope == "." else scope for scope in rule.export_to if scope not in "*~") or (own,)


def _judge_host(index: Index, rule: VirtualService, written: Written) -> Iterator[Problem]:
    destination = written.destination
    target = index.find_target(destination.host, _callers(rule))
    what = "mirror host" if written.mirror else "host"
    if target is None:
        yield index.problem(
            rule.meta,
            Code.NOT_FOUND,
            f"{written.place}.host",
            f'Referenced {what} not found: "{destination.host}".',
            "Add the Service or ServiceEntry of that name, export it to this namespace, or correct the host; a host "
            "without a dot belongs to the VirtualService's own namespace.",
        )
        return
    yield from _judge_port(index, rule, written, target)


def _judge_port(index: Index, rule: VirtualService, written: Written, target: Target) -> Iterator[Problem]:
    destination = written.destination
    numbers = ", ".join(str(number) for number in target.ports)
    if not destination.port and len(target.ports) > 1:
        yield index.problem(
            rule.meta,
            Code.PORT_SELECTOR_REQUIRED,
            f"{written.place}.host",
            f'This VirtualService routes to a service "{destination.host}" that exposes multiple ports ({numbers}).',
            "Say which one: destination.port.number.",
        )
    elif destination.port and destination.port not in index.ports_of(target):
        yield index.problem(
            rule.meta,
            Code.NOT_FOUND,
            f"{written.place}.port",
            f'Referenced host:port not found: "{destination.host}:{destination.port}".',
            f"Use one of the service's ports ({numbers or 'it has none'}).",
        )


def _declared_subsets(index: Index) -> _Subsets:
    subsets: dict[str, set[str]] = defaultdict(set)
    for rule in index.destination_rules:
        subsets[rule.host].update(subset.name for subset in rule.subsets)
    return subsets


def _judge_subset(
    index: Index, rule: VirtualService, written: Written, subsets: _Subsets, wide: _Subsets
) -> Iterator[Problem]:
    destination = written.destination
    if not destination.subset:
        return
    if destination.subset in subsets.get(destination.host, ()):
        return
    if any(destination.subset in names and covers(host, destination.host) for host, names in wide.items()):
        return
    what = "mirror+subset" if written.mirror else "host+subset"
    yield index.problem(
        rule.meta,
        Code.NOT_FOUND,
        f"{written.place}.subset",
        f'Referenced {what} in destinationrule not found: "{destination.host}+{destination.subset}".',
        "Declare the subset, with its labels, in a DestinationRule for that host, or take the subset out.",
    )


def judge_ingress_subsets(index: Index) -> Iterator[Problem]:
    """IST0140: a rule bound to a gateway calls, without a subset, a host whose subsets another rule chooses; that
    other rule does not apply to requests from the gateway."""
    chosen: dict[str, list[VirtualService]] = defaultdict(list)
    for rule in index.virtual_services:
        hosts = {
            weighted.destination.host
            for route in rule.http
            for weighted in route.route
            if weighted.destination.subset and weighted.destination.host in rule.hosts
        }
        for host in sorted(hosts):
            chosen[host].append(rule)
    for rule in index.virtual_services:
        gateways = [name for name in rule.gateways if name != MESH_GATEWAY]
        for written in written_destinations(rule) if gateways else ():
            if written.destination.subset or written.mirror:
                continue
            for other in chosen.get(written.destination.host, ()):
                if other is rule or set(gateways) <= set(other.gateways):
                    continue
                yield index.problem(
                    rule.meta,
                    Code.INGRESS_NOT_AFFECTED,
                    f"{written.place}.host",
                    f"Subset in virtual service {other.meta.namespace}/{other.meta.name} has no effect on ingress "
                    f"gateway {', '.join(gateways)} requests.",
                    "Give this route the subset as well, or bind that VirtualService to the gateway too.",
                )
