"""Which Sidecar is for a proxy, and what of the mesh its egress hosts let through.

Called by `envoy.scopes`. Rules (Istio): of the Sidecars of a proxy's namespace the first that selects it, those with a
selector before those without, each oldest first; else the root namespace's oldest without a selector. A listener sees
the services whose namespace and host one of its hosts names and none excludes, with a port of its own only those that
have that port, and only that port of them; what its VirtualServices send requests to is called, not listened for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from headrace.envoy.visibility import MeshIndex, wildcard_covers
from headrace.model.names import MESH_GATEWAY
from headrace.model.resource import Labels, selects
from headrace.model.service import Service
from headrace.model.sidecar import ANY_NAMESPACE, EgressHost, EgressListener, Sidecar
from headrace.model.traffic import Destination, VirtualService

EVERYTHING = EgressListener((EgressHost(ANY_NAMESPACE, "*"),))
"""What a Sidecar without egress listens for."""


class SidecarTable:
    """The Sidecars of one snapshot, ready to be looked up."""

    def __init__(self, sidecars: Iterable[Sidecar], root: str) -> None:
        """`sidecars` are ordered oldest first; `root` is the mesh's root namespace."""
        self._by_namespace: dict[str, list[Sidecar]] = {}
        for item in sidecars:
            self._by_namespace.setdefault(item.meta.namespace, []).append(item)
        for found in self._by_namespace.values():
            found.sort(key=lambda item: item.selector is None)
        self._mesh = next((item for item in self._by_namespace.get(root, ()) if item.selector is None), None)

    def of(self, namespace: str, labels: Labels) -> Sidecar | None:
        """The Sidecar for a workload of `namespace` with these labels (None: none is)."""
        for item in self._by_namespace.get(namespace, ()):
            if selects(item.selector or {}, labels):
                return item
        return self._mesh


Part = tuple[Service, frozenset[int]]
"""A service, and the ports of it that are seen (none: all)."""
WHOLE: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class Imported:
    """What one egress listener lets through: services by host, VirtualServices in order of precedence; `called` are the
    services that these send requests to."""

    listener: EgressListener
    services: tuple[Part, ...]
    virtual_services: tuple[VirtualService, ...]
    called: tuple[Part, ...]


def imports(index: MeshIndex, sidecar: Sidecar, namespace: str) -> tuple[Imported, ...]:
    """What each egress listener of `sidecar` lets through to proxies of `namespace`."""
    visible = index.visible_virtual_services(namespace)
    spoken = [item for item in visible if MESH_GATEWAY in item.gateways]
    return tuple(_imported(index, listener, namespace, spoken) for listener in sidecar.egress or (EVERYTHING,))


def _imported(
    index: MeshIndex, listener: EgressListener, namespace: str, virtual_services: Sequence[VirtualService]
) -> Imported:
    hosts = _Hosts(listener.hosts, namespace)
    port = 0 if listener.http_proxy else listener.port
    services = []
    for candidates in index.candidates(namespace, hosts.names(index)):
        for service in candidates:
            if hosts.take(service.namespace, service.host) and (not port or _has(service, port)):
                services.append(_part(service, {port}))
                break
    spoken = tuple(item for item in virtual_services if hosts.take_any(item.meta.namespace, item.hosts))
    return Imported(listener, tuple(services), spoken, tuple(_called(index, spoken, namespace, port)))


def _called(index: MeshIndex, virtual_services: Iterable[VirtualService], namespace: str, port: int) -> Iterator[Part]:
    wanted: dict[str, set[int]] = {}
    for item in virtual_services:
        for destination in _destinations(item, namespace):
            wanted.setdefault(destination.host, set()).add(port or destination.port)
    for candidates in index.candidates(namespace, tuple(wanted)):
        service = candidates[0]
        numbers = wanted[service.host]
        if 0 in numbers or any(_has(service, number) for number in numbers):
            yield _part(service, numbers)


def _destinations(item: VirtualService, namespace: str) -> Iterator[Destination]:
    """Where a VirtualService sends the requests of callers in `namespace`."""
    for http in item.http:
        callers = {match.source_namespace for match in http.matches if match.source_namespace}
        if not callers or namespace in callers:
            yield from (route.destination for route in http.route)
            yield from (mirror.destination for mirror in http.mirrors)
    for opaque in (*item.tls, *item.tcp):
        yield from (route.destination for route in opaque.route)


def _has(service: Service, number: int) -> bool:
    return any(port.number == number for port in service.ports)


def _part(service: Service, numbers: Iterable[int]) -> Part:
    wanted = frozenset(numbers)
    seen = frozenset(port.number for port in service.ports) & wanted
    return (service, WHOLE if 0 in wanted or len(seen) == len(service.ports) else seen)


def union(listeners: Iterable[Imported]) -> tuple[Part, ...]:
    """What all listeners together call, sorted by host: of several services with one host the first, but a Kubernetes
    Service before another; its ports are those of all its parts."""
    found: dict[str, Part] = {}
    for listener in listeners:
        for service, ports in (*listener.services, *listener.called):
            known = found.get(service.host)
            if known is None or (service.kubernetes and not known[0].kubernetes):
                found[service.host] = (service, ports)
            elif known[0] is service:
                found[service.host] = (service, ports | known[1] if ports and known[1] else WHOLE)
    return tuple(found[host] for host in sorted(found))


class Cutter:
    """Cuts services down to the ports that are seen; the same cut is the same object from snapshot to snapshot."""

    def __init__(self) -> None:
        self._cut: dict[Part, Service] = {}
        self._used: dict[Part, Service] = {}

    def turn(self) -> None:
        """Forget what was not used since the last turn."""
        self._cut, self._used = self._used, {}

    def service(self, part: Part) -> Service:
        """The service with the part's ports only."""
        service, numbers = part
        if not numbers:
            return service
        cut = self._used.get(part) or self._cut.get(part)
        if cut is None:
            cut = replace(service, ports=tuple(port for port in service.ports if port.number in numbers))
        self._used[part] = cut
        return cut


class _Hosts:
    """The hosts of one listener, `.` resolved."""

    def __init__(self, hosts: Iterable[EgressHost], namespace: str) -> None:
        self._taken: dict[str, list[str]] = {}
        self._excluded: dict[str, list[str]] = {}
        for item in hosts:
            owner = namespace if item.namespace == "." else item.namespace
            (self._excluded if item.excluded else self._taken).setdefault(owner, []).append(item.host)

    def names(self, index: MeshIndex) -> list[str] | None:
        """The only hosts that can be taken, sorted; None where wildcards of any namespace are among them."""
        found: set[str] = set()
        for owner, hosts in self._taken.items():
            if not any(host.startswith("*") for host in hosts):
                found.update(hosts)
            elif owner == ANY_NAMESPACE:
                return None
            else:
                found.update(index.hosts_of(owner))
        return sorted(found)

    def take(self, owner: str, host: str) -> bool:
        """Whether a service of namespace `owner` is let through."""
        if self._named(self._excluded, owner, host):
            return False
        return self._named(self._taken, owner, host)

    def take_any(self, owner: str, hosts: Iterable[str]) -> bool:
        """Whether a VirtualService of namespace `owner` is: one of its hosts covers a host of the listener, or is
        covered by it, and is not excluded."""
        known = (*self._taken.get(owner, ()), *self._taken.get(ANY_NAMESPACE, ()))
        return any(
            any(wildcard_covers(item, host) or wildcard_covers(host, item) for item in known)
            and not self._named(self._excluded, owner, host)
            for host in hosts
        )

    @staticmethod
    def _named(table: dict[str, list[str]], owner: str, host: str) -> bool:
        known = (*table.get(owner, ()), *table.get(ANY_NAMESPACE, ()))
        return any(wildcard_covers(item, host) for item in known)
