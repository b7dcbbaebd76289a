"""Certificates, authorities and revocation lists as rows of plain data, for `headrace ca`.

Called by `control_plane.trust`. Pure; times become ISO 8601 in UTC.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection
from typing import Any

from headrace.identity.authority import Authority
from headrace.identity.ledger import Entry, Revoked, SignedList, Status


def date(seconds: float) -> str:
    """A point in time, seconds since the epoch, for people and scripts."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")


def certificate_row(entry: Entry, now: float, in_use: Collection[str]) -> dict[str, Any]:
    """One certificate. `state`: revoked, expired, in use (a replica reports it) or valid (replaced, or on its way)."""
    if entry.status is Status.REVOKED:
        state = "revoked"
    elif entry.not_after <= now:
        state = "expired"
    else:
        state = "in use" if entry.serial in in_use else "valid"
    return {
        "serial": entry.serial,
        "identity": entry.identity,
        "replica": entry.replica,
        "host": entry.host,
        "state": state,
        "issued": date(entry.issued_at),
        "until": date(entry.not_after),
        "issuer": entry.issuer,
        "fingerprint": entry.fingerprint,
        "key_sha256": entry.spki_sha256,
    }


def revoked_row(item: Revoked) -> dict[str, Any]:
    """One revoked certificate that has not expired."""
    return {
        "serial": item.entry.serial,
        "identity": item.entry.identity,
        "replica": item.entry.replica,
        "revoked": date(item.revoked_at),
        "reason": item.reason,
        "until": date(item.entry.not_after),
    }


def authority_row(authority: Authority, signs: bool) -> dict[str, Any]:
    """One authority whose key is here."""
    return {
        "issuer": authority.issuer_id,
        "subject": authority.signing.subject.rfc4514_string(),
        "root": authority.root.subject.rfc4514_string(),
        "until": date(authority.not_after),
        "signs": signs,
    }


def list_row(signed: SignedList) -> dict[str, Any]:
    """One revocation list."""
    return {
        "issuer": signed.issuer,
        "number": signed.number,
        "signed": date(signed.this_update),
        "until": date(signed.next_update),
    }
