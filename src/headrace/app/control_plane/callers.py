"""Who calls the agent API: this machine's agent over its owner-only socket, or another host's by its certificate.

Asked by `agents` before anything else. gRPC has verified the chain; here stands whose it is and whether it is revoked.
"""

from __future__ import annotations

from typing import cast

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from headrace.identity.hosts import host_of
from headrace.identity.trust import TrustState

_CERTIFICATE = "x509_pem_cert"


class NotAnAgent(Exception):
    """The caller is nobody who may use this API; the message says why."""


class Callers:
    """Tells callers apart. Remembers what it read of the newest certificates: streams ask with every message."""

    def __init__(self) -> None:
        self._read: dict[bytes, tuple[x509.Certificate, str]] = {}

    def local(self, context: object) -> bool:
        """Whether the call came over this machine's socket (or, in a test, over none at all)."""
        peer = getattr(context, "peer", None)
        return peer is None or str(peer()).startswith("unix:")

    def host(self, context: object, trust: TrustState | None, trust_domain: str) -> str | None:
        """The host whose agent calls; None for this machine's own. NotAnAgent for anybody else."""
        if self.local(context):
            return None
        found = cast("grpc.aio.ServicerContext[object, object]", context).auth_context()
        pem = next(iter(found.get(_CERTIFICATE, ())), b"")
        if not pem:
            raise NotAnAgent("a certificate is needed")
        certificate, fingerprint = self._certificate(pem)
        host = host_of(certificate, trust_domain)
        if host is None:
            raise NotAnAgent("this certificate is not that of a host's agent")
        if trust is None:
            raise NotAnAgent("the control plane is still starting")
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uri = names.get_values_for_type(x509.UniformResourceIdentifier)[0]
        if fingerprint in trust.fingerprints or uri in trust.identities:
            raise NotAnAgent(f"the certificate of host {host} is revoked: join again with a new token")
        return host

    def _certificate(self, pem: bytes) -> tuple[x509.Certificate, str]:
        known = self._read.get(pem)
        if known is None:
            certificate = x509.load_pem_x509_certificate(pem)
            known = certificate, certificate.fingerprint(hashes.SHA256()).hex()
            if len(self._read) > 1000:
                self._read.clear()
            self._read[pem] = known
        return known
