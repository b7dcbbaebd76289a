"""Who hosts are: identities of agents and of the control plane, join tokens and the pin in them. Pure.

Used by both ends of joining: `app.control_plane.hosts_door` and `app.joining`. A name with an underscore is no service
account that a document could name (`config` refuses it), so no workload's certificate passes for a host's.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from headrace.model.identity import Identity

CONTROL_PLANE_NAME = "headrace-control-plane.istio-system.svc"
"""The DNS name in the certificate of the control plane's server, and in no other: agents check it."""
_NAMESPACE = "istio-system"
_AGENT = "headrace-agent_"
_CONTROL_PLANE = "headrace_control-plane"
_HOST = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SECRET_BYTES = 32
_TOKEN = re.compile(r"hrj1\.([A-Za-z0-9_-]{43})\.([0-9a-f]{64})")
_CERTIFICATES_LIMIT = 1 << 16


class TokenError(ValueError):
    """The text is no join token; the message does not quote it."""


@dataclass(frozen=True, slots=True)
class JoinToken:
    """What lets one host join once: a random `secret` (32 bytes) and the SHA-256 (hex) of the mesh's root."""

    secret: bytes = field(repr=False)
    pin: str

    def text(self) -> str:
        """As people carry it from one host to the other. Secret."""
        return f"hrj1.{base64.urlsafe_b64encode(self.secret).decode().rstrip('=')}.{self.pin}"

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """The token; TokenError for any other text."""
        found = _TOKEN.fullmatch(text.strip()) if len(text) < 500 else None
        try:
            secret = base64.urlsafe_b64decode(found.group(1) + "=") if found else b""
        except binascii.Error:
            secret = b""
        if found is None or len(secret) != _SECRET_BYTES:
            raise TokenError(
                "that is no join token: `headrace token create HOST` prints one (hrj1. ...), copy all of it"
            )
        return cls(secret, found.group(2))


def check_host(name: str) -> str:
    """The name of a host, or ValueError: a DNS label."""
    if not _HOST.fullmatch(name):
        raise ValueError(f"host name {name[:100]!r}: use 1-63 of a-z, 0-9 and '-', with no '-' at either end")
    return name


def agent_identity(trust_domain: str, host: str) -> Identity:
    """Who the agent of a host is."""
    return Identity(trust_domain, _NAMESPACE, _AGENT + check_host(host))


def control_plane_identity(trust_domain: str) -> Identity:
    """Who the control plane is, to agents of other hosts."""
    return Identity(trust_domain, _NAMESPACE, _CONTROL_PLANE)


def reserved(identity: Identity) -> bool:
    """Whether an identity is one of the mesh's own parts, which no replica may have."""
    account = identity.service_account
    return identity.namespace == _NAMESPACE and (account.startswith(_AGENT) or account == _CONTROL_PLANE)


def host_of(certificate: x509.Certificate, trust_domain: str) -> str | None:
    """The host whose agent has this (verified) certificate; None where it is somebody else's."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        identity = Identity.parse(uris[0]) if len(uris) == 1 and len(list(names)) == 1 else None
        if identity is None or not identity.service_account.startswith(_AGENT):
            return None
        host = check_host(identity.service_account.removeprefix(_AGENT))
    except (x509.ExtensionNotFound, ValueError):
        return None
    return host if identity == agent_identity(trust_domain, host) else None


def pin_of(root: x509.Certificate) -> str:
    """The SHA-256 of a root, in hex."""
    return root.fingerprint(hashes.SHA256()).hex()


def pinned(bundle_pem: str, pin: str) -> str:
    """The root of an unverified bundle that the pin names, as PEM; empty where it is not there."""
    try:
        for root in x509.load_pem_x509_certificates(bundle_pem.encode()[:_CERTIFICATES_LIMIT]):
            if pin_of(root) == pin:
                return root.public_bytes(Encoding.PEM).decode("ascii")
    except ValueError:
        pass
    return ""
