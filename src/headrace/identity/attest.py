"""Who may ask for which certificate, and what a request must be. Separate from who signs (`identity.authority`).

Two stages of `identity.issuer`: `attest` decides the identity from what the control plane knows (never from the
request), `check_request` takes the public key, and nothing else, out of the CSR.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from headrace.model.identity import Identity

CSR_LIMIT = 4096
"""Longest CSR read, in bytes; one of ours has about 220, one with a P-521 key about 500."""
NAME_LIMIT = 512
"""Longest host name and replica id, in characters."""
_CURVES = ("secp256r1", "secp384r1", "secp521r1")


class Stage(StrEnum):
    """The stages of issuing, in their order. ATTEST and REQUEST blame the asker, SIGN and RECORD ourselves."""

    ATTEST = "attest"
    REQUEST = "request"
    SIGN = "sign"
    RECORD = "record"


class IssueRefused(Exception):
    """No certificate. `reason` says what was wrong; it holds nothing secret and quotes foreign text shortened."""

    def __init__(self, stage: Stage, reason: str) -> None:
        super().__init__(f"certificate refused at stage {stage.value}: {reason}")
        self.stage = stage
        self.reason = reason


def quoted(text: str, limit: int = 120) -> str:
    """Foreign text for a message: printable, in quotes, at most `limit` characters of it."""
    return repr(text if len(text) <= limit else text[:limit] + "...")


@dataclass(frozen=True, slots=True)
class Assigned:
    """What the control plane decided about one replica: the host that runs it and the identity it runs as.

    `max_lifetime` bounds its certificates' life in seconds (None: the issuer's own bound only).
    """

    host: str
    identity: Identity
    max_lifetime: float | None = None


class Assignments(Protocol):
    """The control plane's knowledge of replicas; `app` supplies it."""

    def assigned(self, replica_id: str) -> Assigned | None:
        """The assignment of a replica id ("default/chat-v1-0"), None where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Attestation:
    """A positive answer: this host may have a certificate for this replica, as this identity, within these bounds."""

    host: str
    replica_id: str
    identity: Identity
    max_lifetime: float | None = None


def attest(host: str, replica_id: str, assignments: Assignments) -> Attestation:
    """The identity that `host` may ask for on behalf of `replica_id`; IssueRefused where it may not.

    `host` must come from the authenticated channel (owner-only socket and registration, or the client certificate
    of another host's agent), not from the request alone.
    """
    for what, name in (("host name", host), ("replica id", replica_id)):
        if not name or len(name) > NAME_LIMIT or not name.isprintable():
            raise IssueRefused(
                Stage.ATTEST, f"the {what} {quoted(name)} is empty, longer than {NAME_LIMIT} or unprintable"
            )
    found = assignments.assigned(replica_id)
    if found is None:
        raise IssueRefused(
            Stage.ATTEST, f"replica {quoted(replica_id)} is not assigned to any host: it is stopped or unknown"
        )
    if found.host != host:
        raise IssueRefused(
            Stage.ATTEST,
            f"replica {quoted(replica_id)} is assigned to host {quoted(found.host)}, not to {quoted(host)}",
        )
    return Attestation(host, replica_id, found.identity, found.max_lifetime)


def check_request(csr_der: bytes, identity: Identity) -> ec.EllipticCurvePublicKey:
    """The public key of a CSR that is well-formed, small, of an allowed key type and signed by that key.

    Allowed are ECDSA keys on P-256, P-384 and P-521. RSA is refused: our agents never make such keys, and checking
    an outsized one is cheap to demand and dear to do. A SAN may be missing; where there is one it must be exactly
    the URI of `identity`. Anything else in the request is ignored. Every other input raises IssueRefused.
    """
    if not csr_der or len(csr_der) > CSR_LIMIT:
        raise IssueRefused(Stage.REQUEST, f"the CSR has {len(csr_der)} bytes, 1 to {CSR_LIMIT} are accepted")
    try:
        key, names, signed = _parse(csr_der)
    except IssueRefused:
        raise
    except Exception as error:
        # Whatever the parser makes of hostile bytes, the bytes are at fault: fail closed with one kind of error.
        raise IssueRefused(Stage.REQUEST, f"the CSR cannot be read as DER PKCS #10 ({type(error).__name__})") from None
    if not signed:
        raise IssueRefused(Stage.REQUEST, "the CSR is not signed by its own key (no proof of possession)")
    if names is not None and names != [identity.uri]:
        listed = ", ".join(quoted(name) for name in names[:3])
        raise IssueRefused(Stage.REQUEST, f"the CSR asks for {listed or 'no name'}, attested is {identity.uri!r}")
    return key


def _parse(csr_der: bytes) -> tuple[ec.EllipticCurvePublicKey, list[str] | None, bool]:
    """Key, names of the SAN (None: no SAN; other than URIs in their type's form) and whether the signature is valid."""
    request = x509.load_der_x509_csr(csr_der)
    key = request.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise IssueRefused(Stage.REQUEST, "the CSR's key is not ECDSA on P-256, P-384 or P-521")
    names: list[str] | None = None
    for extension in request.extensions:
        if isinstance(extension.value, x509.SubjectAlternativeName):
            names = [
                name.value
                if isinstance(name, x509.UniformResourceIdentifier)
                else f"{type(name).__name__}:{name.value}"
                for name in extension.value
            ]
    return key, names, request.is_signature_valid
