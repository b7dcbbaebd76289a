"""Services and ServiceEntries: port names that tell the protocol, ports that do not contradict each other.

IST0116, IST0118, IST0133, IST0134, IST0137, IST0150, IST0177. Called by `analyse`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from headrace.config.analysis.codes import Code
from headrace.config.analysis.index import Index, Running, listed
from headrace.config.analysis.written import items, pairs, text
from headrace.model.problem import Problem
from headrace.model.service import Protocol, Service, ServiceEntry

_NAMED = ("udp", "http_proxy")
"""First parts of names that Istio takes for a protocol's, though nothing comes of them on a TCP port."""
_ALLOCATING = ("ISTIO_META_DNS_AUTO_ALLOCATE", "PILOT_ENABLE_IP_AUTOALLOCATE")
_WORKLOAD = "headrace.dev/Workload"


def judge_services(index: Index) -> Iterator[Problem]:
    """Every judgement of services."""
    for service in index.services:
        if not _is_system(service):
            yield from _judge_port_names(index, service)
    yield from _judge_workloads(index)
    yield from _judge_addresses(index)
    yield from _judge_entries(index)
    yield from _judge_protocols(index)


def _is_system(service: Service) -> bool:
    """Whether the platform made the service: Istio's own, Kubernetes' own, a managed gateway's."""
    labels = service.meta.labels
    return "istio" in labels or labels.get("release") == "istio" or "gateway.istio.io/managed" in labels


def _judge_port_names(index: Index, service: Service) -> Iterator[Problem]:
    for number, port in enumerate(service.ports):
        place = f"spec.ports[{number}]"
        target = port.target_name or port.target or port.number
        unnamed = port.protocol is Protocol.UNDECLARED and port.name.partition("-")[0].lower() not in _NAMED
        if service.external and (unnamed or port.name == "tcp"):
            yield index.problem(
                service.meta,
                Code.EXTERNAL_NAME_PORT,
                place,
                "Port name for ExternalName service is invalid. Proxy may prevent tcp named ports and unmatched "
                "traffic for ports serving TCP protocol from being forwarded correctly.",
                "Name the port by its protocol: http, https, tls.",
            )
        elif unnamed:
            yield index.problem(
                service.meta,
                Code.PORT_NAMING,
                place,
                f"Port name {port.name} (port: {port.number}, targetPort: {target}) doesn't follow the naming "
                "convention of Istio port.",
                "Name it by its protocol (http, http-api, grpc-x, tcp), or set appProtocol; it is detected otherwise.",
            )


def _judge_workloads(index: Index) -> Iterator[Problem]:
    """IST0116 and IST0137: what several services say of one workload's ports."""
    services_of: dict[int, list[Service]] = defaultdict(list)
    for service in index.services:
        for running in index.workloads_with(service.namespace, service.selector) if service.selector else ():
            services_of[id(running)].append(service)
    for running in index.running:
        if running.meta.key.kind != _WORKLOAD:  # Deployments are judged as they are written
            continue
        targets: dict[str, dict[int, Service]] = defaultdict(dict)
        transports: dict[int, dict[bool, Service]] = defaultdict(dict)
        for service in services_of[id(running)]:
            for port in service.ports:
                targets[port.target_name or str(port.target or port.number)].setdefault(port.number, service)
                transports[port.number].setdefault(port.protocol is Protocol.UDP, service)
        for number, kinds in transports.items():
            if len(kinds) > 1:
                yield _several_transports(index, running, number, kinds.values())
        for target, services in targets.items():
            if len({service.meta.key for service in services.values()}) > 1:
                yield _several_ports(index, running, target, services)


def _several_transports(index: Index, running: Running, number: int, services: Iterable[Service]) -> Problem:
    return index.problem(
        running.meta,
        Code.SEVERAL_TRANSPORTS,
        "metadata.name",
        f"This workload {running.meta.name} is associated with multiple services using port {number} but different "
        f"protocols: [{listed(service.meta for service in services)}].",
        "Give TCP and UDP different port numbers; only TCP is carried by proxies.",
    )


def _several_ports(index: Index, running: Running, target: str, services: Mapping[int, Service]) -> Problem:
    ports = ", ".join(str(number) for number in sorted(services))
    names = listed(service.meta for service in services.values())
    return index.problem(
        running.meta,
        Code.CONFLICTING_PORTS,
        "metadata.name",
        f"This workload {running.meta.name} is associated with multiple services [{names}] using "
        f'targetPort "{target}" but different ports: [{ports}].',
        "Give one target port one service port.",
    )


def _judge_addresses(index: Index) -> Iterator[Problem]:
    """IST0134, unless addresses are given out by themselves (MeshConfig), or were (status)."""
    metadata = pairs(index.mesh_fields, "defaultConfig", "proxyMetadata")
    if metadata.get("ISTIO_META_DNS_CAPTURE") == "true" and "true" in [metadata.get(name) for name in _ALLOCATING]:
        return
    for entry in index.written.kind("networking.istio.io", "ServiceEntry"):
        if items(entry.spec, "addresses") or items(entry.document.data, "status", "addresses"):
            continue
        for number, port in enumerate(items(entry.spec, "ports")):
            if text(port, "protocol").upper() in ("", "TCP"):
                yield entry.problem(
                    Code.ADDRESSES_REQUIRED,
                    ("spec", "ports", number),
                    "ServiceEntry addresses are required for this protocol.",
                    "Add addresses, or name the port's protocol (HTTP, TLS ...), which tells hosts apart.",
                )


def _judge_entries(index: Index) -> Iterator[Problem]:
    """IST0133: ports that nothing tells apart, as no address is given out (Istio's validation warns of them)."""
    for entry in index.written.kind("networking.istio.io", "ServiceEntry"):
        resolution = text(entry.spec, "resolution") or "NONE"
        given = entry.labels.get("networking.istio.io/enable-autoallocate-ip", "").lower() != "false"
        if items(entry.spec, "addresses") or (resolution != "NONE" and given):
            continue
        for number, port in enumerate(items(entry.spec, "ports")):
            if text(port, "protocol") in ("", "TCP"):
                yield entry.problem(
                    Code.SCHEMA_WARNING,
                    ("spec", "ports", number),
                    "Addresses are required for TCP ports where none is given out by itself (resolution NONE).",
                    "Add addresses, or a resolution.",
                )


def _judge_protocols(index: Index) -> Iterator[Problem]:
    """IST0177: entries that the same namespaces see give one host and port different protocols."""
    seen: dict[tuple[str, str, int], list[tuple[Protocol, ServiceEntry]]] = defaultdict(list)
    for entry in index.service_entries:
        scopes = entry.export_to or ("*",)
        named = {"*"} if "*" in scopes else {entry.meta.namespace if scope == "." else scope for scope in scopes}
        for scope in sorted(named):
            for host in entry.hosts:
                for port in entry.ports:
                    seen[scope, host, port.number].append((port.protocol, entry))
    reported: set[int] = set()
    for (scope, host, number), found in list(seen.items()):
        others = seen.get(("*", host, number), []) if scope != "*" else []
        entries = [*found, *others]
        protocols = sorted({str(protocol) for protocol, _ in entries})
        if len(protocols) < 2:
            continue
        names = listed(entry.meta for _, entry in entries)
        for _, entry in entries:
            if id(entry) in reported:
                continue
            reported.add(id(entry))
            yield index.problem(
                entry.meta,
                Code.CONFLICTING_ENTRY_PROTOCOL,
                "spec.ports",
                f'Multiple ServiceEntries ({names}) define the same host "{host}" and port {number} with conflicting '
                f"protocols ({', '.join(protocols)}).",
                "Give the port the same protocol everywhere.",
            )
