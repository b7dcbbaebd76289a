"""Secrets over ADS: exactly the credentials that a proxy's own policies name, in its own namespace.

Called by `envoy.translate`. A Secret that no Gateway or DestinationRule of the proxy names never leaves the control
plane, and neither does one of another namespace than the proxy's (Istio's rule for `kubernetes://` credentials).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2

from headrace.envoy.resources import SECRET, XdsResource
from headrace.envoy.secrets import SecretResource
from headrace.envoy.translate.memo import Memo, resource_of
from headrace.envoy.translate.messages import serialized
from headrace.envoy.translate.tls import credential_resource, server_certificate_name, server_root_name
from headrace.envoy.view import ProxyView, Scope
from headrace.model.destination import TlsMode
from headrace.model.gateway import CA_SUFFIX, ServerTls, secret_name
from headrace.model.security import Secret

_PAIRS = (("cert", "key"), ("tls.crt", "tls.key"))
"""Keys of a certificate and its private key: Istio's generic form, then kubernetes.io/tls."""
_STAPLE = "tls.ocsp-staple"
"""Key of what the certificate's authority says of its validity (only beside `tls.crt`)."""
_ROOTS = (("cacert", "crl"), ("ca.crt", "ca.crl"))
"""Keys of a CA and its revocation list, in the same order."""


def resources(memo: Memo, view: ProxyView) -> Sequence[XdsResource]:
    """The secrets of one proxy; a named Secret that is missing or has not the keys gives none (Envoy then refuses
    connections to that server, and only to it)."""
    scope = view.scope
    return memo.latest("secrets", scope.key, scope, lambda: _build(scope))


def _build(scope: Scope) -> tuple[XdsResource, ...]:
    found: list[XdsResource] = []
    needed = _needed(scope)
    for name, secret in sorted(needed.certificates.items()):
        message = _certificate(name, scope.secrets.get(secret))
        if message is not None:
            found.append(_hidden(message, message.tls_certificate.certificate_chain.inline_bytes))
    for name, candidates in sorted(needed.roots.items()):
        message = _root(name, next(filter(None, map(scope.secrets.get, candidates)), None))
        if message is not None:
            found.append(_hidden(message, message.validation_context.SerializeToString(deterministic=True)))
    files = {message.name: message for message in _files(scope)}
    found += [resource_of(SECRET, name, files[name]) for name in sorted(files)]
    return tuple(found)


def _hidden(message: Any, public: bytes) -> XdsResource:
    """The secret as a resource whose text form shows nothing; its version is a hash of what is public in it."""
    version = hashlib.blake2b(public, digest_size=8).hexdigest()
    return SecretResource(SECRET, message.name, serialized(message), version)


def _servers(scope: Scope) -> Iterator[ServerTls]:
    """The TLS settings of the gateway's servers, or of a Sidecar's ingress, that end TLS."""
    for listener in scope.sidecar.ingress if scope.sidecar is not None else ():
        if listener.tls is not None and listener.tls.terminates:
            yield listener.tls
    for gateway in scope.gateways:
        for server in gateway.servers:
            if server.tls is not None and server.tls.terminates:
                yield server.tls


def _files(scope: Scope) -> Iterator[Any]:
    """The secrets that servers name as files on the proxy's host: paths only."""
    for tls in _servers(scope):
        if tls.credentials:
            continue
        for pair in tls.certificates:
            certificate = common_pb2.TlsCertificate(
                certificate_chain=base_pb2.DataSource(filename=pair[0]),
                private_key=base_pb2.DataSource(filename=pair[1]),
            )
            yield secret_pb2.Secret(name=server_certificate_name(pair), tls_certificate=certificate)
        if tls.ca_certificates and tls.verifies_by_own_roots:
            context = common_pb2.CertificateValidationContext(
                trusted_ca=base_pb2.DataSource(filename=tls.ca_certificates)
            )
            if tls.ca_crl:
                context.crl.filename = tls.ca_crl
            yield secret_pb2.Secret(name=server_root_name(tls), validation_context=context)


@dataclass(frozen=True, slots=True)
class _Needed:
    """What the proxy's policies need, by resource: the Secret of a certificate, and those that may have a CA, the first
    one that exists counting."""

    certificates: dict[str, str] = field(default_factory=dict)
    roots: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def certificate(self, credential: str, namespace: str) -> None:
        self.certificates[credential_resource(credential)] = secret_name(credential, namespace)

    def root_of(self, credential: str, namespace: str) -> None:
        name = secret_name(credential, namespace)
        self.roots[credential_resource(credential + CA_SUFFIX)] = (name + CA_SUFFIX, name)


def _needed(scope: Scope) -> _Needed:
    needed = _Needed()
    for tls in _servers(scope):
        for credential in tls.credentials:
            needed.certificate(credential, scope.namespace)
        if tls.credentials and tls.verifies_by_own_roots:
            if tls.ca_credential:
                names = tuple(secret_name(name, scope.namespace) for name in tls.ca_candidates)
                needed.roots[server_root_name(tls)] = names
            else:
                needed.root_of(tls.credentials[0], scope.namespace)
    for target in scope.targets:
        if target.rule is None:
            continue
        for policy in (target.rule.policy, *(subset.policy for subset in target.rule.subsets)):
            blocks = [] if policy is None else [policy.tls, *(port.tls for port in policy.ports)]
            for client in blocks:
                if client is not None and client.credential_name:
                    needed.root_of(client.credential_name, scope.namespace)
                    if client.mode is TlsMode.MUTUAL:
                        needed.certificate(client.credential_name, scope.namespace)
    return needed


def _certificate(name: str, secret: Secret | None) -> Any:
    if secret is None:
        return None
    for chain, key in _PAIRS:
        if secret.data.get(chain) and secret.data.get(key):
            certificate = common_pb2.TlsCertificate(
                certificate_chain=base_pb2.DataSource(inline_bytes=secret.data[chain]),
                private_key=base_pb2.DataSource(inline_bytes=secret.data[key]),
            )
            if chain == "tls.crt" and secret.data.get(_STAPLE):
                certificate.ocsp_staple.inline_bytes = secret.data[_STAPLE]
            return secret_pb2.Secret(name=name, tls_certificate=certificate)
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
            return secret_pb2.Secret(name=name, validation_context=context)
    return None
