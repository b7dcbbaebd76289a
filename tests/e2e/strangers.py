"""Clients that have no business in the mesh: TLS with certificates of any root, and what became of their requests."""

from __future__ import annotations

import datetime
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_SECONDS = 5.0
_REQUEST = b"GET /health HTTP/1.1\r\nHost: chat\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Signer:
    """A root that signs: its certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def load(cls, directory: Path) -> Signer:
        """The signing certificate of a mesh."""
        key = serialization.load_pem_private_key((directory / "ca-key.pem").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return cls(x509.load_pem_x509_certificate((directory / "ca-cert.pem").read_bytes()), key)

    @classmethod
    def stranger(cls, like: Signer) -> Signer:
        """Another root with the very same name."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = like.certificate.subject
        builder = _builder(subject, subject, key).add_extension(x509.BasicConstraints(True, None), True)
        return cls(builder.sign(key, hashes.SHA256()), key)

    def client(
        self,
        identity: str,
        directory: Path,
        *,
        shift: datetime.timedelta = datetime.timedelta(),
        common_name: str = "test",
    ) -> Path:
        """A PEM file with a key and a certificate of this identity, signed by this root, valid for an hour
        from now, shifted."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])
        builder = _builder(name, self.certificate.subject, key, shift)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)]), True)
        usage = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usage), False)
        certificate = builder.sign(self.key, hashes.SHA256())
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path = directory / f"client-{certificate.serial_number:x}.pem"
        path.touch(0o600)
        chain = certificate.public_bytes(serialization.Encoding.PEM)
        path.write_bytes(secret + chain + self.certificate.public_bytes(serialization.Encoding.PEM))
        return path


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    shift: datetime.timedelta = datetime.timedelta(),
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC) + shift
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
    )


def tls(certificate: Path | None, *, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """A client that believes every server and shows this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = newest
    if certificate is not None:
        context.load_cert_chain(certificate)
    return context


def answer_of(address: tuple[str, int], context: ssl.SSLContext | None, request: bytes = _REQUEST) -> bytes | str:
    """What a server sends back, or (text) how it refused: the name of the error, or `closed` where it just hung up."""
    try:
        with socket.create_connection(address, timeout=_SECONDS) as plain:
            stream = context.wrap_socket(plain) if context else plain
            with stream:
                stream.sendall(request)
                found = b""
                while part := stream.recv(65536):
                    found += part
                return found or "closed"
    except ssl.SSLError as error:
        return f"TLS: {error.reason}"
    except (ConnectionError, TimeoutError) as error:
        return type(error).__name__
