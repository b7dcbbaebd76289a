"""Gateways: do their proxies, their ports and their credentials exist?

IST0101 (selector, credentialName), IST0161, IST0162. Called by `analyse`. What two Gateways contend for is judged in
`gateway_conflicts`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from datetime import datetime

from cryptography import x509

from headrace.config.analysis.codes import Code
from headrace.config.analysis.index import Index, Running, shown
from headrace.config.analysis.written import Written, items, pairs, text, within
from headrace.config.documents import Path
from headrace.model.problem import Problem
from headrace.model.resource import selects
from headrace.model.security import Secret
from headrace.model.service import Protocol

_CERTIFICATE_KEYS = (("cert", "key"), ("tls.crt", "tls.key"))
_END = b"-----END CERTIFICATE-----"


def judge_gateways(index: Index) -> Iterator[Problem]:
    """Every judgement of every Gateway.

    Where Headrace runs the workloads, a Gateway whose selector no declared gateway has gets a proxy of its own in the
    root namespace: its selector cannot miss.
    """
    known: dict[frozenset[tuple[str, str]], tuple[list[Running], set[int] | None]] = {}
    for gateway in index.written.kind("networking.istio.io", "Gateway"):
        selector = pairs(gateway.spec, "selector")
        key = frozenset(selector.items())
        if key not in known:
            found = [item for item in index.workloads_anywhere(selector) if item.gateway or item.pod]
            known[key] = (found, _served(index, found))
        proxies, served = known[key]
        if not proxies and not index.hosted:
            yield gateway.problem(
                Code.NOT_FOUND,
                ("spec", "selector"),
                f'Referenced selector not found: "{shown(selector)}".',
                "Correct the selector, or give the gateway's workload these labels.",
            )
            continue
        namespace = proxies[0].meta.namespace if proxies else index.mesh.root_namespace
        yield from _judge_credentials(index, gateway, namespace)
        if served is not None:
            yield from _judge_ports(gateway, served)


def _judge_credentials(index: Index, gateway: Written, namespace: str) -> Iterator[Problem]:
    for number, server in enumerate(items(gateway.spec, "servers")):
        name = text(server, "tls", "credentialName")
        if not name:
            continue
        place: Path = ("spec", "servers", number, "tls", "credentialName")
        scope, _, short = name.rpartition("/")
        secret = index.secrets.get((scope or namespace, short))
        if secret is None:
            wanted = f"{scope or namespace}/{short}"
            yield gateway.problem(
                Code.NOT_FOUND,
                place,
                f'Referenced credentialName not found: "{name}".',
                f"Add the Secret {wanted}: a gateway reads secrets of its workload's own namespace.",
            )
        elif fault := _fault_of(secret, index.now):
            yield gateway.problem(
                Code.INVALID_CREDENTIAL,
                place,
                f"The credential referenced by the Gateway {gateway.name} in namespace {namespace} {fault}.",
                "Give the Secret a PEM certificate in tls.crt and its private key in tls.key.",
            )


def _fault_of(secret: Secret, now: datetime) -> str:
    """What is wrong with a gateway's certificate; empty where nothing is."""
    for certificate, key in _CERTIFICATE_KEYS:
        if secret.data.get(certificate) and secret.data.get(key):
            return _fault_of_certificate(secret.data[certificate], now)
    return "has no certificate and key"


def _fault_of_certificate(pem: bytes, now: datetime) -> str:
    begin = pem.find(b"-----BEGIN CERTIFICATE-----")
    end = pem.find(_END, begin)
    if begin < 0 or end < 0:
        return "has no PEM certificate"
    try:
        with warnings.catch_warnings(action="ignore"):  # of certificates that later versions will refuse
            found = x509.load_pem_x509_certificate(pem[begin : end + len(_END)])
        if not found.not_valid_before_utc <= now <= found.not_valid_after_utc:
            return "has a certificate that is expired or not valid yet"
    except (ValueError, OverflowError, x509.InvalidVersion):
        return "has a certificate that cannot be read"
    return ""


def _served(index: Index, proxies: list[Running]) -> set[int] | None:
    """Ports, and their targets, of the Services before a gateway's proxies; None where it needs no Service."""
    served: set[int] = set()
    found = False
    for service in index.services:
        for running in proxies if service.selector or not index.hosted else ():
            if service.namespace == running.meta.namespace and selects(service.selector or {}, running.labels):
                found = True
                for port in service.ports:
                    if port.protocol is not Protocol.UDP:
                        served.update((port.number, port.target or port.number))
    return served if found or not index.hosted else None  # one that Headrace runs binds its ports itself


def _judge_ports(gateway: Written, served: set[int]) -> Iterator[Problem]:
    """IST0162: the Services before the gateway's proxies must have each server's port."""
    selector = shown(pairs(gateway.spec, "selector"))
    for number, server in enumerate(items(gateway.spec, "servers")):
        port = within(server, "port", "number")
        if within(server, "port") is not None and str(port) not in map(str, served):
            yield gateway.problem(
                Code.GATEWAY_PORT_NOT_ON_SERVICE,
                ("spec", "servers", number, "port"),
                f"The gateway is listening on a target port (port {port}) that is not defined in the Service "
                f"associated with its workload instances (Pod selector {selector}).",
                "Add the port to that Service, or use one that it has.",
            )
