"""Certificates of authorities that are not the mesh's: for servers, their clients, and Secrets of documents."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import textwrap
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Pair:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: Key

    @property
    def certificate_pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def key_pem(self) -> str:
        kind = serialization.PrivateFormat.PKCS8
        return self.key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption()).decode()

    def write(self, directory: Path) -> Path:
        """Both in one file."""
        path = directory / f"{self.certificate.serial_number}.pem"
        path.write_text(self.certificate_pem + self.key_pem)
        path.chmod(0o600)
        return path


def made(name: str, issuer: Pair | None = None, *, by_rsa: bool = False) -> Pair:
    """A certificate for the DNS name, signed by `issuer`; without one an authority of its own."""
    key: Key = rsa.generate_private_key(65537, 2048) if by_rsa else ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_name(name)]), critical=False)
    )
    return Pair(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def revoking(issuer: Pair, *revoked: Pair) -> str:
    """The issuer's revocation list, in PEM."""
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(now - datetime.timedelta(minutes=1))
        .next_update(now + datetime.timedelta(hours=1))
    )
    for pair in revoked:
        one = x509.RevokedCertificateBuilder().serial_number(pair.certificate.serial_number).revocation_date(now)
        builder = builder.add_revoked_certificate(one.build())
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def secret(name: str, namespace: str = "istio-system", **values: str) -> str:
    """A Secret document; `_` stands for the dot in its keys."""
    text = "".join(f"  {key.replace('_', '.')}: |\n{textwrap.indent(value, '    ')}" for key, value in values.items())
    return f"---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\nstringData:\n{text}"


def client_context(root: Pair, directory: Path, pair: Pair | None = None) -> ssl.SSLContext:
    """A client that trusts the root, and shows a certificate where it has one."""
    context = ssl.create_default_context(cadata=root.certificate_pem)
    if pair is not None:
        context.load_cert_chain(pair.write(directory))
    return context
