"""VirtualServices and what they are bound to: gateways that exist and serve their hosts, hosts that nobody else has.

IST0101 (gateway), IST0109, IST0132. Called by `analyse`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from headrace.config.analysis.codes import Code
from headrace.config.analysis.index import Index, listed, overlaps
from headrace.model.gateway import Gateway
from headrace.model.names import MESH_GATEWAY
from headrace.model.problem import Problem
from headrace.model.traffic import VirtualService


def judge_bindings(index: Index) -> Iterator[Problem]:
    """IST0101 and IST0132 for every gateway that a VirtualService names."""
    for rule in index.virtual_services:
        for number, name in enumerate(rule.gateways):
            if name == MESH_GATEWAY:
                continue
            place = f"spec.gateways[{number}]"
            gateway = index.gateways.get(name)
            if gateway is None:
                yield index.problem(
                    rule.meta,
                    Code.NOT_FOUND,
                    place,
                    f'Referenced gateway not found: "{name}".',
                    "Add the Gateway, or correct the name; without '/' it is of the VirtualService's own namespace.",
                )
            elif rule.hosts and not _serves(gateway, rule):
                hosts = ", ".join(rule.hosts[:10])
                own = f"{rule.meta.namespace}/{rule.meta.name}"
                yield index.problem(
                    rule.meta,
                    Code.HOST_NOT_IN_GATEWAY,
                    place,
                    f"one or more host [{hosts}] defined in VirtualService {own} not found in Gateway {name}.",
                    "Add the host to a server of the Gateway (for this namespace), or take the Gateway out.",
                )


def _serves(gateway: Gateway, rule: VirtualService) -> bool:
    """Whether a server of the gateway takes a host of the rule, for the rule's namespace."""
    return any(
        namespace in ("*", rule.meta.namespace) and overlaps(host, wanted)
        for server in gateway.servers
        for namespace, host in server.hosts
        for wanted in rule.hosts
    )


def judge_shared_hosts(index: Index) -> Iterator[Problem]:
    """IST0109: two VirtualServices for sidecars that give the same host to the same namespaces; one for some namespaces
    also with one for all that has an overlapping wildcard (Istio's rule)."""
    public: dict[str, list[VirtualService]] = defaultdict(list)
    scoped: dict[tuple[str, str], list[VirtualService]] = defaultdict(list)
    for rule in index.virtual_services:
        if MESH_GATEWAY not in rule.gateways:
            continue
        scopes = rule.export_to or index.mesh.default_virtual_service_export_to
        for host in dict.fromkeys(rule.hosts):
            if "*" in scopes:
                public[host].append(rule)
                continue
            for scope in dict.fromkeys(rule.meta.namespace if scope == "." else scope for scope in scopes):
                scoped[scope, host].append(rule)
    clashes = list(public.items())
    wild = [host for host in public if host.startswith("*")]
    for (_, host), rules in scoped.items():
        near = public if host.startswith("*") else dict.fromkeys((host, *wild))
        others = (other for name in near if overlaps(name, host) for other in public.get(name, ()))
        clashes.append((host, [*rules, *(other for other in dict.fromkeys(others) if other not in rules)]))
    reported: set[int] = set()
    for host, rules in clashes:
        names = listed(rule.meta for rule in rules)
        for rule in rules if len(rules) > 1 else ():
            if id(rule) in reported:
                continue
            reported.add(id(rule))
            yield index.problem(
                rule.meta,
                Code.CONFLICTING_MESH_HOSTS,
                "spec.hosts",
                f"The VirtualServices {names} associated with mesh gateway define the same host {host} which can lead "
                "to undefined behavior.",
                "Merge them into one: a sidecar keeps only the routes of the oldest.",
            )
