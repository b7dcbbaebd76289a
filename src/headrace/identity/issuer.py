"""Issues a certificate in named stages: attest, request, sign, record; then, and only then, the answer.

Called by the control plane's SignCertificate RPC for every replica and renewal.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from headrace.floor.clock import Clock
from headrace.identity.attest import Assignments, IssueRefused, Stage, attest, check_request
from headrace.identity.authority import Leaf
from headrace.identity.ledger import Block, Entry, LedgerError
from headrace.model.identity import Identity

DEFAULT_LIFETIME = 86400.0
SHORTEST_LIFETIME = 600.0
LONGEST_LIFETIME = 366 * 86400.0


def check_lifetime(seconds: float, shortest: float = SHORTEST_LIFETIME) -> float:
    """`seconds`, where certificates may live that long (10 minutes to one year), else ValueError with the bounds."""
    if not shortest <= seconds <= LONGEST_LIFETIME:
        raise ValueError(
            f"certificate lifetime {seconds:g} s: use {shortest:g} s to {LONGEST_LIFETIME:g} s (one year); "
            f"the default is {DEFAULT_LIFETIME:g} s"
        )
    return seconds


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """The answer. `chain_pem` leaf first, without the root; `bundle_pem` the roots to trust; times in seconds since the
    epoch; `serial` lower-case hex. Nothing in it is secret."""

    chain_pem: str
    bundle_pem: str
    not_before: float
    not_after: float
    serial: str


class Signer(Protocol):
    """What signs: an `identity.authority.Authority`, or the one of several that does so now (`identity.trust`)."""

    @property
    def bundle_pem(self) -> str: ...

    def sign(self, public_key: ec.EllipticCurvePublicKey, identity: Identity, lifetime: float) -> Leaf: ...


class Recorder(Protocol):
    """Where issued certificates are recorded, and what was revoked (`identity.ledger.Ledger`)."""

    def block_of(self, identity: str) -> Block | None:
        """Why an identity gets no certificates; None where it may have them."""
        ...

    def key_revoked(self, spki_sha256: str) -> bool:
        """Whether a certificate of this public key was revoked."""
        ...

    def record(self, entry: Entry) -> None:
        """Write the entry durably or raise LedgerError."""
        ...


class Issuer:
    """The stages, wired. Safe to call from several threads; one call takes under a millisecond."""

    def __init__(
        self,
        assignments: Assignments,
        authority: Signer,
        ledger: Recorder,
        clock: Clock,
        lifetime: float = DEFAULT_LIFETIME,
    ) -> None:
        self._assignments = assignments
        self._authority = authority
        self._ledger = ledger
        self._clock = clock
        self._lifetime = lifetime

    def issue(self, host: str, replica_id: str, csr_der: bytes) -> IssuedCertificate:
        """A certificate for the replica's attested identity and the CSR's key, or IssueRefused with the stage.

        `host` must be the authenticated name of the asking agent. What cannot be recorded is not handed out.
        """
        attested = attest(host, replica_id, self._assignments)
        self._check_not_blocked(attested.identity.uri)
        key = check_request(csr_der, attested.identity)
        spki = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
        if self._ledger.key_revoked(spki):
            raise IssueRefused(Stage.REQUEST, "the CSR's key is that of a revoked certificate: make a new one")
        bound = attested.max_lifetime
        lifetime = self._lifetime if bound is None else min(self._lifetime, bound)
        leaf = self._authority.sign(key, attested.identity, lifetime)
        entry = Entry(
            serial=leaf.serial,
            identity=attested.identity.uri,
            replica=attested.replica_id,
            host=attested.host,
            not_before=leaf.not_before,
            not_after=leaf.not_after,
            issued_at=self._clock.now(),
            spki_sha256=spki,
            issuer=leaf.issuer,
            fingerprint=leaf.fingerprint,
        )
        try:
            self._ledger.record(entry)
        except LedgerError as error:
            raise IssueRefused(Stage.RECORD, str(error)) from error
        return IssuedCertificate(
            leaf.chain_pem, self._authority.bundle_pem, leaf.not_before, leaf.not_after, leaf.serial
        )

    def _check_not_blocked(self, identity: str) -> None:
        block = self._ledger.block_of(identity)
        if block is not None:
            raise IssueRefused(
                Stage.ATTEST,
                f"{identity} is revoked ({block.reason}); to allow it again run "
                f"`headrace ca revoke --lift --identity {identity}`",
            )
