"""Rules of VirtualServices at gateways that can take nothing, and servers from which no rule leads anywhere.

HR0002. Called by `analyse`. What a server carries decides which rules it asks (Istio): HTTP, also behind TLS that ends
there, `http`; TLS that is passed on, `tls`; everything else `tcp`. AUTO_PASSTHROUGH asks none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from headrace.config.analysis.codes import Code
from headrace.config.analysis.index import Index, overlaps
from headrace.model.gateway import Gateway, Server, ServerTlsMode
from headrace.model.names import MESH_GATEWAY
from headrace.model.problem import Problem
from headrace.model.traffic import HttpRoute, L4Route, VirtualService

_HTTP = ("HTTP", "HTTP2", "GRPC", "GRPC-WEB")
_TAKERS = {
    "http": "none of its gateways has an HTTP server for its hosts, nor an HTTPS one in which TLS ends",
    "tls": "none of its gateways has a PASSTHROUGH server for its hosts",
    "tcp": "none of its gateways has a TCP server for its hosts, nor a TLS one in which TLS ends",
}


def judge_gateway_rules(index: Index) -> Iterator[Problem]:
    """Every judgement of both."""
    bound: dict[str, list[VirtualService]] = {name: [] for name in index.gateways}
    for service in index.virtual_services:
        for name in service.gateways:
            if name in bound:
                bound[name].append(service)
        yield from _judge_rules(index, service)
    for name, gateway in index.gateways.items():
        yield from _judge_servers(index, gateway, bound[name])


def _judge_rules(index: Index, service: VirtualService) -> Iterator[Problem]:
    """Rules of a kind that no server of its gateways asks; where no server has its hosts at all, IST0132 says so."""
    gateways = [index.gateways[name] for name in service.gateways if name in index.gateways]
    if MESH_GATEWAY in service.gateways or len(gateways) < len(service.gateways):
        return
    written = {kind for kind in _TAKERS if getattr(service, kind)} - ({"tls"} if service.made_of_tls_route else set())
    asked: set[str] = set()
    for server in (server for gateway in gateways for server in gateway.servers):
        if _offers(server, service):
            asked.add(_asks(server))
            if written <= asked:
                return
    for kind, why in _TAKERS.items() if asked else ():
        if kind in written - asked:
            message = f"The {kind} rules are never asked: {why}."
            yield index.problem(
                service.meta, Code.NO_EFFECT, f"spec.{kind}", message, "Add such a server, or use rules of its kind."
            )


def _judge_servers(index: Index, gateway: Gateway, services: Iterable[VirtualService]) -> Iterator[Problem]:
    """Servers whose port stays closed, because no rule leads anywhere from it. Of what is HTTP it answers 404."""
    name = f"{gateway.meta.namespace}/{gateway.meta.name}"
    for number, server in enumerate(gateway.servers):
        kind = _asks(server)
        if kind in ("http", ""):
            continue
        if not any(_leads(service, kind, name, server) for service in services if _offers(server, service)):
            message = (
                f"No {kind} rule of a VirtualService for this Gateway leads anywhere from port {server.port}: "
                "what comes here is not taken."
            )
            remedy = f"Add a VirtualService with a {kind} rule for one of the server's hosts."
            yield index.problem(gateway.meta, Code.NO_EFFECT, f"spec.servers[{number}]", message, remedy)


def _asks(server: Server) -> str:
    """The kind of rules that the server asks; empty for none."""
    protocol, tls = server.protocol.upper(), server.tls
    if protocol in _HTTP or (protocol == "HTTPS" and tls is not None and tls.terminates):
        return "http"
    if tls is None or tls.terminates:
        return "tcp"
    return "" if tls.mode is ServerTlsMode.AUTO_PASSTHROUGH else "tls"


def _offers(server: Server, service: VirtualService) -> bool:
    """Whether the server takes one of the VirtualService's hosts, for its namespace."""
    return any(
        scope in ("*", service.meta.namespace) and overlaps(host, wanted)
        for scope, host in server.hosts
        for wanted in service.hosts
    )


def _leads(service: VirtualService, kind: str, gateway: str, server: Server) -> bool:
    rules: tuple[HttpRoute | L4Route, ...] = service.tls if kind == "tls" else service.tcp
    if kind == "tcp" and server.tls is not None and service.made_of_tls_route:
        rules = (*rules, *service.tls)
    return any(
        not rule.matches
        or any(
            match.port in (0, server.port) and (not match.gateways or gateway in match.gateways)
            for match in rule.matches
        )
        for rule in rules
    )
