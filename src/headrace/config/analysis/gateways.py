"""Gateways: do their proxies, credentials and ports exist, and do two of them claim the same door?

IST0101 (selector, credentialName), IST0138, IST0145, IST0161, IST0162. Called by `analyse`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from headrace.config.analysis.codes import Code
from headrace.config.analysis.index import Index, Running, listed, shown
from headrace.model.gateway import Gateway, Server, ServerTlsMode, secret_name
from headrace.model.problem import Problem
from headrace.model.resource import selects
from headrace.model.security import Secret
from headrace.model.service import Protocol
from headrace.model.traffic import Pairs

DEFAULT_GATEWAY = {"app": "istio-ingressgateway", "istio": "ingressgateway"}
"""Labels of the gateway that Istio's default installation brings, and that may go without saying."""
_CERTIFICATE_KEYS = (("tls.crt", "tls.key"), ("cert", "key"))
_OWN_CERTIFICATES = (ServerTlsMode.SIMPLE, ServerTlsMode.MUTUAL, ServerTlsMode.OPTIONAL_MUTUAL)


def judge_gateways(index: Index) -> Iterator[Problem]:
    """Every judgement of every Gateway.

    A Gateway whose selector no declared gateway selects gets a proxy of its own in the root namespace, so a selector
    can only miss where the documents describe a cluster, with Pods.
    """
    described = any(running.pod for running in index.running)
    doors = _Doors(index)
    for gateway in index.gateways.values():
        proxies = [running for running in index.running if _runs(running, gateway)]
        if described and not proxies and not selects(dict(gateway.selector), DEFAULT_GATEWAY):
            yield index.problem(
                gateway.meta,
                Code.NOT_FOUND,
                "spec.selector",
                f'Referenced selector not found: "{shown(gateway.selector)}".',
                "Correct the selector, or give the gateway's workload these labels.",
            )
        else:
            namespace = proxies[0].meta.namespace if proxies else index.mesh.root_namespace
            yield from _judge_credentials(index, gateway, namespace)
            yield from _judge_ports(index, gateway, proxies)
        yield from _judge_conflicts(index, gateway, doors)


def _runs(running: Running, gateway: Gateway) -> bool:
    """Whether the workload is a gateway (or a Pod, which does not say) that the Gateway selects."""
    return (running.gateway or running.pod) and selects(dict(gateway.selector), running.labels)


def _judge_credentials(index: Index, gateway: Gateway, namespace: str) -> Iterator[Problem]:
    for number, server in enumerate(gateway.servers):
        if server.tls is None or server.tls.mode not in _OWN_CERTIFICATES:
            continue
        several = len(server.tls.credentials) > 1
        for at, credential in enumerate(server.tls.credentials):
            field = f"credentialNames[{at}]" if several else "credentialName"
            yield from _judge_credential(index, gateway, namespace, (credential, f"spec.servers[{number}].tls.{field}"))


def _judge_credential(index: Index, gateway: Gateway, namespace: str, written: tuple[str, str]) -> Iterator[Problem]:
    """One credential, `written` with the field that names it."""
    credential, place = written
    name = secret_name(credential, namespace)
    secret = index.secrets.get((namespace, name))
    if secret is None:
        yield index.problem(
            gateway.meta,
            Code.NOT_FOUND,
            place,
            f'Referenced credentialName not found: "{credential}".',
            f"Add the Secret {namespace}/{name or '...'}: a gateway reads secrets of its workload's own namespace.",
        )
    elif not _has_certificate(secret):
        yield index.problem(
            gateway.meta,
            Code.INVALID_CREDENTIAL,
            place,
            f"The credential referenced by the Gateway {gateway.meta.name} in namespace {namespace} is invalid, "
            "which can cause the traffic not to work as expected.",
            "Give the Secret a PEM certificate in tls.crt and its private key in tls.key.",
        )


def _has_certificate(secret: Secret) -> bool:
    return any(
        b"-----BEGIN CERTIFICATE-----" in secret.data.get(certificate, b"")
        and b"-----BEGIN " in secret.data.get(key, b"")
        for certificate, key in _CERTIFICATE_KEYS
    )


def _judge_ports(index: Index, gateway: Gateway, proxies: list[Running]) -> Iterator[Problem]:
    """IST0162, where a Service stands before the gateway's proxies: its ports or targets must have the server's."""
    served: set[int] = set()
    found = False
    for service in index.services:
        if not service.selector:
            continue
        for running in proxies:
            if service.namespace == running.meta.namespace and selects(service.selector, running.labels):
                found = True
                for port in service.ports:
                    if port.protocol is not Protocol.UDP:
                        served.update((port.number, port.target or port.number))
    if not found and not any(running.pod for running in proxies):
        return  # a gateway that Headrace runs binds its ports itself: it needs no Service
    for number, server in enumerate(gateway.servers):
        if server.port and server.port not in served:
            yield index.problem(
                gateway.meta,
                Code.GATEWAY_PORT_NOT_ON_SERVICE,
                f"spec.servers[{number}].port",
                f"The gateway is listening on a target port (port {server.port}) that is not defined in the Service "
                f"associated with its workload instances (Pod selector {shown(gateway.selector)}).",
                "Add the port to that Service, or use one that it has.",
            )


class _Doors:
    """Gateways by what two of them can share: a host of a port, or a certificate."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._by_host: dict[tuple[int, str, str], list[Gateway]] = defaultdict(list)
        self._by_certificate: dict[tuple[str, ...], list[Gateway]] = defaultdict(list)
        self._shared: dict[frozenset[Pairs], bool] = {}
        for gateway in index.gateways.values():
            for server in gateway.servers:
                for _, host in server.hosts:
                    self._by_host[server.port, server.bind, host].append(gateway)
                if certificate := _certificate(server):
                    self._by_certificate[certificate].append(gateway)

    def rivals(self, gateway: Gateway, server: Server) -> list[Gateway]:
        """Other gateways of the same proxies that take a host of the server on its port and address."""
        near = {id(found): found for _, host in server.hosts for found in self._by_host[server.port, server.bind, host]}
        return [
            other
            for other in near.values()
            if other is not gateway
            and any(_same_door(server, theirs) for theirs in other.servers)
            and self._same_proxies(gateway, other)
        ]

    def sharing(self, gateway: Gateway, server: Server) -> list[Gateway]:
        """Other gateways, of at least these proxies, with a server of the same certificate."""
        found = self._by_certificate[certificate] if (certificate := _certificate(server)) else []
        return [
            other
            for other in {id(other): other for other in found}.values()
            if other is not gateway and set(gateway.selector) <= set(other.selector)
        ]

    def _same_proxies(self, one: Gateway, other: Gateway) -> bool:
        """Whether some proxy takes both: equal selectors, or a workload that both select."""
        if one.selector == other.selector:
            return True
        key = frozenset((one.selector, other.selector))
        if key not in self._shared:
            both = (dict(one.selector), dict(other.selector))
            self._shared[key] = any(
                all(selects(selector, running.labels) for selector in both) for running in self._index.running
            )
        return self._shared[key]


def _certificate(server: Server) -> tuple[str, ...]:
    """What names the server's certificate; empty where nothing does."""
    if server.tls is None:
        return ()
    if server.tls.credentials:
        return server.tls.credentials[:1]
    return next(iter(server.tls.certificates), ())


def _same_door(one: Server, other: Server) -> bool:
    """Whether both servers take the same host on the same port and address (Istio: by the text of the host)."""
    if one.port != other.port or one.bind != other.bind:
        return False
    return any(
        mine == theirs or ((mine[0] in ("*", theirs[0]) or theirs[0] == "*") and mine[1] == theirs[1])
        for mine in one.hosts
        for theirs in other.hosts
    )


def _judge_conflicts(index: Index, gateway: Gateway, doors: _Doors) -> Iterator[Problem]:
    for number, server in enumerate(gateway.servers):
        clashing = doors.rivals(gateway, server)
        if clashing:
            names = listed(other.meta for other in clashing)
            hosts = ",".join(host if namespace == "*" else f"{namespace}/{host}" for namespace, host in server.hosts)
            yield index.problem(
                gateway.meta,
                Code.CONFLICTING_GATEWAYS,
                f"spec.servers[{number}]",
                f"Conflict with gateways {names} (workload selector {shown(gateway.selector)}, port {server.port}, "
                f"hosts {hosts}).",
                "Give each host of a port to one Gateway only.",
            )
        sharing = doors.sharing(gateway, server)
        if sharing:
            names = listed(found.meta for found in (gateway, *sharing))
            yield index.problem(
                gateway.meta,
                Code.DUPLICATE_CERTIFICATE,
                f"spec.servers[{number}].tls",
                f"Duplicate certificate in multiple gateways {names} may cause 404s if clients re-use HTTP2 "
                "connections.",
                "Put the hosts of one certificate into one Gateway.",
            )
