"""Certificate revocation lists (RFC 5280 section 5): what stands in them and how they are read again.

Called by `identity.authority`, which signs them, and `identity.trust`, which decides when a new one is due.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from cryptography import x509


class Reason(StrEnum):
    """Why a certificate is revoked: those reasons of RFC 5280 section 5.3.1 that fit a workload's."""

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "key-compromise"
    AFFILIATION_CHANGED = "affiliation-changed"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessation-of-operation"
    PRIVILEGE_WITHDRAWN = "privilege-withdrawn"


_FLAGS = {
    Reason.KEY_COMPROMISE: x509.ReasonFlags.key_compromise,
    Reason.AFFILIATION_CHANGED: x509.ReasonFlags.affiliation_changed,
    Reason.SUPERSEDED: x509.ReasonFlags.superseded,
    Reason.CESSATION_OF_OPERATION: x509.ReasonFlags.cessation_of_operation,
    Reason.PRIVILEGE_WITHDRAWN: x509.ReasonFlags.privilege_withdrawn,
}
"""`unspecified` is written by leaving the reason out (RFC 5280 section 5.3.1)."""


@dataclass(frozen=True, slots=True)
class RevokedSerial:
    """One line of a list: the serial, when it was revoked (seconds since the epoch), and why."""

    serial: int
    revoked_at: float
    reason: Reason


def revocation_list(
    issuer: x509.Name,
    issuer_key: x509.AuthorityKeyIdentifier,
    revoked: Iterable[RevokedSerial],
    number: int,
    times: tuple[datetime.datetime, datetime.datetime],
) -> x509.CertificateRevocationListBuilder:
    """A list ready to be signed; `times` are this and the next update. Sorted by serial."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer)
        .last_update(times[0])
        .next_update(times[1])
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(issuer_key, critical=False)
    )
    for item in sorted(revoked, key=lambda line: line.serial):
        date = datetime.datetime.fromtimestamp(int(item.revoked_at), datetime.UTC)
        line = x509.RevokedCertificateBuilder().serial_number(item.serial).revocation_date(date)
        flag = _FLAGS.get(item.reason)
        if flag is not None:
            line = line.add_extension(x509.CRLReason(flag), critical=False)
        builder = builder.add_revoked_certificate(line.build())
    return builder


def listed(pem: str) -> frozenset[int]:
    """The serials of a list of ours."""
    return frozenset(item.serial_number for item in x509.load_pem_x509_crl(pem.encode()))
