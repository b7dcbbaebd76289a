"""Certificates as Envoy's SDS secrets, serialised: what the agent serves to the one Envoy that they are for.

Called by the agent with every new certificate of a replica. Source of the fields: envoy.extensions.transport_sockets.
tls.v3.Secret.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from envoy.config.core.v3.base_pb2 import DataSource
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import CertificateValidationContext, TlsCertificate
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret

from headrace.envoy.resources import SECRET, XdsResource


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SecretResource(XdsResource):
    """A resource whose text form shows neither body nor anything computed from a key."""

    def __repr__(self) -> str:
        return f"SecretResource({self.name!r}, version={self.version!r}, body hidden)"


def workload_secret(name: str, chain_pem: str, key_pem: bytes) -> XdsResource:
    """The secret `name`: a certificate chain (leaf first) and its private key (PEM).

    The version is a hash of the chain alone: the leaf's serial and public key make it as unique as the pair is, and
    no number that is shown anywhere depends on the private key.
    """
    chain = chain_pem.encode("ascii")
    pair = TlsCertificate(
        certificate_chain=DataSource(inline_bytes=chain), private_key=DataSource(inline_bytes=key_pem)
    )
    return _secret(Secret(name=name, tls_certificate=pair), chain)


def validation_secret(name: str, bundle_pem: str, lists_pem: str = "") -> XdsResource:
    """The secret `name`: the roots that peers must descend from. Which names they may have stands in the TLS contexts
    of listeners and clusters (combined_validation_context), so that it changes with policy and not with roots.

    `lists_pem`: revocation lists; none is in force where it is empty. Only the peer's own certificate is looked up:
    nobody signs a list for the CAs of a plugged-in authority, and a missing one would refuse everybody.
    """
    bundle = bundle_pem.encode("ascii")
    context = CertificateValidationContext(trusted_ca=DataSource(inline_bytes=bundle))
    lists = lists_pem.encode("ascii")
    if lists:
        context.crl.inline_bytes = lists
        context.only_verify_leaf_cert_crl = True
    return _secret(Secret(name=name, validation_context=context), bundle + lists)


def _secret(secret: Secret, public: bytes) -> SecretResource:
    version = hashlib.blake2b(public, digest_size=8).hexdigest()
    return SecretResource(SECRET, secret.name, secret.SerializeToString(deterministic=True), version)
