"""TLSRoute and TCPRoute of a VirtualService: read, judged, and made model routes.

Used by `virtual_service`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence

from pydantic import model_validator

from headrace.config.documents import Path
from headrace.config.fields import LabelMap, Text, UInt32, Weight, shown
from headrace.config.kinds.http_fields import DestinationSpec, lower_destination
from headrace.config.kinds.http_lowering import lower_gateways
from headrace.config.kinds.istio_names import (
    Subnet,
    gateway_findings,
    host_problem,
    is_address,
    subset_of,
    warning,
    why_not_wildcard,
)
from headrace.config.schema import NO_EFFECT, Finding, Spec, refuse
from headrace.model.problem import Severity
from headrace.model.traffic import L4Match, L4Route, RouteDestination


class RouteDestinationSpec(Spec):
    """RouteDestination."""

    destination: DestinationSpec
    weight: Weight = 0


def _check_weights(route: list[RouteDestinationSpec]) -> None:
    if not route:
        raise refuse("a route needs a destination", "Add route.", at=("route",))
    if len(route) > 1 and not sum(destination.weight for destination in route):
        raise refuse("the weights add up to 0", "Give at least one destination a weight.", at=("route",))


class L4MatchSpec(Spec):
    """L4MatchAttributes."""

    destination_subnets: list[Subnet] = []
    port: UInt32 = 0
    source_subnet: Text = ""
    source_labels: LabelMap = {}
    gateways: list[Text] = []
    source_namespace: Text = ""

    @model_validator(mode="after")
    def _port(self) -> L4MatchSpec:
        if self.port > 65535:
            raise refuse(f"{self.port} is not a port", "Use a number from 1 to 65535.", at=("port",))
        return self


class TlsMatchSpec(Spec):
    """TLSMatchAttributes."""

    sni_hosts: list[Text]
    destination_subnets: list[Subnet] = []
    port: UInt32 = 0
    source_labels: LabelMap = {}
    gateways: list[Text] = []
    source_namespace: Text = ""

    @model_validator(mode="after")
    def _filled(self) -> TlsMatchSpec:
        if not self.sni_hosts:
            raise refuse("a TLS match needs an SNI host", "Add sniHosts.", at=("sniHosts",))
        if self.port > 65535:
            raise refuse(f"{self.port} is not a port", "Use a number from 1 to 65535.", at=("port",))
        return self


class TcpRouteSpec(Spec):
    """TCPRoute."""

    match: list[L4MatchSpec] = []
    route: list[RouteDestinationSpec] = []

    @model_validator(mode="after")
    def _destinations(self) -> TcpRouteSpec:
        _check_weights(self.route)
        return self


class TlsRouteSpec(Spec):
    """TLSRoute."""

    match: list[TlsMatchSpec]
    route: list[RouteDestinationSpec] = []

    @model_validator(mode="after")
    def _complete(self) -> TlsRouteSpec:
        if not self.match:
            raise refuse("a TLS route needs a match", "Add match with sniHosts.", at=("match",))
        _check_weights(self.route)
        return self


def tcp_findings(spec: TcpRouteSpec, path: Path) -> Iterator[Finding]:
    """References of a TCP route."""
    for at, match in enumerate(spec.match):
        yield from gateway_findings(match.gateways, (*path, "match", at, "gateways"))


def tls_findings(spec: TlsRouteSpec, hosts: list[str], gateway_only: bool, path: Path) -> Iterator[Finding]:
    """References of a TLS route, and whether its SNI hosts are among the VirtualService's."""
    for at, match in enumerate(spec.match):
        yield from gateway_findings(match.gateways, (*path, "match", at, "gateways"))
        for number, name in enumerate(match.sni_hosts):
            place: Path = (*path, "match", at, "sniHosts", number)
            why = "" if gateway_only and is_internal_sni(name) else why_not_wildcard(name)
            if why and is_address(name):
                yield warning(place, f"{shown(name)}: most clients send no SNI for an address", "Use a host name.")
            elif why:
                yield Finding(place, *host_problem(name, why))
            elif not any(subset_of(name, host) for host in hosts):
                message = f"SNI host {shown(name)} is none of the VirtualService's hosts"
                yield Finding(place, message, "Add it to hosts, or use one of them.")
            elif not is_comparable_sni(name):
                message = f"SNI host {shown(name)} matches nothing: Envoy knows '*' as a whole first label only"
                yield Finding(place, message, "Write '*.example.com', or whole names.", NO_EFFECT, Severity.WARNING)


def lower_tls_route(spec: TlsRouteSpec, namespace: str, position: int, line: int) -> L4Route:
    """The model's route; SNI that Envoy cannot compare is left out, and a match that has no other with it."""
    matches = tuple(found for found in (_tls_match(match, namespace) for match in spec.match) if found is not None)
    return L4Route(matches, _destinations(spec.route, namespace), line, position)


def lower_tcp_route(spec: TcpRouteSpec, namespace: str, position: int, line: int) -> L4Route:
    """The model's route."""
    matches = tuple(_l4_match(match, (), namespace) for match in spec.match)
    return L4Route(matches, _destinations(spec.route, namespace), line, position)


def _tls_match(spec: TlsMatchSpec, namespace: str) -> L4Match | None:
    names = tuple(dict.fromkeys(name.lower() for name in spec.sni_hosts if is_comparable_sni(name)))
    return _l4_match(spec, names, namespace) if names else None


def _l4_match(spec: L4MatchSpec | TlsMatchSpec, names: tuple[str, ...], namespace: str) -> L4Match:
    return L4Match(
        sni_hosts=names,
        subnets=tuple(
            dict.fromkeys(str(ipaddress.ip_network(block, strict=False)) for block in spec.destination_subnets)
        ),
        port=spec.port,
        source_labels=tuple(sorted(spec.source_labels.items())),
        source_namespace=spec.source_namespace,
        gateways=lower_gateways(spec.gateways, namespace),
    )


def _destinations(route: list[RouteDestinationSpec], namespace: str) -> tuple[RouteDestination, ...]:
    return tuple(RouteDestination(lower_destination(found.destination, namespace), found.weight) for found in route)


def is_comparable_sni(name: str) -> bool:
    """Whether Envoy can compare it with a connection's SNI: `*` alone or as the first label, nowhere else."""
    return name == "*" or "*" not in name.removeprefix("*.")


def unreachable_findings(routes: Sequence[TlsRouteSpec | TcpRouteSpec], path: Path) -> Iterator[Finding]:
    """Routes that can never be taken (IST0130) and matches that an earlier route has (IST0131), as for HTTP."""
    seen: dict[str, int] = {}
    catch_all = False
    for at, route in enumerate(routes):
        place: Path = (*path, at)
        if catch_all:
            after = "route without matches defined before"
            yield _unreachable(place, at, after if route.match else "only the last rule can have no matches")
            continue
        catch_all = not route.match
        duplicates = 0
        for number, match in enumerate(route.match):
            key = match.model_dump_json(exclude_unset=True)
            if key in seen:
                duplicates += 1
                message = (
                    f"VirtualService rule #{at} match #{number} is not used (duplicate match in rule #{seen[key]})"
                )
                yield Finding((*place, "match", number), message, "Take it out.", "IST0131", Severity.INFO)
            seen.setdefault(key, at)
        if route.match and duplicates == len(route.match):
            yield _unreachable(place, at, "all matches used by prior rules")


def _unreachable(place: Path, at: int, reason: str) -> Finding:
    message = f"VirtualService rule #{at} not used ({reason})"
    return Finding(place, message, "Take it out, or change its matches.", "IST0130", Severity.WARNING)


def is_internal_sni(name: str) -> bool:
    """Whether the name is the mesh's own SNI form, `outbound_.80_._.chat.default.svc.cluster.local`."""
    parts = name.split("_")
    if len(parts) < 4 or parts[0] != "outbound":
        return False
    return any(char.isdigit() for char in parts[1]) and any(char.isalpha() for char in parts[3])
