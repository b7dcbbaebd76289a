"""Secrets over ADS: exactly the credentials that a proxy's own policies name, in its own namespace.

Called by `envoy.translate`. A Secret that no Gateway or DestinationRule of the proxy names never leaves the control
plane, and neither does one of another namespace than the proxy's (Istio's rule for `kubernetes://` credentials).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2

from headrace.envoy.resources import SECRET, XdsResource
from headrace.envoy.secrets import SecretResource
from headrace.envoy.translate.memo import Memo, resource_of
from headrace.envoy.translate.messages import serialized
from headrace.envoy.translate.tls import CA_SUFFIX, credential_resource, server_certificate_name, server_root_name
from headrace.envoy.view import ProxyView, Scope
from headrace.model.destination import TlsMode
from headrace.model.gateway import ServerTlsMode
from headrace.model.security import Secret

_PAIRS = (("cert", "key"), ("tls.crt", "tls.key"))
"""Keys of a certificate and its private key: Istio's generic form, then kubernetes.io/tls."""
_ROOTS = (("cacert", "crl"), ("ca.crt", "ca.crl"))
"""Keys of a CA and its revocation list, in the same order."""


def resources(memo: Memo, view: ProxyView) -> Sequence[XdsResource]:
    """The secrets of one proxy; a named Secret that is missing or has not the keys gives none (Envoy then refuses
    connections to that server, and only to it)."""
    scope = view.scope
    return memo.latest("secrets", scope.key, scope, lambda: _build(scope))


def _build(scope: Scope) -> tuple[XdsResource, ...]:
    found: list[XdsResource] = []
    certificates, roots = _named(scope)
    for name in sorted(certificates):
        message = _certificate(name, scope.secrets.get(name))
        if message is not None:
            found.append(_hidden(message, message.tls_certificate.certificate_chain.inline_bytes))
    for name in sorted(roots):
        secret = scope.secrets.get(name + CA_SUFFIX) or scope.secrets.get(name)
        message = _root(name + CA_SUFFIX, secret)
        if message is not None:
            found.append(_hidden(message, message.validation_context.SerializeToString(deterministic=True)))
    files = {message.name: message for message in _files(scope)}
    found += [resource_of(SECRET, name, files[name]) for name in sorted(files)]
    return tuple(found)


def _hidden(message: Any, public: bytes) -> XdsResource:
    """The secret as a resource whose text form shows nothing; its version is a hash of what is public in it."""
    version = hashlib.blake2b(public, digest_size=8).hexdigest()
    return SecretResource(SECRET, message.name, serialized(message), version)


def _files(scope: Scope) -> Iterator[Any]:
    """The secrets that the gateway's servers name as files on the proxy's host: paths only."""
    for gateway in scope.gateways:
        for tls in (server.tls for server in gateway.servers):
            if tls is None or tls.credential_name or not tls.server_certificate:
                continue
            pair = common_pb2.TlsCertificate(
                certificate_chain=base_pb2.DataSource(filename=tls.server_certificate),
                private_key=base_pb2.DataSource(filename=tls.private_key),
            )
            yield secret_pb2.Secret(name=server_certificate_name(tls), tls_certificate=pair)
            if tls.ca_certificates:
                context = common_pb2.CertificateValidationContext(
                    trusted_ca=base_pb2.DataSource(filename=tls.ca_certificates)
                )
                yield secret_pb2.Secret(name=server_root_name(tls), validation_context=context)


def _named(scope: Scope) -> tuple[set[str], set[str]]:
    """Names of the credentials whose certificate, and whose CA, the proxy's policies need."""
    certificates: set[str] = set()
    roots: set[str] = set()
    for gateway in scope.gateways:
        for server in gateway.servers:
            if server.tls is not None and server.tls.credential_name:
                certificates.add(server.tls.credential_name)
                if server.tls.mode in (ServerTlsMode.MUTUAL, ServerTlsMode.OPTIONAL_MUTUAL):
                    roots.add(server.tls.credential_name)
    for target in scope.targets:
        if target.rule is None:
            continue
        for policy in (target.rule.policy, *(subset.policy for subset in target.rule.subsets)):
            blocks = [] if policy is None else [policy.tls, *(port.tls for port in policy.ports)]
            for tls in blocks:
                if tls is not None and tls.credential_name:
                    roots.add(tls.credential_name)
                    if tls.mode is TlsMode.MUTUAL:
                        certificates.add(tls.credential_name)
    return certificates, roots


def _certificate(name: str, secret: Secret | None) -> Any:
    if secret is None:
        return None
    for chain, key in _PAIRS:
        if secret.data.get(chain) and secret.data.get(key):
            certificate = common_pb2.TlsCertificate(
                certificate_chain=base_pb2.DataSource(inline_bytes=secret.data[chain]),
                private_key=base_pb2.DataSource(inline_bytes=secret.data[key]),
            )
            return secret_pb2.Secret(name=credential_resource(name), tls_certificate=certificate)
    return None


def _root(name: str, secret: Secret | None) -> Any:
    if secret is None:
        return None
    for root, crl in _ROOTS:
        if secret.data.get(root):
            context = common_pb2.CertificateValidationContext(
                trusted_ca=base_pb2.DataSource(inline_bytes=secret.data[root])
            )
            if secret.data.get(crl):
                context.crl.inline_bytes = secret.data[crl]
            return secret_pb2.Secret(name=credential_resource(name), validation_context=context)
    return None
