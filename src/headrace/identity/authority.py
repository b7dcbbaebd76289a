"""Signs workload certificates. Knows nothing of who may ask (`identity.attest` does).

Opened by the control plane at its start; called by `identity.issuer` for each request.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from headrace.floor.clock import Clock
from headrace.identity.attest import IssueRefused, Stage
from headrace.identity.crl import RevokedSerial, revocation_list
from headrace.identity.material import (
    SIGNING_CERTIFICATE,
    AuthorityError,
    Material,
    create_root,
    key_usage,
    load,
    present,
)
from headrace.model.identity import Identity

__all__ = ["Authority", "AuthorityError", "Leaf", "SigningRules"]

_SPIFFE = "spiffe://"


@dataclass(frozen=True, slots=True)
class SigningRules:
    """How leaves are made. `skew`: seconds by which not_before lies back, for hosts whose clocks differ. `serials`
    makes serial numbers: positive, at least 128 random bits, below 2**159 (RFC 5280 section 4.1.2.2)."""

    skew: float = 60.0
    serials: Callable[[], int] = x509.random_serial_number


@dataclass(frozen=True, slots=True)
class Leaf:
    """A signed certificate. `chain_pem`: the leaf, then the CAs below the root. Times in seconds since the epoch;
    `serial` in lower-case hex, as `openssl x509 -serial` has it (but for the case); `issuer` the key identifier of the
    CA, `fingerprint` the SHA-256 of the leaf's DER, both in hex."""

    chain_pem: str
    serial: str
    not_before: float
    not_after: float
    issuer: str = ""
    fingerprint: str = ""


class Authority:
    """A signing certificate, its key, and the roots that the mesh trusts."""

    def __init__(self, material: Material, trust_domain: str, clock: Clock, rules: SigningRules) -> None:
        self._material = material
        self._trust_domain = trust_domain
        self._clock = clock
        self._rules = rules
        self._upper = "".join(pem(item) for item in _presented(material))
        self._bundle = "".join(pem(item) for item in material.roots)
        self._issuer_id = _authority_key_identifier(material.signing)

    @classmethod
    def open(
        cls, directory: Path, trust_domain: str, clock: Clock, rules: SigningRules | None = None, *, create: bool = True
    ) -> Authority:
        """The authority of `directory`: of the files there (Istio's names), or of a new self-signed root if none is.

        With `create` false (a directory that a user plugged in) no root is made. Raises AuthorityError where a file is
        missing, unreadable, expired, not a CA's, of another key or trust domain, or where no way leads to a root.
        Existing files are never changed.
        """
        rules = rules or SigningRules()
        if create and not present(directory):
            create_root(directory, trust_domain, _date(clock.now() - rules.skew))
        material = load(directory, _date(clock.now()))
        for domain in _trust_domains(material.signing):
            if domain != trust_domain:
                raise AuthorityError(
                    directory / SIGNING_CERTIFICATE,
                    f"signs for trust domain {domain!r}, this mesh has {trust_domain!r}",
                    "Set meshConfig.trustDomain back, or move the files of this directory away for a new root.",
                )
        return cls(material, trust_domain, clock, rules)

    @property
    def bundle_pem(self) -> str:
        """The roots that proxies trust, PEM, the longest-lived first."""
        return self._bundle

    @property
    def issuer_id(self) -> str:
        """The key identifier of the signing certificate, in hex: what leaves and revocation lists name as issuer."""
        return (self._issuer_id.key_identifier or b"").hex()

    @property
    def signs_lists(self) -> bool:
        """Whether Envoy would take a revocation list of this CA: its keyUsage, where it has one, allows cRLSign."""
        try:
            return self._material.signing.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
        except x509.ExtensionNotFound:
            return True

    @property
    def roots(self) -> tuple[x509.Certificate, ...]:
        """The certificates of the bundle."""
        return self._material.roots

    @property
    def root(self) -> x509.Certificate:
        """The root in which the way from the signing certificate ends."""
        return self._material.root

    @property
    def signing(self) -> x509.Certificate:
        """The signing certificate."""
        return self._material.signing

    @property
    def not_after(self) -> float:
        """When the first certificate of the way to the root expires: no leaf outlives it."""
        return self._material.not_after.timestamp()

    @property
    def life(self) -> float:
        """For how long the whole way to the root is valid, in seconds."""
        return (self._material.not_after - self._material.not_before).total_seconds()

    def sign(self, public_key: ec.EllipticCurvePublicKey, identity: Identity, lifetime: float, dns: str = "") -> Leaf:
        """A leaf for `identity`, valid for `lifetime` seconds from now (and `skew` before), cut to the issuer's end.

        Empty subject and one critical URI SAN (SPIFFE X.509-SVID section 2), digitalSignature and keyAgreement,
        server and client authentication. `dns`: a DNS name beside it, for the control plane only. Raises
        IssueRefused for an identity of another trust domain and where the authority itself has expired.
        """
        if identity.trust_domain != self._trust_domain:
            raise IssueRefused(
                Stage.SIGN, f"the authority signs for {self._trust_domain!r}, asked was {identity.uri!r}"
            )
        now = self._clock.now()
        if not lifetime > 0:
            raise ValueError(f"lifetime {lifetime}: not a positive number of seconds")
        not_before = max(math.floor(now - self._rules.skew), self._material.not_before.timestamp())
        not_after = min(math.ceil(now + lifetime), self.not_after)
        if not_after <= now:
            raise IssueRefused(Stage.SIGN, f"the authority's own certificates expired at {self._material.not_after}")
        serial = self._rules.serials()
        builder = _leaf(public_key, identity, dns).issuer_name(self._material.signing.subject).serial_number(serial)
        builder = builder.not_valid_before(_date(not_before)).not_valid_after(_date(not_after))
        builder = builder.add_extension(self._issuer_id, critical=False)
        leaf = builder.sign(self._material.key, _hash_for(self._material))
        fingerprint = leaf.fingerprint(hashes.SHA256()).hex()
        return Leaf(pem(leaf) + self._upper, f"{serial:x}", not_before, not_after, self.issuer_id, fingerprint)

    def revocation_list(self, revoked: Iterable[RevokedSerial], number: int, this_update: float, life: float) -> str:
        """A revocation list (PEM) of these certificates of this CA, valid for `life` seconds from `this_update`."""
        material = self._material
        times = (_date(this_update - self._rules.skew), _date(this_update + life))
        builder = revocation_list(material.signing.subject, self._issuer_id, revoked, number, times)
        signed = builder.sign(material.key, _hash_for(material))
        return signed.public_bytes(Encoding.PEM).decode("ascii")

    def __repr__(self) -> str:
        return f"Authority({self._trust_domain!r}, {self._material!r})"


def _leaf(public_key: ec.EllipticCurvePublicKey, identity: Identity, dns: str) -> x509.CertificateBuilder:
    """All of a leaf that does not depend on the issuer and the time."""
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.uri)]
    if dns:
        names.append(x509.DNSName(dns))
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .public_key(public_key)
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _presented(material: Material) -> tuple[x509.Certificate, ...]:
    """The CAs that a workload presents after its leaf: all between leaf and root."""
    return () if material.signing == material.root else (material.signing, *material.path)


def _authority_key_identifier(signing: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """The signing certificate's own key identifier, or the usual hash of its key where it has none."""
    try:
        known = signing.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        key = signing.public_key()
        # `load` has compared this key with a private key of one of the supported types.
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known.value)


def _trust_domains(signing: x509.Certificate) -> list[str]:
    """Trust domains in the signing certificate's SAN (SPIFFE); none where an organisation's CA has no such name."""
    try:
        names = signing.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return [uri[len(_SPIFFE) :].split("/")[0] for uri in uris if uri.startswith(_SPIFFE)]


def _hash_for(material: Material) -> hashes.SHA256 | hashes.SHA384 | hashes.SHA512:
    """The hash as strong as the signing key's curve; SHA-256 for RSA."""
    if isinstance(material.key, ec.EllipticCurvePrivateKey):
        if material.key.curve.key_size > 384:
            return hashes.SHA512()
        if material.key.curve.key_size > 256:
            return hashes.SHA384()
    return hashes.SHA256()


def pem(certificate: x509.Certificate) -> str:
    """The certificate as PEM."""
    return certificate.public_bytes(Encoding.PEM).decode("ascii")


def _date(seconds: float) -> datetime.datetime:
    """A point in time as certificates count it: whole seconds, UTC."""
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)
