"""Gateway (networking.istio.io): ports, hosts and certificates of the mesh's doors.

Lowered to `model.gateway.Gateway`. The rules are Istio's (ValidateGateway).
"""

from __future__ import annotations

from collections.abc import Iterator

from headrace.config.documents import Document, Path
from headrace.config.fields import Text, UInt32, shown
from headrace.config.kinds.istio_names import host_problem, is_address, is_label, no_effect, warning, why_not_wildcard
from headrace.config.kinds.protocols import PROTOCOL_REMEDY, is_tls, parse_protocol
from headrace.config.kinds.server_tls import ServerTlsSpec, lower_server_tls, tls_findings
from headrace.config.schema import Finding, Kind, Spec
from headrace.model.gateway import PASSING, UNIX, Gateway, Server
from headrace.model.resource import Metadata
from headrace.model.service import Protocol

SEMANTICS, CONVERTED = "internal.istio.io/gateway-semantics", "gateway"
"""Istio's annotation of Gateways that it made of Gateway API's, whose names and hosts are freer."""
SERVICES = "internal.istio.io/gateway-service"
"""Istio's annotation of the Services that such a Gateway stands behind, in place of a selector."""
_LONGEST_SOCKET = 107
"""Bytes of a Unix socket's path that the kernel takes."""


class GatewayPortSpec(Spec):
    """Port of a server."""

    number: UInt32
    protocol: Text
    name: Text
    target_port: UInt32 = 0


class ServerSpec(Spec):
    """Server."""

    port: GatewayPortSpec
    bind: Text = ""
    hosts: list[Text]
    tls: ServerTlsSpec | None = None
    default_endpoint: Text = ""
    name: Text = ""


class GatewaySpec(Spec):
    """Gateway."""

    servers: list[ServerSpec] = []
    selector: dict[Text, Text] = {}


def _check(spec: GatewaySpec, document: Document) -> Iterator[Finding]:
    converted = _annotation(document, SEMANTICS) == CONVERTED
    if document.name and not is_label(document.name) and not converted:
        remedy = "Use 1-63 letters, digits and '-', without dots."
        yield Finding(("metadata", "name"), f"{shown(document.name)} is not a gateway's name", remedy)
    if not spec.servers:
        yield Finding(("spec", "servers"), "a gateway needs a server", "Add servers.")
    names: set[str] = set()
    for at, server in enumerate(spec.servers):
        path: Path = ("spec", "servers", at)
        yield from _check_port(server, path)
        yield from _check_hosts(server, path, ("*", ".", "~") if converted else ("*", "."))
        if server.tls is not None:
            yield from tls_findings(server.tls, (*path, "tls"))
        yield from _check_protocol(server, path)
        if server.port.name in names and server.port.name:
            message = f"port name {shown(server.port.name)} is used twice"
            yield Finding((*path, "port", "name"), message, "Give each server's port its own name.")
        names.add(server.port.name)


def _check_port(server: ServerSpec, path: Path) -> Iterator[Finding]:
    port, unix = server.port, server.bind.startswith(UNIX)
    if not port.name:
        yield Finding((*path, "port", "name"), "a server's port needs a name", "Add name.")
    if port.target_port:
        yield Finding((*path, "port", "targetPort"), "targetPort means nothing in a Gateway", "Take it out.")
    if not 1 <= port.number <= 65535 and (port.number or not unix):
        yield Finding((*path, "port", "number"), f"{port.number} is not a port", "Use a number from 1 to 65535.")
    if unix:
        if port.number:
            yield Finding((*path, "port", "number"), "a Unix socket has no port", "Write number: 0.")
        socket = server.bind.removeprefix(UNIX)
        if not socket.startswith("@") and (not socket.startswith("/") or socket.endswith("/")):
            yield Finding(
                (*path, "bind"), f"{shown(server.bind)} is not a socket's path", "Write unix:///path/to/file."
            )
        if len(socket.encode()) > _LONGEST_SOCKET:
            why = f"a socket's path has at most {_LONGEST_SOCKET} bytes, so this server is left out"
            yield no_effect((*path, "bind"), why, "Use a shorter path.")
    elif server.bind and not is_address(server.bind):
        yield Finding(
            (*path, "bind"), f"{shown(server.bind)} is not an IP address", "Write an address, or unix:///path."
        )


def _check_hosts(server: ServerSpec, path: Path, words: tuple[str, ...]) -> Iterator[Finding]:
    """`words`: what may stand in place of a namespace."""
    if not server.hosts:
        yield Finding((*path, "hosts"), "a server needs a host", "Add hosts, such as '*'.")
    for at, text in enumerate(server.hosts):
        place: Path = (*path, "hosts", at)
        namespace, slash, host = text.partition("/")
        if not slash:
            namespace, host = "*", text
        if not namespace or not host:
            yield Finding(place, f"{shown(text)} is not namespace/host", "Write both parts, or the host alone.")
            continue
        if namespace not in words and not is_label(namespace):
            yield Finding(place, f"{shown(namespace)} is not a namespace", "Use '*', '.' or a namespace.")
        why = "" if is_address(host) else why_not_wildcard(host)
        if why:
            yield Finding(place, *host_problem(host, why))
        elif host != "*" and "." not in host:
            yield Finding(
                place, f"{shown(host)} is a short name, which a gateway's host may not be", "Write it in full."
            )
        elif "*" in host and host != "*" and not host.startswith("*."):
            yield Finding(place, f"{shown(host)}: a wildcard must be a whole label", "Write '*.example.com'.")


def _check_protocol(server: ServerSpec, path: Path) -> Iterator[Finding]:
    protocol = parse_protocol(server.port.protocol)
    place: Path = (*path, "port", "protocol")
    if protocol is None:
        yield Finding(place, f"{shown(server.port.protocol)} is not a protocol", PROTOCOL_REMEDY)
        return
    tls = server.tls
    if is_tls(protocol):
        if tls is None:
            yield Finding((*path, "tls"), f"a {protocol} server needs tls", "Add tls with mode and credentialName.")
    elif tls is not None:
        certificates = tls.ca_certificates or tls.private_key or tls.server_certificate
        if not protocol.is_http:
            yield Finding((*path, "tls"), f"a {protocol} server has no tls", "Use protocol HTTPS or TLS.")
        elif tls.mode not in PASSING or certificates:
            yield Finding((*path, "tls"), "a plain-text HTTP server has no certificates", "Use protocol HTTPS.")
    if tls is not None and tls.https_redirect and not protocol.is_http:
        yield warning((*path, "tls", "httpsRedirect"), "httpsRedirect is for HTTP servers only", "Use protocol HTTP.")
    if protocol is Protocol.UDP:
        yield no_effect(place, "a gateway forwards no UDP, so this server is left out", "Use TCP, or take it out.")


def _is_served(spec: ServerSpec) -> bool:
    """Whether a proxy can listen for the server at all; `_check` says why not."""
    return (
        parse_protocol(spec.port.protocol) is not Protocol.UDP
        and len(spec.bind.removeprefix(UNIX).encode()) <= _LONGEST_SOCKET
    )


def _annotation(document: Document, name: str) -> str:
    """An annotation of the document, empty where it has none (nothing is known of the metadata's form yet)."""
    metadata = document.data.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    value = annotations.get(name) if isinstance(annotations, dict) else None
    return value if isinstance(value, str) else ""


def _lower(meta: Metadata, spec: GatewaySpec, document: Document) -> Gateway:
    return Gateway(
        meta=meta,
        selector=tuple(sorted(spec.selector.items())),
        servers=tuple(_server(server, meta.namespace) for server in spec.servers if _is_served(server)),
        services=tuple(filter(None, meta.annotations.get(SERVICES, "").split(","))),
    )


def _server(spec: ServerSpec, namespace: str) -> Server:
    return Server(
        port=spec.port.number,
        protocol=str(parse_protocol(spec.port.protocol) or Protocol.TCP),
        port_name=spec.port.name,
        hosts=tuple(_host(host, namespace) for host in spec.hosts),
        tls=lower_server_tls(spec.tls) if spec.tls is not None else None,
        bind=spec.bind,
        name=spec.name,
    )


def _host(text: str, namespace: str) -> tuple[str, str]:
    owner, slash, host = text.partition("/")
    if not slash:
        return ("*", text.lower())
    return (namespace if owner == "." else owner, host.lower())


KIND = Kind(
    group="networking.istio.io",
    versions=("v1", "v1beta1", "v1alpha3"),
    name="Gateway",
    model=GatewaySpec,
    lower=_lower,
    check=_check,
    # Istio reads it and does nothing with it either.
    without_effect=("spec.servers[].defaultEndpoint",),
)
