"""Where VirtualServices send requests: does the host exist, has it that port and that subset?

IST0101, IST0112 and IST0140. Called by `analyse`. How hosts are found is Istio's rule: a name without a dot is of the
VirtualService's namespace, and a service must be exported to everybody or to who the VirtualService is for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from headrace.config.analysis.codes import Code
from headrace.config.analysis.index import Index, Target
from headrace.config.analysis.written import Written, items, text, within
from headrace.config.documents import Path
from headrace.model.names import MESH_GATEWAY, resolve_host
from headrace.model.problem import Problem

GROUP = "networking.istio.io"
_CLUSTER = ".svc.cluster.local"


@dataclass(frozen=True, slots=True)
class Used:
    """A destination, its path in the document, and whether it gets copies only."""

    destination: Any
    path: Path
    mirror: bool = False

    @property
    def host(self) -> str:
        return text(self.destination, "host")

    @property
    def subset(self) -> str:
        return text(self.destination, "subset")


def used_destinations(rule: Written) -> Iterator[Used]:
    """Every destination of the document."""
    for section in ("tcp", "tls", "http"):
        for at, route in enumerate(items(rule.spec, section)):
            for number, weighted in enumerate(items(route, "route")):
                path: Path = ("spec", section, at, "route", number, "destination")
                yield Used(within(weighted, "destination"), path)
    for at, route in enumerate(items(rule.spec, "http")):
        if within(route, "mirror") is not None:
            yield Used(within(route, "mirror"), ("spec", "http", at, "mirror"), mirror=True)
        for number, mirror in enumerate(items(route, "mirrors")):
            yield Used(within(mirror, "destination"), ("spec", "http", at, "mirrors", number, "destination"), True)


def scopes_of(written: Written) -> tuple[str, ...]:
    """Namespaces that a document is for, as far as it names them; its own where it names none."""
    scopes = [scope for scope in items(written.spec, "exportTo") if isinstance(scope, str)]
    return tuple(written.namespace if scope == "." else scope for scope in scopes) or (written.namespace,)


def judge_destinations(index: Index) -> Iterator[Problem]:
    """IST0101 and IST0112 for every destination of every VirtualService."""
    subsets = {
        (_named(rule.namespace, text(rule.spec, "host")), text(subset, "name"))
        for rule in index.written.kind(GROUP, "DestinationRule")
        for subset in items(rule.spec, "subsets")
    }
    for rule in index.written.kind(GROUP, "VirtualService"):
        scopes = scopes_of(rule)
        for used in used_destinations(rule):
            yield from _judge_host(index, rule, used, scopes)
            wanted = (_named(rule.namespace, used.host), used.subset)
            if used.subset and wanted not in subsets:
                yield _no_subset(rule, used)


def _named(namespace: str, host: str) -> tuple[str, str]:
    """What a host names: a service of a namespace by its full name, anything else by its text and own namespace."""
    service, _, owner = host.removesuffix(_CLUSTER).rpartition(".")
    return (owner, service) if host.endswith(_CLUSTER) and service and owner else (namespace, host)


def _judge_host(index: Index, rule: Written, used: Used, scopes: tuple[str, ...]) -> Iterator[Problem]:
    target = index.find_host(resolve_host(used.host, rule.namespace), rule.namespace, scopes) if used.host else None
    if target is not None:
        yield from _judge_port(index, rule, used, target)
        return
    what = "mirror host" if used.mirror else "host"
    yield rule.problem(
        Code.NOT_FOUND,
        (*used.path, "host"),
        f'Referenced {what} not found: "{resolve_host(used.host, rule.namespace)}".',
        "Add the Service or ServiceEntry of that name, export it to this namespace, or correct the host; a host "
        "without a dot belongs to the VirtualService's own namespace.",
    )


def _judge_port(index: Index, rule: Written, used: Used, target: Target) -> Iterator[Problem]:
    numbers = ", ".join(str(number) for number in target.ports)
    port = within(used.destination, "port")
    if port is None:
        if len(target.ports) > 1:
            yield rule.problem(
                Code.PORT_SELECTOR_REQUIRED,
                (*used.path, "host"),
                f'This VirtualService routes to a service "{used.host}" that exposes multiple ports ({numbers}).',
                "Say which one: destination.port.number.",
            )
        return
    number = within(port, "number")
    if str(number) not in map(str, index.ports_of(target)):
        yield rule.problem(
            Code.NOT_FOUND,
            (*used.path, "port"),
            f'Referenced host:port not found: "{used.host}:{number}".',
            f"Use one of the service's ports ({numbers or 'it has none'}).",
        )


def _no_subset(rule: Written, used: Used) -> Problem:
    what = "mirror+subset" if used.mirror else "host+subset"
    return rule.problem(
        Code.NOT_FOUND,
        (*used.path, "subset"),
        f'Referenced {what} in destinationrule not found: "{used.host}+{used.subset}".',
        "Declare the subset, with its labels, in a DestinationRule for that host, or take the subset out.",
    )


def judge_ingress_subsets(index: Index) -> Iterator[Problem]:
    """IST0140: a rule that names gateways calls, without a subset, a host whose subsets some rule for that very host
    chooses; that does not apply to requests from a gateway."""
    rules = index.written.kind(GROUP, "VirtualService")
    chosen: dict[str, list[Written]] = defaultdict(list)
    for rule in rules:
        own = set(map(str, items(rule.spec, "hosts")))
        for host in sorted({used.host for used in _http(rule) if used.subset and used.host in own}):
            chosen[host].append(rule)
    for rule in rules if chosen else ():
        gateways = [name for name in items(rule.spec, "gateways") if name != MESH_GATEWAY]
        for used in _http(rule) if items(rule.spec, "gateways") else ():
            for other in chosen.get(used.host, ()) if not used.subset else ():
                yield rule.problem(
                    Code.INGRESS_NOT_AFFECTED,
                    (*used.path, "host"),
                    f"Subset in virtual service {other.full_name} has no effect on ingress gateway "
                    f"{', '.join(map(str, gateways)) or MESH_GATEWAY} requests.",
                    "Give this route the subset as well, or bind that VirtualService to the gateway too.",
                )


def _http(rule: Written) -> Iterator[Used]:
    """Destinations of routes for HTTP, mirrors left out."""
    return (used for used in used_destinations(rule) if used.path[1] == "http" and not used.mirror)
