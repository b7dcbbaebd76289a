"""ServiceEntry (networking.istio.io): hosts that no Service describes, inside the mesh or outside.

Lowered to `model.service.ServiceEntry`. The rules are Istio's (ValidateServiceEntry and the schema of its CRD).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from headrace.config.documents import Document, Path
from headrace.config.fields import Choice, Port, Text, shown
from headrace.config.kinds.istio_names import (
    Subnet,
    WildcardName,
    export_findings,
    is_label,
    selector_findings,
    set_fields,
    warning,
    why_not_fqdn,
)
from headrace.config.kinds.protocols import PROTOCOL_REMEDY, is_tls, parse_protocol
from headrace.config.kinds.workload_entry import WorkloadEntrySpec, endpoint_findings
from headrace.config.schema import Finding, Kind, Spec
from headrace.model.locality import distribution_of
from headrace.model.resource import Metadata
from headrace.model.service import InlineEndpoint, Protocol, Resolution, ServiceEntry, ServicePort

_DNS = (Resolution.DNS, Resolution.DNS_ROUND_ROBIN)
_DYNAMIC_PROTOCOLS = (Protocol.HTTP, Protocol.TLS, Protocol.GRPC, Protocol.HTTP2)
_RESOLUTIONS = ("NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS")
_WAYPOINT = "istio.io/use-waypoint"


class EntryPortSpec(Spec):
    """ServicePort of a ServiceEntry."""

    number: Port
    protocol: Annotated[Text, Field(max_length=256)] = ""
    name: Annotated[Text, Field(max_length=256)]
    target_port: Port | None = None


class LabelSelectorSpec(Spec):
    """networking WorkloadSelector."""

    labels: Annotated[dict[Text, Text], Field(max_length=256)] = {}


class ServiceEntrySpec(Spec):
    """ServiceEntry."""

    hosts: Annotated[list[WildcardName], Field(min_length=1, max_length=256)]
    addresses: Annotated[list[Subnet], Field(max_length=256)] = []
    ports: Annotated[list[EntryPortSpec], Field(max_length=256)] = []
    location: Annotated[str, Choice("MESH_EXTERNAL", "MESH_INTERNAL", numbered=True)] = "MESH_EXTERNAL"
    resolution: Annotated[str, Choice(*_RESOLUTIONS, numbered=True)] = "NONE"
    endpoints: Annotated[list[WorkloadEntrySpec], Field(max_length=4096)] | None = None
    workload_selector: LabelSelectorSpec | None = None
    export_to: list[Text] = []
    subject_alt_names: list[Text] = []


def _check(spec: ServiceEntrySpec, document: Document) -> Iterator[Finding]:
    resolution = Resolution(spec.resolution)
    if len(set_fields(spec, "workload_selector", "endpoints")) == 2:
        message = "workloadSelector and endpoints exclude each other"
        yield Finding(("spec", "workloadSelector"), message, "Keep one of them.")
    if spec.workload_selector is not None:
        yield from selector_findings(spec.workload_selector.labels, ("spec", "workloadSelector", "labels"))
    yield from _check_hosts(spec, resolution)
    yield from _check_ports(spec, resolution)
    yield from _check_endpoints(spec, resolution)
    if resolution is Resolution.DYNAMIC_DNS:
        yield from _check_dynamic(spec, document)
    if resolution not in (Resolution.NONE, Resolution.STATIC) and any("/" in address for address in spec.addresses):
        message = f"resolution {resolution} allows single addresses only"
        yield Finding(("spec", "addresses"), message, "Use NONE or STATIC for CIDR blocks.")
    yield from export_findings(spec.export_to, document.namespace, private=True)


def _check_hosts(spec: ServiceEntrySpec, resolution: Resolution) -> Iterator[Finding]:
    for at, host in enumerate(spec.hosts):
        place: Path = ("spec", "hosts", at)
        if host == "*":
            yield Finding(place, "'*' is not allowed in a ServiceEntry", "Name the hosts, or use '*.example.com'.")
        elif "*" in host and not host.startswith("*.") and resolution is not Resolution.DYNAMIC_DNS:
            yield warning(place, f"{shown(host)}: a wildcard should be a whole label", "Write '*.example.com'.")
        if resolution in _DNS and not spec.endpoints and why_not_fqdn(host):
            message = f"{shown(host)} cannot be looked up in DNS"
            yield Finding(place, message, "Use a full name, add endpoints, or another resolution.")
        if resolution is Resolution.DYNAMIC_DNS and not host.startswith("*"):
            yield Finding(place, f"{shown(host)}: DYNAMIC_DNS is for wildcards", "Use DNS for a single host.")


def _check_ports(spec: ServiceEntrySpec, resolution: Resolution) -> Iterator[Finding]:
    names: set[str] = set()
    numbers: set[int] = set()
    shared = len(spec.hosts) > 1 and resolution is not Resolution.NONE
    for at, port in enumerate(spec.ports):
        place: Path = ("spec", "ports", at)
        protocol = parse_protocol(port.protocol)
        if not is_label(port.name):
            yield Finding((*place, "name"), f"{shown(port.name)} is not a port's name", "Use letters, digits and '-'.")
        elif port.name in names:
            yield Finding((*place, "name"), f"port name {shown(port.name)} is used twice", "Rename one.")
        if port.number in numbers:
            yield Finding((*place, "number"), f"port {port.number} is listed twice", "Remove one.")
        if port.protocol and protocol is None:
            yield Finding((*place, "protocol"), f"{shown(port.protocol)} is not a protocol", PROTOCOL_REMEDY)
        if shared and not (protocol is not None and (protocol.is_http or is_tls(protocol))):
            message = "several hosts can share HTTP and TLS ports only: nothing else names the host"
            yield Finding((*place, "protocol"), message, "Write one ServiceEntry a host, or name the protocol.")
        names.add(port.name)
        numbers.add(port.number)


def _check_endpoints(spec: ServiceEntrySpec, resolution: Resolution) -> Iterator[Finding]:
    endpoints = spec.endpoints or []
    path: Path = ("spec", "endpoints")
    if resolution is Resolution.NONE:
        if endpoints:
            yield Finding(path, "resolution NONE has no endpoints", "Use STATIC or DNS.")
        if spec.workload_selector is not None:
            yield warning(("spec", "workloadSelector"), "resolution NONE uses no workloads", "Use STATIC.")
        return
    if resolution is Resolution.DNS_ROUND_ROBIN and len(endpoints) > 1:
        yield Finding((*path, 1), "DNS_ROUND_ROBIN has at most one endpoint", "Use DNS for several.")
    names = {port.name for port in spec.ports}
    for at, endpoint in enumerate(endpoints):
        place: Path = (*path, at)
        yield from endpoint_findings(endpoint, resolution in _DNS, place)
        if resolution in _DNS and (not endpoint.address or endpoint.is_unix):
            yield Finding((*place, "address"), "DNS needs a host name or an IP address", "Add address.")
        if resolution is Resolution.STATIC and endpoint.is_unix and len(spec.ports) != 1:
            yield Finding((*place, "address"), "a Unix socket serves exactly one port", "List one port only.")
        for name in endpoint.ports:
            if name not in names:
                message = f"the entry has no port named {shown(name)}"
                yield Finding((*place, "ports", name), message, f"Its ports are {', '.join(sorted(names)) or 'none'}.")


def _check_dynamic(spec: ServiceEntrySpec, document: Document) -> Iterator[Finding]:
    remedy = "Use DNS or STATIC."
    for field, value in (("addresses", spec.addresses), ("endpoints", spec.endpoints)):
        if value:
            yield Finding(("spec", field), f"DYNAMIC_DNS has no {field}", remedy)
    for at, port in enumerate(spec.ports):
        if parse_protocol(port.protocol) not in _DYNAMIC_PROTOCOLS:
            place: Path = ("spec", "ports", at, "protocol")
            yield Finding(place, "DYNAMIC_DNS is for HTTP, HTTP2, GRPC and TLS", remedy)
    metadata = document.data.get("metadata")
    labels = metadata.get("labels") if isinstance(metadata, dict) else None
    waypoint = labels.get(_WAYPOINT) if isinstance(labels, dict) else None
    if spec.location == "MESH_INTERNAL" and waypoint and str(waypoint).lower() != "none":
        yield Finding(("spec", "location"), "DYNAMIC_DNS inside the mesh excludes a waypoint", remedy)


def _lower(meta: Metadata, spec: ServiceEntrySpec, document: Document) -> ServiceEntry:
    selector = spec.workload_selector
    return ServiceEntry(
        meta=meta,
        hosts=tuple(host.lower() for host in spec.hosts),
        addresses=tuple(_address(address) for address in spec.addresses),
        ports=tuple(
            ServicePort(
                number=port.number,
                name=port.name,
                protocol=parse_protocol(port.protocol) or Protocol.UNDECLARED,
                target=port.target_port or port.number,
            )
            for port in spec.ports
        ),
        external=spec.location == "MESH_EXTERNAL",
        resolution=Resolution(spec.resolution),
        endpoints=tuple(_endpoint(endpoint) for endpoint in spec.endpoints or ()),
        workload_selector=dict(sorted(selector.labels.items())) if selector is not None else None,
        export_to=tuple(spec.export_to),
        subject_alt_names=tuple(spec.subject_alt_names),
        distribution=distribution_of(meta.annotations),
    )


def _address(text: str) -> str:
    """An address, also where it is written as a block of one."""
    address, _, length = text.partition("/")
    return address if length == ("128" if ":" in address else "32") else text


def _endpoint(spec: WorkloadEntrySpec) -> InlineEndpoint:
    return InlineEndpoint(
        address=spec.address,
        ports=tuple(sorted(spec.ports.items())),
        labels=tuple(sorted(spec.labels.items())),
        network=spec.network,
        locality=spec.locality,
        weight=spec.weight,
        service_account=spec.service_account,
    )


KIND = Kind(
    group="networking.istio.io",
    versions=("v1", "v1beta1", "v1alpha3"),
    name="ServiceEntry",
    model=ServiceEntrySpec,
    lower=_lower,
    check=_check,
)
