"""`v1 Endpoints` and `discovery.k8s.io/v1 EndpointSlice`: where a Service without a selector is found."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from headrace.config.documents import Document
from headrace.config.fields import Address, Bool, Choice, LabelMap, NonEmpty, Port, Text, shown
from headrace.config.kinds.service_account import ObjectReference
from headrace.config.schema import NO_EFFECT, Finding, Kind, Spec
from headrace.model.problem import Severity
from headrace.model.resource import Metadata
from headrace.model.service import DeclaredAddresses, DeclaredEndpoints

SERVICE_NAME = "kubernetes.io/service-name"
"""Label of an EndpointSlice that names its Service."""

Transport = Annotated[str, Choice("TCP", "UDP", "SCTP")]


class EndpointAddress(Spec):
    """core/v1 EndpointAddress."""

    ip: Address
    hostname: Text = ""
    node_name: Text = ""
    target_ref: ObjectReference | None = None


class EndpointPort(Spec):
    """core/v1 EndpointPort."""

    port: Port
    name: Text = ""
    protocol: Transport = "TCP"
    app_protocol: Text = ""


class EndpointSubset(Spec):
    """core/v1 EndpointSubset."""

    addresses: list[EndpointAddress] = []
    not_ready_addresses: list[EndpointAddress] = []
    ports: list[EndpointPort] = []


class EndpointsBody(Spec):
    """core/v1 Endpoints."""

    subsets: list[EndpointSubset] = []


class Conditions(Spec):
    """discovery/v1 EndpointConditions; unset `ready` means ready."""

    ready: Bool | None = None
    serving: Bool | None = None
    terminating: Bool | None = None


class ZoneHint(Spec):
    name: NonEmpty


class Hints(Spec):
    """discovery/v1 EndpointHints."""

    for_zones: list[ZoneHint] = []
    for_nodes: list[ZoneHint] = []


class SliceEndpoint(Spec):
    """discovery/v1 Endpoint."""

    addresses: Annotated[list[NonEmpty], Field(min_length=1, max_length=100)]
    conditions: Conditions = Conditions()
    hostname: Text = ""
    target_ref: ObjectReference | None = None
    deprecated_topology: LabelMap = {}
    node_name: Text = ""
    zone: Text = ""
    hints: Hints | None = None


class SlicePort(Spec):
    """discovery/v1 EndpointPort; a port without a number stands for all ports."""

    name: Text = ""
    protocol: Transport = "TCP"
    port: Port | None = None
    app_protocol: Text = ""


class SliceBody(Spec):
    """discovery/v1 EndpointSlice."""

    address_type: Annotated[str, Choice("IPv4", "IPv6", "FQDN")] = "IPv4"
    endpoints: Annotated[list[SliceEndpoint], Field(max_length=1000)] = []
    ports: Annotated[list[SlicePort], Field(max_length=20000)] = []


def _lower_endpoints(meta: Metadata, spec: EndpointsBody, document: Document) -> DeclaredEndpoints:
    groups = []
    for subset in spec.subsets:
        ports = tuple((port.name, port.port) for port in subset.ports if port.protocol == "TCP")
        for addresses, ready in ((subset.addresses, True), (subset.not_ready_addresses, False)):
            if addresses:
                groups.append(DeclaredAddresses(tuple(item.ip for item in addresses), ports, ready))
    return DeclaredEndpoints(meta, meta.name, tuple(groups))


def _check_slice(spec: SliceBody, document: Document) -> Iterator[Finding]:
    if ("metadata", "labels", SERVICE_NAME) not in document.lines:
        message = f"without the label {SERVICE_NAME} the slice belongs to no Service"
        yield Finding(("metadata", "labels"), message, "Add the label.", NO_EFFECT, Severity.WARNING)
    version = {"IPv4": 4, "IPv6": 6}.get(spec.address_type)
    for at, endpoint in enumerate(spec.endpoints):
        for index, address in enumerate(endpoint.addresses):
            if version and not _is_version(address, version):
                message = f"{shown(address)} is not an {spec.address_type} address"
                yield Finding(("endpoints", at, "addresses", index), message, "Correct it, or the addressType.")


def _is_version(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


def _lower_slice(meta: Metadata, spec: SliceBody, document: Document) -> DeclaredEndpoints:
    ports = tuple((port.name, port.port) for port in spec.ports if port.port is not None and port.protocol == "TCP")
    groups = tuple(
        DeclaredAddresses((endpoint.addresses[0],), ports, endpoint.conditions.ready is not False, endpoint.zone)
        for endpoint in spec.endpoints
    )
    return DeclaredEndpoints(meta, meta.labels.get(SERVICE_NAME, ""), groups)


KINDS: tuple[Kind[Any], ...] = (
    Kind(group="", versions=("v1",), name="Endpoints", model=EndpointsBody, lower=_lower_endpoints, body=""),
    Kind(
        group="discovery.k8s.io",
        versions=("v1", "v1beta1"),
        name="EndpointSlice",
        model=SliceBody,
        lower=_lower_slice,
        body="",
        check=_check_slice,
    ),
)
