"""VirtualService (networking.istio.io): where requests and connections go.

Lowered to `model.traffic.VirtualService`. The rules are Istio's (ValidateVirtualService).
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import model_validator

from headrace.config.documents import Document, Path
from headrace.config.fields import Text, shown
from headrace.config.kinds.http_lowering import lower_gateways, lower_http_route
from headrace.config.kinds.http_route import HttpRouteSpec, route_findings
from headrace.config.kinds.istio_names import (
    export_findings,
    gateway_findings,
    host_problem,
    is_address,
    is_claim,
    overlap,
    why_not_wildcard,
)
from headrace.config.kinds.l4_route import (
    TcpRouteSpec,
    TlsRouteSpec,
    is_internal_sni,
    lower_tcp_route,
    lower_tls_route,
    tcp_findings,
    tls_findings,
    unreachable_findings,
)
from headrace.config.schema import Finding, Kind, Spec, refuse
from headrace.model.names import MESH_GATEWAY, resolve_host
from headrace.model.resource import Metadata
from headrace.model.traffic import VirtualService


class VirtualServiceSpec(Spec):
    """VirtualService; without hosts it is a delegate of another one."""

    hosts: list[Text] = []
    gateways: list[Text] = []
    http: list[HttpRouteSpec] = []
    tls: list[TlsRouteSpec] = []
    tcp: list[TcpRouteSpec] = []
    export_to: list[Text] = []

    @model_validator(mode="after")
    def _complete(self) -> VirtualServiceSpec:
        if not (self.http or self.tls or self.tcp):
            raise refuse("a VirtualService needs routes", "Add http (or tls, or tcp).", at=("http",))
        for field in ("gateways", "tls", "tcp") if not self.hosts else ():
            if getattr(self, field):
                message = f"a VirtualService without hosts is a delegate, which has no {field}"
                raise refuse(message, "Add hosts.", at=(field,))
        return self

    @property
    def gateway_only(self) -> bool:
        """Whether no sidecar applies it."""
        return bool(self.gateways) and MESH_GATEWAY not in self.gateways


def _check(spec: VirtualServiceSpec, document: Document) -> Iterator[Finding]:
    yield from gateway_findings(spec.gateways, ("spec", "gateways"))
    yield from _check_hosts(spec)
    yield from export_findings(spec.export_to, document.namespace)
    for at, http in enumerate(spec.http):
        path: Path = ("spec", "http", at)
        yield from route_findings(http, path)
        yield from _check_claims(http, spec.gateway_only, path)
        if not spec.hosts and http.delegate is not None:
            yield Finding((*path, "delegate"), "a delegate may not delegate further", "Write the routes here.")
    for at, tls in enumerate(spec.tls):
        yield from tls_findings(tls, spec.hosts, spec.gateway_only, ("spec", "tls", at))
    for at, tcp in enumerate(spec.tcp):
        yield from tcp_findings(tcp, ("spec", "tcp", at))
    yield from unreachable_findings(spec.tls, ("spec", "tls"))
    yield from unreachable_findings(spec.tcp, ("spec", "tcp"))


def _check_hosts(spec: VirtualServiceSpec) -> Iterator[Finding]:
    sni = spec.gateway_only and any(match.sni_hosts for route in spec.tls for match in route.match)
    valid = True
    for at, host in enumerate(spec.hosts):
        why = "" if sni and is_internal_sni(host) else why_not_wildcard(host)
        if why and not is_address(host):
            valid = False
            yield Finding(("spec", "hosts", at), *host_problem(host, why))
        elif host == "*" and not spec.gateway_only:
            valid = False
            remedy = "Name the hosts, or bind it to a gateway only (gateways)."
            yield Finding(("spec", "hosts", at), "'*' is not allowed for sidecars (the mesh gateway)", remedy)
    if valid and len(spec.hosts) <= 1000:
        for at, host in enumerate(spec.hosts):
            clash = next((other for other in spec.hosts[:at] if overlap(other, host)), "")
            if clash:
                message = f"host {shown(host)} is the same as, or within, {shown(clash)}"
                yield Finding(("spec", "hosts", at), message, "Keep one of them.")


def _check_claims(http: HttpRouteSpec, gateway_only: bool, path: Path) -> Iterator[Finding]:
    for at, match in enumerate(http.match):
        for field, names in (("headers", match.headers), ("withoutHeaders", match.without_headers)):
            for name in names:
                if is_claim(name) and not gateway_only:
                    place: Path = (*path, "match", at, field, name)
                    message = "a JWT claim can be matched at gateways only"
                    yield Finding(place, message, "Bind the VirtualService to a gateway (gateways).")


def _lower(meta: Metadata, spec: VirtualServiceSpec, document: Document) -> VirtualService:
    namespace = meta.namespace

    def line(field: str, at: int) -> int:
        return document.locate(("spec", field, at))[1]

    return VirtualService(
        meta=meta,
        hosts=tuple(resolve_host(host, namespace) for host in spec.hosts),
        gateways=lower_gateways(spec.gateways, namespace) or (MESH_GATEWAY,),
        http=tuple(lower_http_route(http, namespace, at, line("http", at)) for at, http in enumerate(spec.http)),
        export_to=tuple(spec.export_to),
        tls=tuple(lower_tls_route(tls, namespace, at, line("tls", at)) for at, tls in enumerate(spec.tls)),
        tcp=tuple(lower_tcp_route(tcp, namespace, at, line("tcp", at)) for at, tcp in enumerate(spec.tcp)),
    )


KIND = Kind(
    group="networking.istio.io",
    versions=("v1", "v1beta1", "v1alpha3"),
    name="VirtualService",
    model=VirtualServiceSpec,
    lower=_lower,
    check=_check,
    body_required=True,
    without_effect=("spec.tcp[].match[].sourceSubnet",),
)
