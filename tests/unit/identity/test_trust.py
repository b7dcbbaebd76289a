"""Revocation: what is blocked, what the lists hold, when they are renewed, and when none may be sent."""

from __future__ import annotations

import datetime
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from headrace.identity.attest import Assigned, IssueRefused, Stage
from headrace.identity.crl import Reason, listed
from headrace.identity.issuer import IssuedCertificate, Issuer
from headrace.identity.keys import PrivateKey
from headrace.identity.ledger import Ledger, Status
from headrace.identity.ledger_schema import SCHEMA
from headrace.identity.roots import Roots
from headrace.identity.trust import EXTRA_LISTS, ListRules, RevocationRefused, Trust
from headrace.model.identity import Identity

CHAT = Identity("cluster.local", "default", "chat")
BANK = Identity("cluster.local", "default", "bank")


class Everyone:
    def assigned(self, replica_id: str) -> Assigned | None:
        return Assigned("here", Identity("cluster.local", "default", replica_id))


class Rig:
    def __init__(self, directory: Path, clock: Any) -> None:
        self.directory, self.clock = directory, clock
        self.roots = Roots.open(directory, "cluster.local", clock)
        self.ledger = Ledger.open(directory / "ledger.sqlite")
        self.trust = self.again()
        self.issuer = Issuer(Everyone(), self.trust, self.ledger, clock, lifetime=3600.0)

    def again(self) -> Trust:
        return Trust(self.roots, self.ledger, self.clock, ListRules(life=1000.0), self.directory / EXTRA_LISTS)

    def issue(self, identity: Identity, key: PrivateKey | None = None) -> IssuedCertificate:
        request = (key or PrivateKey.generate()).csr(identity)
        return self.issuer.issue("here", identity.service_account, request)


@pytest.fixture
def rig(tmp_path: Path, clock: Any) -> Rig:
    return Rig(tmp_path / "ca", clock)


def crl(rig: Rig) -> x509.CertificateRevocationList:
    return x509.load_pem_x509_crl(rig.trust.state.crl_pem.encode())


def test_without_a_revocation_there_is_no_list(rig: Rig) -> None:
    rig.issue(CHAT)
    state = rig.trust.refresh()
    assert (state.crl_pem, state.identities, state.fingerprints) == ("", (), ())
    assert state.bundle_pem == rig.roots.bundle_pem
    assert rig.trust.problems() == []


def test_a_revoked_identity_gets_nothing_until_it_is_lifted(rig: Rig) -> None:
    first, other = rig.issue(CHAT), rig.issue(BANK)
    state = rig.trust.revoke_identity(CHAT.uri, Reason.KEY_COMPROMISE)
    assert state.identities == (CHAT.uri,)
    assert listed(state.crl_pem) == {int(first.serial, 16)}
    leaf = x509.load_pem_x509_certificate(first.chain_pem.encode())
    assert state.fingerprints == (leaf.fingerprint(hashes.SHA256()).hex(),)
    with pytest.raises(IssueRefused, match=r"is revoked \(key-compromise\).*--lift") as refusal:
        rig.issue(CHAT)
    assert refusal.value.stage is Stage.ATTEST
    rig.issue(BANK)
    recorded = rig.ledger.inspect(first.serial)
    assert recorded is not None
    assert recorded.status is Status.REVOKED
    after = rig.trust.lift(CHAT.uri)
    rig.issue(CHAT)
    assert after.identities == ()
    assert listed(after.crl_pem) == {int(first.serial, 16)}, "what was revoked stays so"
    assert other.serial not in after.crl_pem


def test_a_revoked_serial_takes_its_key_with_it(rig: Rig) -> None:
    key = PrivateKey.generate()
    stolen = rig.issue(CHAT, key)
    entry, state = rig.trust.revoke_serial(stolen.serial.upper(), Reason.SUPERSEDED)
    assert entry.identity == CHAT.uri
    assert state.identities == ()
    assert listed(state.crl_pem) == {int(stolen.serial, 16)}
    with pytest.raises(IssueRefused, match="key is that of a revoked certificate") as refusal:
        rig.issue(CHAT, key)
    assert refusal.value.stage is Stage.REQUEST
    assert rig.issue(CHAT).serial != stolen.serial


def test_what_cannot_be_revoked_is_named(rig: Rig) -> None:
    issued = rig.issue(CHAT)
    with pytest.raises(RevocationRefused, match="no certificate with serial 'feed'"):
        rig.trust.revoke_serial("feed", Reason.UNSPECIFIED)
    with pytest.raises(RevocationRefused, match="is not spiffe://"):
        rig.trust.revoke_identity("chat", Reason.UNSPECIFIED)
    with pytest.raises(RevocationRefused, match="is not revoked"):
        rig.trust.lift(CHAT.uri)
    rig.clock.seconds += 3601
    with pytest.raises(RevocationRefused, match="has expired"):
        rig.trust.revoke_serial(issued.serial, Reason.UNSPECIFIED)


def test_the_list_is_one_that_verifiers_accept(rig: Rig) -> None:
    plain, named = rig.issue(CHAT), rig.issue(BANK)
    rig.trust.revoke_serial(plain.serial, Reason.UNSPECIFIED)
    rig.trust.revoke_serial(named.serial, Reason.CESSATION_OF_OPERATION)
    found, root = crl(rig), rig.roots.signer.signing
    assert found.is_signature_valid(root.public_key())  # type: ignore[arg-type]
    assert found.issuer == root.subject
    assert found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 2
    key = found.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert key is not None
    assert key.hex() == rig.roots.signer.issuer_id
    now = datetime.datetime.fromtimestamp(rig.clock.now(), datetime.UTC)
    assert found.next_update_utc == now + datetime.timedelta(seconds=1000)
    assert found.last_update_utc < now
    reasons = {line.serial_number: len(line.extensions) for line in found}
    assert reasons == {int(plain.serial, 16): 0, int(named.serial, 16): 1}


def test_a_list_is_renewed_early_and_only_then(rig: Rig) -> None:
    rig.trust.revoke_serial(rig.issue(CHAT).serial, Reason.UNSPECIFIED)
    first = rig.trust.state
    rig.clock.seconds += 240
    assert rig.trust.refresh() == first
    rig.clock.seconds += 11
    assert rig.trust.refresh().crl_pem != first.crl_pem
    assert crl(rig).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 2
    rig.clock.seconds += 3600
    assert rig.trust.refresh().crl_pem == "", "nothing that is revoked is valid any more"


def test_a_list_that_is_not_renewed_is_an_alert(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.trust.revoke_serial(rig.issue(CHAT).serial, Reason.UNSPECIFIED)

    def full(*_: object) -> None:
        raise ValueError("the disk is full")

    monkeypatch.setattr(rig.ledger, "keep_list", full)
    rig.clock.seconds += 700
    rig.trust.refresh()
    assert rig.trust.signing_failures == 1
    said = "\n".join(rig.trust.problems())
    assert "not renewed: the disk is full" in said
    assert "ends in 300 s" in said
    monkeypatch.undo()
    rig.trust.refresh()
    assert rig.trust.problems() == []


def test_revocations_outlive_the_process(rig: Rig) -> None:
    rig.issue(CHAT)
    state = rig.trust.revoke_identity(CHAT.uri, Reason.KEY_COMPROMISE)
    rig.ledger.close()
    again = Rig(rig.directory, rig.clock)
    assert again.trust.state == state
    with pytest.raises(IssueRefused):
        again.issue(CHAT)


def test_no_list_is_sent_that_would_refuse_a_root_of_the_bundle(rig: Rig, tmp_path: Path) -> None:
    rig.trust.revoke_serial(rig.issue(CHAT).serial, Reason.UNSPECIFIED)
    foreign = Roots.open(tmp_path / "foreign", "elsewhere.example", rig.clock)
    bundle = rig.directory / "root-cert.pem"
    bundle.write_text(bundle.read_text() + foreign.bundle_pem)
    rig.roots = Roots.open(rig.directory, "cluster.local", rig.clock)
    rig.trust = rig.again()
    assert rig.trust.state.crl_pem == ""
    assert "elsewhere.example" in rig.trust.problems()[0]
    assert rig.trust.state.fingerprints, "the guard refuses all the same"
    theirs = foreign.signer.revocation_list([], 1, rig.clock.now(), 1000.0)
    (rig.directory / EXTRA_LISTS).write_text(theirs)
    state = rig.trust.refresh()
    assert state.crl_pem.count("BEGIN X509 CRL") == 2
    assert rig.trust.problems() == []
    (rig.directory / EXTRA_LISTS).write_text(theirs.replace("M", "!", 3))
    rig.trust.refresh()
    assert "no PEM revocation list" in "\n".join(rig.trust.problems())


def test_no_list_of_a_ca_that_may_not_sign_one(rig: Rig, tmp_path: Path) -> None:
    plugged = tmp_path / "plugged"
    plugged.mkdir(mode=0o700)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "no lists")])
    start = datetime.datetime.fromtimestamp(rig.clock.now() - 10, datetime.UTC)
    usage = x509.KeyUsage(False, False, False, False, False, True, False, False, False)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 7, start, start + datetime.timedelta(days=99))
        .add_extension(x509.BasicConstraints(True, None), True)
        .add_extension(usage, True)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
    secret = PrivateKey(key).reveal_pem()
    for file, data in (("ca-cert.pem", certificate), ("root-cert.pem", certificate), ("ca-key.pem", secret)):
        (plugged / file).write_bytes(data)
        (plugged / file).chmod(0o600)
    rig.roots = Roots.open(plugged, "cluster.local", rig.clock, create=False)
    rig.ledger = Ledger.open(tmp_path / "other.sqlite")
    rig.trust = rig.again()
    state = rig.trust.revoke_identity(CHAT.uri, Reason.UNSPECIFIED)
    assert (state.crl_pem, state.identities) == ("", (CHAT.uri,))
    assert "lacks cRLSign" in rig.trust.problems()[0]


def test_an_authority_that_ends_soon_is_an_alert(rig: Rig) -> None:
    rig.clock.seconds = rig.roots.signer.not_after - 29 * 86400.0
    assert rig.trust.problems() == [f"the authority {rig.roots.signer.issuer_id} expires in 29.0 days"]


def test_an_older_ledger_is_migrated(tmp_path: Path, clock: Any) -> None:
    path = tmp_path / "ledger.sqlite"
    database = sqlite3.connect(path)
    database.executescript(
        "CREATE TABLE issued (serial TEXT PRIMARY KEY, identity TEXT NOT NULL, replica TEXT NOT NULL,"
        "host TEXT NOT NULL,"
        "not_before REAL NOT NULL, not_after REAL NOT NULL, issued_at REAL NOT NULL, spki_sha256 TEXT NOT NULL,"
        "status TEXT NOT NULL) STRICT, WITHOUT ROWID; PRAGMA user_version=1;"
    )
    row = ("a1", CHAT.uri, "default/chat-0", "here", clock.now(), clock.now() + 600, clock.now(), "00", "issued")
    database.execute("INSERT INTO issued VALUES (?,?,?,?,?,?,?,?,?)", row)
    database.commit()
    database.close()
    ledger = Ledger.open(path)
    roots = Roots.open(tmp_path / "ca", "cluster.local", clock)
    trust = Trust(roots, ledger, clock, ListRules())
    found = ledger.inspect("a1")
    assert found is not None
    assert found.issuer == roots.signer.issuer_id
    _, state = trust.revoke_serial("a1", Reason.UNSPECIFIED)
    assert listed(state.crl_pem) == {0xA1}
    ledger.close()
    assert sqlite3.connect(path).execute("PRAGMA user_version").fetchone() == (SCHEMA,)
