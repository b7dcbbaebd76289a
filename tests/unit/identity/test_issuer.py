"""The stages of issuing, in order: what each refuses stops the rest, and nothing unrecorded is handed out."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from headrace.identity.attest import Assigned, IssueRefused, Stage
from headrace.identity.authority import Authority
from headrace.identity.issuer import Issuer, check_lifetime
from headrace.identity.keys import PrivateKey
from headrace.identity.ledger import Entry, Ledger, LedgerError
from headrace.model.identity import Identity


class Table:
    def __init__(self, identity: Identity, max_lifetime: float | None = None) -> None:
        self._assigned = Assigned("here", identity, max_lifetime)

    def assigned(self, replica_id: str) -> Assigned | None:
        return self._assigned if replica_id == "default/chat-0" else None


class FullDisk:
    def block_of(self, identity: str) -> None:
        return None

    def key_revoked(self, spki_sha256: str) -> bool:
        return False

    def record(self, entry: Entry) -> None:
        raise LedgerError("ledger.sqlite: database or disk is full")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.open(tmp_path / "ledger.sqlite")


def test_issue_signs_and_records(authority: Authority, ledger: Ledger, clock, chat: Identity) -> None:
    issuer = Issuer(Table(chat), authority, ledger, clock)
    key = PrivateKey.generate()
    issued = issuer.issue("here", "default/chat-0", key.csr(chat))
    leaf = x509.load_pem_x509_certificate(issued.chain_pem.encode())
    assert leaf.public_key() == x509.load_der_x509_csr(key.csr(chat)).public_key()
    assert issued.bundle_pem == authority.bundle_pem
    assert issued.not_after == clock.now() + 86400
    assert ledger.entries() == [
        Entry(
            serial=issued.serial,
            identity=chat.uri,
            replica="default/chat-0",
            host="here",
            not_before=issued.not_before,
            not_after=issued.not_after,
            issued_at=clock.now(),
            spki_sha256=hashlib.sha256(key.public_der()).hexdigest(),
            issuer=authority.issuer_id,
            fingerprint=leaf.fingerprint(hashes.SHA256()).hex(),
        )
    ]


def test_an_assignment_may_shorten_the_life(authority: Authority, ledger: Ledger, clock, chat: Identity) -> None:
    for bound, life in ((30.0, 30.0), (7200.0, 3600.0), (None, 3600.0)):
        issuer = Issuer(Table(chat, bound), authority, ledger, clock, lifetime=3600.0)
        assert issuer.issue("here", "default/chat-0", PrivateKey.generate().csr(chat)).not_after == clock.now() + life


def test_each_stage_refuses_and_nothing_is_recorded(
    authority: Authority, ledger: Ledger, clock, chat: Identity
) -> None:
    good = PrivateKey.generate().csr(chat)
    issuer = Issuer(Table(chat), authority, ledger, clock)
    foreign = Issuer(Table(Identity("other.example", "default", "chat")), authority, ledger, clock)
    full = Issuer(Table(chat), authority, FullDisk(), clock)
    other = PrivateKey.generate().csr(Identity("cluster.local", "default", "bank"))
    unnamed = PrivateKey.generate().csr(Identity("other.example", "default", "chat"))
    for asked, host, csr, stage in (
        (issuer, "there", good, Stage.ATTEST),
        (issuer, "here", other, Stage.REQUEST),
        (issuer, "here", b"junk", Stage.REQUEST),
        (foreign, "here", unnamed, Stage.SIGN),
        (full, "here", good, Stage.RECORD),
    ):
        with pytest.raises(IssueRefused) as refusal:
            asked.issue(host, "default/chat-0", csr)
        assert refusal.value.stage is stage
    assert ledger.entries() == []


def test_lifetimes_are_bounded() -> None:
    assert check_lifetime(600.0) == 600.0
    assert check_lifetime(2.0, shortest=1.0) == 2.0
    for wrong in (599.0, 367 * 86400.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="use 600 s to"):
            check_lifetime(wrong)
