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
    for gateway in index.written.kind("networking.istio.io", "Gateway"):
        selector = pairs(gateway.spec, "selector")
        proxies = [item for item in index.workloads_anywhere(selector) if item.gateway or item.pod]
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
        yield from _judge_ports(index, gateway, proxies)


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


def _judge_ports(index: Index, gateway: Written, proxies: list[Running]) -> Iterator[Problem]:
    """IST0162, where a Service stands before the gateway's proxies: its ports or targets must have the server's."""
    served: set[int] = set()
    found = False
    for service in index.services:
        for running in proxies if service.selector or not index.hosted else ():
            if service.namespace == running.meta.namespace and selects(service.selector or {}, running.labels):
                found = True
                for port in service.ports:
                    if port.protocol is not Protocol.UDP:
                        served.update((port.number, port.target or port.number))
    if not found and index.hosted:
        return  # a gateway that Headrace runs binds its ports itself: it needs no Service
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
