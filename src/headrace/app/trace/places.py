"""The two ends of a question: the workload or gateway that asks, and the host that is asked.

Called by `walk`. Names are as short as they are unique: `chat-v1`, `shop/chat-v1`, `sidecar/shop/chat-v1`, `outside`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from headrace.app.notional import gateway_workloads, planned_replicas
from headrace.app.offline import OfflineError, ProxyName
from headrace.envoy.trace.listeners import is_address
from headrace.model.names import service_fqdn
from headrace.model.proxy import ProxyKind
from headrace.model.service import Service
from headrace.model.workload import WorkloadRole
from headrace.registry.snapshot import MeshSnapshot

OUTSIDE = "outside"
NOBODYS_ADDRESS = "192.0.2.1"
"""Stands for the address of a name that no document gives one (TEST-NET-1: nobody has it)."""
USUAL_PORTS = {"http": 80, "https": 443}
_SCHEMES = ("http", "https", "grpc", "tcp", "tls")
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked: scheme (http, https, grpc, tcp, tls), host as written, port (0: not said) and path."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, text: str) -> Target:
        """A host, `host:port` or URL; OfflineError where it is none."""
        url = text if "://" in text else f"http://{text}"
        try:
            parts = urlsplit(url)
            port = parts.port or 0
        except ValueError as error:
            raise OfflineError(f"{text[:200]!r} is no host or URL ({error}): write HOST, HOST:PORT or a URL") from None
        if parts.scheme not in _SCHEMES or not parts.hostname:
            raise OfflineError(
                f"{text[:200]!r} is no host or URL: write HOST, HOST:PORT or {', '.join(_SCHEMES)}://..."
            )
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.scheme, parts.hostname, port, path)


def gateways(snapshot: MeshSnapshot) -> list[ProxyName]:
    """Every gateway proxy that the documents describe, or that `up` would start for them."""
    services = (item for items in snapshot.services.values() for item in items)
    doors = gateway_workloads(snapshot.gateways, services, snapshot.static_workloads)
    planned = planned_replicas(snapshot.workloads, doors, snapshot.gateways, snapshot.mesh)
    names = [ProxyName(ProxyKind.GATEWAY, item.meta.namespace, item.meta.name) for item in doors]
    names += [
        ProxyName(ProxyKind.GATEWAY, item.namespace, item.workload)
        for item in planned
        if item.role is WorkloadRole.GATEWAY
    ]
    return list(dict.fromkeys(names))


def callers(snapshot: MeshSnapshot) -> Iterator[ProxyName]:
    """Every proxy that a question can start from."""
    found = gateways(snapshot)
    yield from found
    taken = {(item.namespace, item.name) for item in found}
    for meta in (
        *(item.meta for item in snapshot.workloads if item.role is not WorkloadRole.GATEWAY),
        *(item.meta for item in snapshot.static_workloads),
    ):
        if (meta.namespace, meta.name) not in taken:
            yield ProxyName(ProxyKind.SIDECAR, meta.namespace, meta.name)


def caller(snapshot: MeshSnapshot, text: str) -> ProxyName:
    """The proxy that `--from` names; OfflineError where it names none or several."""
    parts = text.split("/")
    kinds = {kind.value for kind in ProxyKind}
    known = list(dict.fromkeys(callers(snapshot)))
    if len(parts) == 3 and parts[0] in kinds:
        return ProxyName.parse(text)
    found = [item for item in known if parts in ([item.name], [item.namespace, item.name])]
    if len(found) == 1:
        return found[0]
    names = sorted(f"{item.kind.value}/{item.namespace}/{item.name}" for item in (found or known))
    listed = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "") or "none"
    what = "names several workloads" if found else "names no workload of these documents"
    raise OfflineError(f"--from {text[:200]!r} {what}: use one of {listed}, or {OUTSIDE}")


def service_of(snapshot: MeshSnapshot, host: str, namespace: str) -> Service | None:
    """The service that a client of `namespace` means by a host name, short forms of Kubernetes' names included, whether
    it sees it or not."""
    low = host.lower().rstrip(".")
    parts = low.split(".")
    forms = [low]
    if len(parts) == 1:
        forms.append(service_fqdn(low, namespace))
    elif len(parts) == 2 or (len(parts) == 3 and parts[2] == "svc"):
        forms.append(service_fqdn(parts[0], parts[1]))
    for form in forms:
        items = snapshot.services.get(form, ())
        if items:
            return next((item for item in items if item.namespace == namespace), items[0])
    by_address = (item for items in snapshot.services.values() for item in items if host in item.addresses)
    return next(by_address, None) if is_address(host) else None


def address_of(snapshot: MeshSnapshot, host: str, service: Service | None) -> str:
    """Where a client would connect for a host: DNS as the mesh's documents have it."""
    if is_address(host):
        return host
    if service is None:
        return NOBODYS_ADDRESS
    fixed = [address for address in service.addresses if "/" not in address]
    if fixed:
        return fixed[0]
    if service.headless:
        known = snapshot.endpoints.get((service.namespace, service.host), ())
        return next((item.address for item in known if is_address(item.address)), NOBODYS_ADDRESS)
    block = next((address for address in service.addresses), "")
    return block.partition("/")[0] or NOBODYS_ADDRESS


def port_of(target: Target, service: Service | None, given: int | None) -> int:
    """The port: the one given, the URL's, the service's only one, the scheme's; OfflineError where it is not known."""
    if given or target.port:
        return given or target.port
    if service is not None and len(service.ports) == 1:
        return service.ports[0].number
    usual = USUAL_PORTS.get(target.scheme)
    if service is not None and service.ports and usual not in [port.number for port in service.ports]:
        ports = ", ".join(str(port.number) for port in service.ports)
        raise OfflineError(f"{target.host} has the ports {ports}: say which with --port")
    if usual is None:
        raise OfflineError(f"{target.scheme}://{target.host} needs a port: add --port")
    return usual
