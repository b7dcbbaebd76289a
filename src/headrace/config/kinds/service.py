"""`v1 Service`: a host name in the mesh, and the workloads behind it by selector.

Fields are those of Kubernetes' core/v1 ServiceSpec; protocol selection is Istio's (istio-semantics.md, "Protocol").
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Annotated

from pydantic import BeforeValidator, Field

from headrace.config.documents import Document
from headrace.config.fields import (
    Address,
    Bool,
    Choice,
    Cidr,
    Count,
    DnsName,
    LabelMap,
    NonEmpty,
    Port,
    Text,
    is_dns_label,
    shown,
    whole,
)
from headrace.config.kinds.istio_names import SCHEMA_WARNING
from headrace.config.schema import INCOMPLETE, NO_EFFECT, Finding, Kind, Spec, refuse
from headrace.model.locality import distribution_of
from headrace.model.names import service_fqdn
from headrace.model.problem import Severity
from headrace.model.resource import Metadata
from headrace.model.service import Protocol, Resolution, Service, ServicePort

EXPORT_TO = "networking.istio.io/exportTo"
"""Annotation with a Service's exportTo, comma-separated (Istio's)."""

_BY_NAME = {
    "http": Protocol.HTTP,
    "http2": Protocol.HTTP2,
    "https": Protocol.HTTPS,
    "grpc": Protocol.GRPC,
    "grpc-web": Protocol.GRPC_WEB,
    "tls": Protocol.TLS,
    "tcp": Protocol.TCP,
    "mongo": Protocol.MONGO,
    "mysql": Protocol.MYSQL,
    "redis": Protocol.REDIS,
    "udp": Protocol.UDP,
}
_KUBERNETES = {
    "kubernetes.io/h2c": Protocol.HTTP2,
    "kubernetes.io/ws": Protocol.HTTP,
    "kubernetes.io/wss": Protocol.HTTPS,
}
_TRANSPORTS = ("TCP", "UDP", "SCTP")
_ALWAYS_TCP = frozenset({25, 53, 3306, 27017})


def protocol_of(number: int, name: str, app_protocol: str, transport: str) -> Protocol:
    """Istio's protocol selection for one port of a Service."""
    if transport == "UDP":
        return Protocol.UDP
    if app_protocol in _KUBERNETES:
        return _KUBERNETES[app_protocol]
    declared = (app_protocol or name).lower()
    if declared.startswith("grpc-web"):
        return Protocol.GRPC_WEB
    prefix = declared.partition("-")[0]
    if prefix in _BY_NAME and prefix != "udp":
        return _BY_NAME[prefix]
    return Protocol.TCP if number in _ALWAYS_TCP else Protocol.UNDECLARED


def _target(value: object) -> int | str:
    """targetPort: a number, or the name of a workload's port (IANA service name)."""
    if isinstance(value, str) and not value.isdigit():
        if len(value) > 15 or not is_dns_label(value) or not any(char.isalpha() for char in value):
            raise refuse(f"{shown(value)} is not a port name", "Use at most 15 of a-z, 0-9 and '-'.")
        return value
    return whole(1, 65535)(value)


def _cluster_ip(value: object) -> str:
    if value == "" or value == "None":
        return str(value)
    try:
        return str(ipaddress.ip_address(str(value)))
    except ValueError:
        raise refuse(f"{shown(value)} is not an IP address", "Write an address, or None (headless).") from None


ClusterIp = Annotated[str, BeforeValidator(_cluster_ip)]


class PortSpec(Spec):
    """core/v1 ServicePort."""

    port: Port
    name: Text = ""
    protocol: Text = "TCP"
    app_protocol: Text = ""
    target_port: Annotated[int | str, BeforeValidator(_target)] = 0
    node_port: Annotated[int, BeforeValidator(whole(0, 65535))] = 0


class ClientIpConfig(Spec):
    timeout_seconds: Annotated[int, BeforeValidator(whole(1, 86400))] = 10800


class SessionAffinityConfig(Spec):
    client_ip: Annotated[ClientIpConfig | None, Field(alias="clientIP")] = None


class ServiceSpec(Spec):
    """core/v1 ServiceSpec."""

    ports: list[PortSpec] = []
    selector: LabelMap = {}
    cluster_ip: Annotated[ClusterIp, Field(alias="clusterIP")] = ""
    cluster_ips: Annotated[list[ClusterIp], Field(alias="clusterIPs")] = []
    type: Annotated[str, Choice("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")] = "ClusterIP"
    external_ips: Annotated[list[Address], Field(alias="externalIPs")] = []
    session_affinity: Annotated[str, Choice("None", "ClientIP")] = "None"
    session_affinity_config: SessionAffinityConfig | None = None
    load_balancer_ip: Annotated[Text, Field(alias="loadBalancerIP")] = ""
    load_balancer_source_ranges: list[Cidr] = []
    load_balancer_class: NonEmpty | None = None
    external_name: DnsName | None = None
    external_traffic_policy: Annotated[str, Choice("Cluster", "Local")] = "Cluster"
    internal_traffic_policy: Annotated[str, Choice("Cluster", "Local")] = "Cluster"
    health_check_node_port: Count = 0
    publish_not_ready_addresses: Bool = False
    ip_families: list[Annotated[str, Choice("IPv4", "IPv6")]] = []
    ip_family_policy: Annotated[str, Choice("SingleStack", "PreferDualStack", "RequireDualStack")] | None = None
    allocate_load_balancer_node_ports: Bool = True
    traffic_distribution: Annotated[str, Choice("", "PreferClose", "PreferSameZone", "PreferSameNode")] = ""


def _check(spec: ServiceSpec, document: Document) -> Iterator[Finding]:
    at = ("spec", "ports")
    external = spec.type == "ExternalName"
    if external and not spec.external_name:
        yield Finding(("spec", "externalName"), "type ExternalName needs externalName", "Add externalName.")
    if not is_dns_label(document.name):
        remedy = "Use 1-63 of a-z, 0-9 and '-'."
        yield Finding(("metadata", "name"), f"{shown(document.name)} is not a name for a Service", remedy)
    if not spec.ports and not external and spec.cluster_ip != "None":
        yield Finding(at, "a Service needs ports", "Add ports.", INCOMPLETE, Severity.WARNING)
    names: set[str] = set()
    numbers: set[tuple[int, str]] = set()
    for index, port in enumerate(spec.ports):
        if not port.name and len(spec.ports) > 1:
            message = "each of several ports needs a name"
            yield Finding((*at, index, "name"), message, "Add name.", INCOMPLETE, Severity.WARNING)
        elif port.name and not is_dns_label(port.name):
            yield Finding((*at, index, "name"), f"{shown(port.name)} is not a port name", "Use a-z, 0-9 and '-'.")
        elif port.name in names:
            message = f"port name '{port.name}' is used twice: Kubernetes would not take it"
            yield Finding((*at, index, "name"), message, "Rename one.", SCHEMA_WARNING, Severity.WARNING)
        if (port.port, port.protocol) in numbers:
            yield Finding((*at, index, "port"), f"port {port.port} is listed twice", "Remove one.")
        names.add(port.name)
        numbers.add((port.port, port.protocol))
        if port.protocol not in _TRANSPORTS:
            message = f"protocol {shown(port.protocol)} is none of {', '.join(_TRANSPORTS)}: it is taken for TCP"
            remedy = "Use TCP; what is spoken over it stands in appProtocol, or begins the port's name."
            yield Finding((*at, index, "protocol"), message, remedy, INCOMPLETE, Severity.WARNING)
        elif port.protocol != "TCP":
            message = f"{port.protocol} ports are not carried by proxies"
            yield Finding((*at, index, "protocol"), message, "", NO_EFFECT, Severity.WARNING)
        app_protocol = port.app_protocol.lower()
        if app_protocol and app_protocol not in _KUBERNETES and app_protocol.partition("-")[0] not in _BY_NAME:
            message = f"appProtocol {shown(port.app_protocol)} is unknown: the port's protocol is detected"
            remedy = "Use http, http2, grpc, https, tls or tcp."
            yield Finding((*at, index, "appProtocol"), message, remedy, NO_EFFECT, Severity.WARNING)
    if spec.session_affinity == "ClientIP":
        message = "proxies balance by themselves and know nothing of sessionAffinity, as in Istio"
        remedy = "Use a DestinationRule's consistentHash.useSourceIp."
        yield Finding(("spec", "sessionAffinity"), message, remedy, NO_EFFECT, Severity.WARNING)


def _lower(meta: Metadata, spec: ServiceSpec, document: Document) -> Service:
    external = spec.type == "ExternalName"
    addresses = tuple(dict.fromkeys(ip for ip in (spec.cluster_ip, *spec.cluster_ips) if ip not in ("", "None")))
    export_to = (part.strip() for part in meta.annotations.get(EXPORT_TO, "").split(","))
    return Service(
        meta=meta,
        host=service_fqdn(meta.name, meta.namespace),
        namespace=meta.namespace,
        ports=tuple(_port(port) for port in spec.ports),
        addresses=addresses,
        resolution=Resolution.DNS if external else Resolution.MESH,
        external=external,
        selector=dict(sorted(spec.selector.items())) if spec.selector and not external else None,
        headless=spec.cluster_ip == "None",
        export_to=tuple(part for part in export_to if part),
        external_name=spec.external_name or "" if external else "",
        distribution=distribution_of(meta.annotations, spec.traffic_distribution),
        unready=spec.publish_not_ready_addresses,
    )


def _port(port: PortSpec) -> ServicePort:
    target = port.target_port or port.port
    return ServicePort(
        number=port.port,
        name=port.name,
        protocol=protocol_of(port.port, port.name, port.app_protocol, port.protocol),
        target=target if isinstance(target, int) else 0,
        target_name=target if isinstance(target, str) else "",
    )


KIND = Kind(
    group="",
    versions=("v1",),
    name="Service",
    model=ServiceSpec,
    lower=_lower,
    body_required=False,
    check=_check,
    without_effect=(
        "spec.externalIPs",
        "spec.loadBalancerIP",
        "spec.loadBalancerClass",
        "spec.loadBalancerSourceRanges",
        "spec.healthCheckNodePort",
        "spec.sessionAffinityConfig",
        "spec.ports[].nodePort",
    ),
)

__all__ = ["EXPORT_TO", "KIND", "protocol_of"]
