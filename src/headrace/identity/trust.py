"""What every proxy must know to tell friend from stranger: the roots, the revocation lists, and who was revoked.

Made once by the control plane, which changes it (revocation, change of roots) and sends every new `TrustState` to the
agents. It is also the signer of `identity.issuer`: whichever authority signs now.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from headrace.floor.clock import Clock
from headrace.identity.attest import IssueRefused, quoted
from headrace.identity.authority import Authority, Leaf
from headrace.identity.crl import Reason, RevokedSerial, listed
from headrace.identity.ledger import Entry, Ledger, LedgerError, Revoked, SignedList
from headrace.identity.roots import Phase, Roots
from headrace.model.identity import Identity

EXTRA_LISTS = "ca-crl.pem"
"""Istio's name for the revocation lists of plugged-in CAs that we hold no key of."""
_SHORTEST_LIST_LIFE = 30 * 86400.0
_FILE_LIMIT = 4 << 20
_SOON = 30 * 86400.0
_SOON_PART = 0.2
"""An authority that has less left, in seconds, than the smaller of these (a part of its life) is an alert."""


class RevocationRefused(Exception):
    """Nothing was revoked or lifted; the message says why."""


@dataclass(frozen=True, slots=True)
class TrustState:
    """What agents hand to their proxies. `crl_pem` empty: no revocation list is in force. `identities` (SPIFFE URIs)
    and `fingerprints` (hex SHA-256 of certificates) are refused by the guard filter; `issuer` is the key identifier of
    the CA that signs now: certificates of another one are to be renewed."""

    bundle_pem: str
    crl_pem: str = ""
    identities: tuple[str, ...] = ()
    fingerprints: tuple[str, ...] = ()
    issuer: str = ""
    version: str = field(init=False, default="")

    def __post_init__(self) -> None:
        parts = (self.bundle_pem, self.crl_pem, *self.identities, *self.fingerprints, self.issuer)
        digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()
        object.__setattr__(self, "version", digest)


@dataclass(frozen=True, slots=True)
class ListRules:
    """Revocation lists. `life`: seconds that one is valid; a new one is made when `refresh` of it has passed. A list
    that expires refuses everybody, so the life is long: it must outlast any time without a control plane that
    certificates outlast."""

    life: float = _SHORTEST_LIST_LIFE
    refresh: float = 0.25

    @classmethod
    def for_certificates(cls, lifetime: float) -> ListRules:
        """Lists that outlast certificates of `lifetime` seconds twice."""
        return cls(max(_SHORTEST_LIST_LIFE, 2.0 * lifetime))


class Trust:
    """The trust of one mesh. `failures` are faults of now, for people; `refusals` counts signing failures."""

    def __init__(self, roots: Roots, ledger: Ledger, clock: Clock, rules: ListRules, extra: Path | None = None) -> None:
        self.roots = roots
        self.ledger = ledger
        self._clock = clock
        self._rules = rules
        self._extra = extra
        self.withheld = ""
        self.failures: dict[str, str] = {}
        self.signing_failures = 0
        ledger.adopt(roots.authorities[-1].issuer_id)
        self.state = self._compute()

    # Signer of the issuer

    @property
    def bundle_pem(self) -> str:
        """The roots that proxies trust, PEM."""
        return self.roots.bundle_pem

    def sign(self, public_key: ec.EllipticCurvePublicKey, identity: Identity, lifetime: float, dns: str = "") -> Leaf:
        """As `Authority.sign`, by the authority that signs now; failures are counted."""
        try:
            leaf = self.roots.signer.sign(public_key, identity, lifetime, dns)
        except IssueRefused as refusal:
            self.signing_failures += 1
            self.failures["signing"] = refusal.reason
            raise
        self.failures.pop("signing", None)
        return leaf

    # Revocation

    def revoke_identity(self, identity: str, reason: Reason) -> TrustState:
        """Revoke every certificate of an identity, and let it have no new ones until it is lifted."""
        try:
            known = Identity.parse(identity)
        except ValueError as error:
            raise RevocationRefused(str(error)) from None
        self.ledger.block(known.uri, self._clock.now(), reason.value)
        return self.refresh()

    def revoke_serial(self, serial: str, reason: Reason) -> tuple[Entry, TrustState]:
        """Revoke one certificate and its key; its replica may have another one with a new key."""
        entry = self.ledger.inspect(serial)
        if entry is None:
            raise RevocationRefused(
                f"no certificate with serial {quoted(serial)} was issued here: `headrace ca list` shows them"
            )
        if entry.not_after <= self._clock.now():
            raise RevocationRefused(f"the certificate with serial {entry.serial} has expired: nothing to revoke")
        self.ledger.revoke([entry.serial], self._clock.now(), reason.value)
        return entry, self.refresh()

    def lift(self, identity: str) -> TrustState:
        """Let a blocked identity have certificates again. Those that were revoked stay revoked."""
        if not self.ledger.lift(identity):
            raise RevocationRefused(f"{quoted(identity)} is not revoked: `headrace ca list` shows what is")
        return self.refresh()

    # What the agents are sent

    def refresh(self) -> TrustState:
        """The state of now: lists signed anew where what they say changed or they grow old."""
        self.state = self._compute()
        return self.state

    def problems(self) -> list[str]:
        """What is wrong with the authority or the lists, one line each."""
        found = [f"{what}: {why}" for what, why in sorted(self.failures.items())]
        if self.withheld:
            found.append(f"no revocation list is sent: {self.withheld}; only proxies with the native module refuse")
        now = self._clock.now()
        here = {authority.issuer_id for authority in self.roots.authorities}
        late = self._rules.life * (1 - self._rules.refresh) / 2
        found += [
            f"the revocation list of CA {signed.issuer} ends in {max(0.0, signed.next_update - now):.0f} s and was not "
            "renewed: after that it refuses everybody"
            for signed in self.ledger.lists().values()
            if self.state.crl_pem and signed.issuer in here and signed.next_update - now < late
        ]
        for authority in self.roots.authorities:
            if authority.not_after - now < min(_SOON, authority.life * _SOON_PART):
                days = max(0.0, authority.not_after - now) / 86400.0
                found.append(f"the authority {authority.issuer_id} expires in {days:.1f} days")
        return found

    def _compute(self) -> TrustState:
        now = self._clock.now()
        revoked = self.ledger.revoked(now)
        blocked = tuple(item.identity for item in self.ledger.blocked())
        crl_pem, self.withheld = "", self._uncovered(now)
        if revoked or blocked:
            crl_pem = self._lists(revoked, now)
        fingerprints = tuple(sorted(item.entry.fingerprint for item in revoked if item.entry.fingerprint))
        return TrustState(
            self.roots.bundle_pem,
            "" if self.withheld else crl_pem,
            blocked,
            fingerprints,
            self.roots.signer.issuer_id,
        )

    def _lists(self, revoked: list[Revoked], now: float) -> str:
        """The newest list of every CA that may have signed what is valid, in one PEM."""
        self.failures.pop("revocation list", None)
        for authority in self.roots.authorities:
            if authority.signs_lists:
                self._renew_list(authority, revoked, now)
        valid = [signed.pem for signed in self.ledger.lists().values() if signed.next_update > now]
        return "".join([*valid, *(item for item in self._extra_lists() if item not in valid)])

    def _renew_list(self, authority: Authority, revoked: list[Revoked], now: float) -> None:
        issuer = authority.issuer_id
        lines = [
            RevokedSerial(int(item.entry.serial, 16), item.revoked_at, _reason(item.reason))
            for item in revoked
            if item.entry.issuer == issuer
        ]
        before = self.ledger.lists().get(issuer)
        old = before is None or now >= before.this_update + self._rules.life * self._rules.refresh
        if before is not None and not old and listed(before.pem) == {line.serial for line in lines}:
            return
        number = before.number + 1 if before is not None else 1
        try:
            text = authority.revocation_list(lines, number, now, self._rules.life)
            self.ledger.keep_list(SignedList(issuer, number, text, now, now + self._rules.life))
        except (ValueError, LedgerError) as error:
            self.signing_failures += 1
            self.failures["revocation list"] = f"not renewed: {error}"

    def _uncovered(self, now: float) -> str:
        """A CA whose certificates a revocation list would refuse wholesale, because there is none of its own
        (BoringSSL refuses a certificate whose issuer has no list); empty where there is none."""
        here = {authority.issuer_id: authority for authority in self.roots.authorities}
        lists = {issuer for issuer, signed in self.ledger.lists().items() if signed.next_update > now}
        for issuer, authority in here.items():
            if not authority.signs_lists:
                return f"the keyUsage of CA {issuer} lacks cRLSign"
        for issuer in self.ledger.issuers(now):
            if issuer not in here and issuer not in lists:
                return f"CA {issuer} has signed certificates that are still valid, and its key is gone"
        own = {authority.root for authority in self.roots.authorities}
        names = {x509.load_pem_x509_crl(item.encode()).issuer for item in self._extra_lists()}
        for root in self.roots.trusted:
            if root not in own and _key_identifier(root) not in lists and root.subject not in names:
                which = quoted(root.subject.rfc4514_string())
                return f"the bundle's root {which} has no list: put it into {EXTRA_LISTS}"
        return ""

    def _extra_lists(self) -> list[str]:
        """The lists that the user put beside the authority, each as PEM; unreadable ones are a failure."""
        if self._extra is None:
            return []
        self.failures.pop(EXTRA_LISTS, None)
        try:
            text = self._extra.read_bytes()[:_FILE_LIMIT].decode("ascii")
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            self.failures[EXTRA_LISTS] = f"{self._extra}: cannot be read ({type(error).__name__})"
            return []
        end = "-----END X509 CRL-----"
        found = []
        for block in text.split(end)[:-1]:
            begin = block.find("-----BEGIN X509 CRL-----")
            item = f"{block[begin:] if begin >= 0 else block}{end}\n"
            try:
                x509.load_pem_x509_crl(item.encode())
            except ValueError:
                self.failures[EXTRA_LISTS] = f"{self._extra}: holds something that is no PEM revocation list"
                continue
            found.append(item)
        return found

    # Change of roots

    def begin_rotation(self, overlap: float) -> TrustState:
        """Begin a change of roots (`roots.Roots.begin`)."""
        self.roots.begin(overlap)
        return self.refresh()

    def advance(self) -> Phase:
        """The next phase of a change of roots; `state` is new after."""
        phase = self.roots.advance()
        self.refresh()
        return phase


def _reason(text: str) -> Reason:
    return Reason(text) if text in set(Reason) else Reason.UNSPECIFIED


def _key_identifier(certificate: x509.Certificate) -> str:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex()
    except x509.ExtensionNotFound:
        return ""
