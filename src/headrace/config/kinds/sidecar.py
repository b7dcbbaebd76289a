"""Sidecar (networking.istio.io): what proxies see of the mesh, and the listeners of their own side.

Lowered to `model.sidecar.Sidecar`. The rules are Istio's (ValidateSidecar).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from headrace.config.documents import Document, Path
from headrace.config.fields import Choice, Text, UInt32, shown
from headrace.config.kinds.http_fields import DestinationSpec, lower_destination
from headrace.config.kinds.istio_names import (
    is_address,
    is_label,
    selector_findings,
    set_fields,
    warning,
    why_not_fqdn,
    why_not_wildcard,
)
from headrace.config.kinds.protocols import PROTOCOL_REMEDY, is_tls, parse_protocol
from headrace.config.kinds.server_tls import ServerTlsSpec, lower_server_tls, tls_findings
from headrace.config.kinds.service_entry import LabelSelectorSpec
from headrace.config.kinds.traffic_policy import ConnectionPoolSpec, lower_pool
from headrace.config.kinds.workload_entry import UNIX, why_not_socket
from headrace.config.schema import Finding, Kind, Spec
from headrace.model.gateway import ServerTlsMode
from headrace.model.mesh import OutboundMode
from headrace.model.resource import Metadata
from headrace.model.service import Protocol
from headrace.model.sidecar import ANY_NAMESPACE, EgressHost, EgressListener, IngressListener, Sidecar

_ENDPOINT_HOSTS = ("", "127.0.0.1", "0.0.0.0", "::1", "::")  # noqa: S104 - Istio's words for the workload's own addresses
_NOT_IN_INGRESS = (ServerTlsMode.ISTIO_MUTUAL, ServerTlsMode.AUTO_PASSTHROUGH)
_REMEDY_HOST = "Write namespace/host: '*/*', './*', 'prod/api.example.com', or '~prod/*' to take some out."

CaptureMode = Annotated[str, Choice("DEFAULT", "IPTABLES", "NONE", numbered=True)]


class SidecarPortSpec(Spec):
    """SidecarPort."""

    number: UInt32 = 0
    protocol: Text = ""
    name: Text = ""
    target_port: UInt32 = 0


class IngressSpec(Spec):
    """IstioIngressListener."""

    port: SidecarPortSpec
    bind: Text = ""
    capture_mode: CaptureMode = "DEFAULT"
    default_endpoint: Text = ""
    tls: ServerTlsSpec | None = None
    connection_pool: ConnectionPoolSpec | None = None


class EgressSpec(Spec):
    """IstioEgressListener."""

    port: SidecarPortSpec | None = None
    bind: Text = ""
    capture_mode: CaptureMode = "DEFAULT"
    hosts: Annotated[list[Text], Field(min_length=1)]


class OutboundPolicySpec(Spec):
    """OutboundTrafficPolicy of a Sidecar."""

    mode: Annotated[str, Choice("REGISTRY_ONLY", "ALLOW_ANY", numbered=True)] = "REGISTRY_ONLY"
    egress_proxy: DestinationSpec | None = None


class SidecarSpec(Spec):
    """Sidecar."""

    workload_selector: LabelSelectorSpec | None = None
    ingress: list[IngressSpec] = []
    egress: list[EgressSpec] = []
    inbound_connection_pool: ConnectionPoolSpec | None = None
    outbound_traffic_policy: OutboundPolicySpec | None = None


def _check(spec: SidecarSpec, document: Document) -> Iterator[Finding]:
    if (
        not spec.ingress
        and not spec.egress
        and not set_fields(spec, "inbound_connection_pool", "outbound_traffic_policy")
    ):
        message = "a Sidecar needs ingress, egress, inboundConnectionPool or outboundTrafficPolicy"
        yield Finding(("spec",), message, "Say what it is for, or remove it.")
    if spec.workload_selector is not None:
        yield from selector_findings(spec.workload_selector.labels, ("spec", "workloadSelector", "labels"))
    numbers: set[int] = set()
    for at, ingress in enumerate(spec.ingress):
        place: Path = ("spec", "ingress", at)
        yield from _ingress_findings(ingress, place)
        if ingress.port.number in numbers:
            yield Finding((*place, "port", "number"), f"port {ingress.port.number} is listed twice", "Remove one.")
        numbers.add(ingress.port.number)
    yield from _egress_list(spec, document.namespace)
    if spec.outbound_traffic_policy is not None:
        yield from _policy_findings(spec.outbound_traffic_policy, ("spec", "outboundTrafficPolicy"))


def _ingress_findings(spec: IngressSpec, path: Path) -> Iterator[Finding]:
    yield from _port_findings(spec.port, (*path, "port"))
    if not 1 <= spec.port.number <= 65535:
        yield Finding((*path, "port", "number"), f"{spec.port.number} is not a port", "Use 1 to 65535.")
    if spec.bind and not is_address(spec.bind):
        yield Finding((*path, "bind"), f"{shown(spec.bind)} is not an IP address", "Write the address to listen on.")
    if why := _why_not_endpoint(spec.default_endpoint):
        remedy = "Write 127.0.0.1:PORT, 0.0.0.0:PORT, [::1]:PORT, [::]:PORT or unix:///path."
        yield Finding((*path, "defaultEndpoint"), f"{shown(spec.default_endpoint)} {why}", remedy)
    if spec.tls is not None:
        yield from _ingress_tls_findings(spec.tls, spec.port, (*path, "tls"))
    protocol = parse_protocol(spec.port.protocol)
    if (
        spec.connection_pool is not None
        and spec.connection_pool.http is not None
        and not (protocol and protocol.is_http)
    ):
        message = f"a port of protocol {shown(spec.port.protocol)} has no requests: only tcp counts"
        yield warning((*path, "connectionPool", "http"), message, "Name the port's protocol, or take http out.")


def _ingress_tls_findings(tls: ServerTlsSpec, port: SidecarPortSpec, path: Path) -> Iterator[Finding]:
    refused = {
        "subjectAltNames": tls.subject_alt_names,
        "httpsRedirect": tls.https_redirect,
        "credentialName": tls.credential_name,
        "credentialNames": tls.credential_names,
        "tlsCertificates": tls.tls_certificates,
    }
    for name, value in refused.items():
        if value:
            yield Finding((*path, name), f"{name} is not for a sidecar", "Use serverCertificate and privateKey.")
    if tls.mode in _NOT_IN_INGRESS:
        yield Finding((*path, "mode"), f"{tls.mode} is not for a sidecar", "Use SIMPLE or MUTUAL.")
    protocol = parse_protocol(port.protocol)
    if protocol is None or not is_tls(protocol):
        yield Finding(
            path, "tls is for ports of protocol HTTPS or TLS", "Correct the port's protocol, or take tls out."
        )
    yield from tls_findings(tls, path)


def _why_not_endpoint(text: str) -> str:
    """Why a default endpoint is none of Istio's forms; empty where it is one."""
    if not text:
        return ""
    if text.startswith(UNIX):
        return why_not_socket(text)
    host, colon, port = text.rpartition(":")
    if not colon or (host.count(":") and not (host.startswith("[") and host.endswith("]"))):
        return "has no port"
    if host.removeprefix("[").removesuffix("]") not in _ENDPOINT_HOSTS:
        return "is not an address of the workload"
    fits = port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535
    return "" if fits else "has no port number"


def _egress_list(spec: SidecarSpec, namespace: str) -> Iterator[Finding]:
    numbers: set[int] = set()
    sockets: set[str] = set()
    for at, egress in enumerate(spec.egress):
        place: Path = ("spec", "egress", at)
        yield from _hosts_findings(egress.hosts, namespace, (*place, "hosts"))
        if egress.port is None:
            if at != len(spec.egress) - 1:
                yield Finding(place, "an egress listener without a port takes all ports, so it comes last", "Move it.")
            continue
        yield from _egress_port_findings(egress, place)
        seen: set[int] | set[str] = numbers if egress.port.number else sockets
        key: int | str = egress.port.number or egress.bind
        if key in seen:
            yield Finding((*place, "port"), f"{shown(key)} is listened on twice", "Remove one.")
        seen.add(key)  # type: ignore[arg-type]


def _egress_port_findings(spec: EgressSpec, path: Path) -> Iterator[Finding]:
    port = spec.port
    if port is None:
        return
    yield from _port_findings(port, (*path, "port"))
    if port.number > 65535:
        yield Finding((*path, "port", "number"), f"{port.number} is not a port", "Use 1 to 65535.")
    elif port.number:
        if spec.bind and not is_address(spec.bind):
            yield Finding(
                (*path, "bind"), f"{shown(spec.bind)} is not an IP address", "Write the address to listen on."
            )
    elif not spec.bind.startswith(UNIX) or why_not_socket(spec.bind):
        yield Finding(
            (*path, "bind"), "a port without a number is a Unix socket", "Write bind: unix:///path, or the number."
        )
    elif spec.capture_mode == "IPTABLES":
        yield Finding((*path, "captureMode"), "nothing is redirected to a Unix socket", "Use NONE, or leave it out.")


def _port_findings(port: SidecarPortSpec, path: Path) -> Iterator[Finding]:
    if port.name and not is_label(port.name):
        yield Finding((*path, "name"), f"{shown(port.name)} is not a port's name", "Use letters, digits and '-'.")
    if port.protocol and parse_protocol(port.protocol) is None:
        yield Finding((*path, "protocol"), f"{shown(port.protocol)} is not a protocol", PROTOCOL_REMEDY)
    if port.target_port:
        yield Finding((*path, "targetPort"), "targetPort means nothing in a Sidecar", "Use defaultEndpoint.")


def _hosts_findings(hosts: list[str], namespace: str, path: Path) -> Iterator[Finding]:
    known: dict[str, set[str]] = {}
    for at, text in enumerate(hosts):
        owner, slash, host = text.partition("/")
        if why := _why_not_host(owner, slash, host):
            yield Finding((*path, at), f"{shown(text)} {why}", _REMEDY_HOST)
        if not slash or owner.startswith("~"):
            continue
        seen = known.setdefault(namespace if owner == "." else owner, set())
        if (host in seen or "*" in seen) if host != "*" else seen:
            yield warning((*path, at), f"{shown(text)} is among the hosts before it", "Take one of them out.")
        seen.add(host)
    if "*" in known.get(ANY_NAMESPACE, ()) and len(known) > 1:
        yield warning(path, "'*/*' is everything, so that the other hosts add nothing", "Keep it, or the others.")


def _why_not_host(owner: str, slash: str, host: str) -> str:
    namespace = owner.removeprefix("~")
    if not slash:
        return "names no namespace"
    if not owner or not host:
        return "lacks one of its parts"
    if namespace not in ("", "*", ".") and not is_label(namespace):
        return "has no namespace before the '/'"
    if host != "*" and ("." not in host or ("*" in host and not host.startswith("*."))):
        return "has a host that is neither '*', nor a full name, nor '*.' and a full name"
    return f"is not a host: {why}" if (why := why_not_wildcard(host)) else ""


def _policy_findings(spec: OutboundPolicySpec, path: Path) -> Iterator[Finding]:
    proxy = spec.egress_proxy
    if proxy is None:
        return
    place: Path = (*path, "egressProxy")
    if spec.mode != "ALLOW_ANY":
        yield Finding(place, "egressProxy is for mode ALLOW_ANY", "Write mode: ALLOW_ANY.")
        return
    if why := why_not_fqdn(proxy.host):
        yield Finding((*place, "host"), f"{shown(proxy.host)} is not a host name: {why}", "Name one service.")
    if proxy.port is None:
        yield Finding((*place, "port"), "egressProxy needs a port", "Add port.number.")


def _lower(meta: Metadata, spec: SidecarSpec, document: Document) -> Sidecar:
    policy, selector = spec.outbound_traffic_policy, spec.workload_selector
    proxy = policy.egress_proxy if policy is not None else None
    return Sidecar(
        meta=meta,
        selector=dict(sorted(selector.labels.items())) if selector is not None else None,
        ingress=tuple(_ingress(item) for item in spec.ingress),
        egress=tuple(_egress(item) for item in spec.egress),
        outbound_mode=OutboundMode(policy.mode) if policy is not None else None,
        egress_proxy=lower_destination(proxy, meta.namespace) if proxy is not None else None,
        inbound_pool=lower_pool(spec.inbound_connection_pool) if spec.inbound_connection_pool else None,
    )


def _ingress(spec: IngressSpec) -> IngressListener:
    return IngressListener(
        port=spec.port.number,
        protocol=parse_protocol(spec.port.protocol) or Protocol.UNDECLARED,
        name=spec.port.name,
        bind=spec.bind,
        captured=spec.capture_mode != "NONE",
        endpoint=spec.default_endpoint,
        tls=lower_server_tls(spec.tls) if spec.tls is not None else None,
        pool=lower_pool(spec.connection_pool) if spec.connection_pool is not None else None,
    )


def _egress(spec: EgressSpec) -> EgressListener:
    """The `.` of a host stays: what it means follows from the namespace of the proxy that the Sidecar is for."""
    port = spec.port or SidecarPortSpec()
    return EgressListener(
        hosts=tuple(_host(text) for text in spec.hosts),
        port=port.number,
        protocol=parse_protocol(port.protocol) or Protocol.UNDECLARED,
        http_proxy=port.protocol.lower() == "http_proxy",
        bind=spec.bind,
        captured=spec.capture_mode != "NONE" and not spec.bind.startswith(UNIX),
    )


def _host(text: str) -> EgressHost:
    owner, _, host = text.partition("/")
    return EgressHost(owner.removeprefix("~") or ANY_NAMESPACE, host.lower(), owner.startswith("~"))


KIND = Kind(
    group="networking.istio.io",
    versions=("v1", "v1beta1", "v1alpha3"),
    name="Sidecar",
    model=SidecarSpec,
    lower=_lower,
    check=_check,
)
