"""The files of a certificate authority: read with every fault named, or written for a new self-signed root.

Called by `identity.authority`. Names and meaning of the files are those of Istio's plugged-in CA certificates, so
that an organisation's files work unchanged: `ca-cert.pem` (the signing certificate), `ca-key.pem` (its key),
`cert-chain.pem` (the way from the signing certificate towards the root; may be missing where the root signs itself)
and `root-cert.pem` (what the mesh trusts; may hold several roots).
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from headrace.floor.files import make_private_directory, write_private
from headrace.identity.attest import quoted

SIGNING_CERTIFICATE = "ca-cert.pem"
SIGNING_KEY = "ca-key.pem"
CHAIN = "cert-chain.pem"
ROOTS = "root-cert.pem"
ROOT_LIFETIME = datetime.timedelta(days=3650)
"""Life of a self-signed root: ten years, as Istio's own."""
_FILE_LIMIT = 1 << 20
_LONGEST_CHAIN = 8

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class AuthorityError(Exception):
    """The authority cannot work. The message names the file, what is wrong with it, and what to do."""

    def __init__(self, file: Path, wrong: str, remedy: str) -> None:
        super().__init__(f"{file}: {wrong}. {remedy}")
        self.file = file
        self.wrong = wrong
        self.remedy = remedy


@dataclass(frozen=True, slots=True, repr=False)
class Material:
    """What an authority signs with. `path` leads from the signing certificate to the last one below the root (empty
    where the root itself signs), `root` is the root it ends in, `roots` all that the mesh trusts."""

    signing: x509.Certificate
    key: SigningKey
    path: tuple[x509.Certificate, ...]
    root: x509.Certificate
    roots: tuple[x509.Certificate, ...]

    @property
    def not_before(self) -> datetime.datetime:
        """From when on the whole way to the root is valid."""
        return max(item.not_valid_before_utc for item in (self.signing, *self.path, self.root))

    @property
    def not_after(self) -> datetime.datetime:
        """Until when the whole way to the root is valid."""
        return min(item.not_valid_after_utc for item in (self.signing, *self.path, self.root))

    def __repr__(self) -> str:
        return f"Material({self.signing.subject.rfc4514_string()!r}, key hidden)"


def present(directory: Path) -> bool:
    """Whether the directory holds any file of an authority (then it is used or refused, never replaced)."""
    return any((directory / name).exists() for name in (SIGNING_CERTIFICATE, SIGNING_KEY, CHAIN, ROOTS))


def create_root(directory: Path, trust_domain: str, not_before: datetime.datetime, name: str = "") -> None:
    """Write a new self-signed root for `trust_domain` (P-256, ten years from `not_before`, files of mode 0600).

    Its extensions follow RFC 5280 for a CA and SPIFFE X.509-SVID section 2 for a signing certificate: CA:TRUE and
    keyCertSign critical, the trust domain as URI SAN. `name`, where given, tells it from the root before it. The key
    file is written last but one, the certificate last, so that a half-written authority is noticed and not used.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain[:64])]
    names += [x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else []
    subject = x509.Name(names)
    public = key.public_key()
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_before + ROOT_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]), critical=False
        )
    )
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        make_private_directory(directory)
        for name, data in ((ROOTS, certificate), (SIGNING_KEY, secret), (SIGNING_CERTIFICATE, certificate)):
            write_private(directory / name, data)
    except OSError as error:
        raise AuthorityError(
            directory, f"a new root cannot be written: {error.strerror}", "Give this user the right to write there."
        ) from None


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """KeyUsage of a CA (keyCertSign, cRLSign) or of a workload (digitalSignature, keyAgreement)."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def load(directory: Path, now: datetime.datetime) -> Material:
    """The authority's material from its files, every check done; AuthorityError for the first fault found."""
    signing_file, key_file, roots_file = directory / SIGNING_CERTIFICATE, directory / SIGNING_KEY, directory / ROOTS
    signing, *more = _certificates(signing_file)
    _check_ca(signing_file, signing, now)
    key = _key(key_file)
    if not _matches(key, signing):
        raise AuthorityError(
            key_file, f"this key is not the one of {SIGNING_CERTIFICATE}", "Put in the key that belongs to it."
        )
    # Of several roots that could end the way (a renewed root beside its predecessor) the one that lives longest counts.
    roots = tuple(sorted(_certificates(roots_file), key=lambda item: item.not_valid_after_utc, reverse=True))
    chain_file = directory / CHAIN
    chain = _certificates(chain_file) if chain_file.exists() else ()
    path, root = _path_to_root(chain_file, signing, (*more, *chain), roots)
    for certificate in path:
        _check_ca(chain_file, certificate, now)
    _check_ca(roots_file, root, now)
    _check_path_lengths(chain_file, (signing, *path) if root == signing else (signing, *path, root))
    return Material(signing, key, path, root, roots)


def _read(file: Path, *, secret: bool = False) -> bytes:
    try:
        with file.open("rb") as stream:
            data = stream.read(_FILE_LIMIT + 1)
        mode = file.stat().st_mode
    except FileNotFoundError:
        raise AuthorityError(
            file,
            "the file is missing",
            f"An authority needs {SIGNING_CERTIFICATE}, {SIGNING_KEY} and {ROOTS} in one directory. If this is the "
            "mesh's own root and it is lost, move the other files away too: then a new root is made.",
        ) from None
    except OSError as error:
        raise AuthorityError(
            file, f"cannot be read: {error.strerror}", "Give this user the right to read it."
        ) from None
    if len(data) > _FILE_LIMIT:
        raise AuthorityError(file, f"larger than {_FILE_LIMIT} bytes", "Put only the PEM of this file's name in.")
    if secret and mode & 0o027:
        raise AuthorityError(
            file, f"a private key that others may read or change (mode {mode & 0o777:o})", f"Run: chmod 600 {file}"
        )
    return data


def _certificates(file: Path) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(x509.load_pem_x509_certificates(_read(file)))
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise AuthorityError(
            file, "holds no readable PEM certificate", "Put one or more BEGIN CERTIFICATE blocks in."
        ) from None


def _key(file: Path) -> SigningKey:
    data = _read(file, secret=True)
    try:
        key = load_pem_private_key(data, password=None)
    except TypeError:
        raise AuthorityError(
            file, "the key is encrypted", f"Decrypt it: openssl pkey -in {file.name} -out {file.name}.plain"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise AuthorityError(file, "holds no readable PEM private key", "Put one PKCS #8 or EC key in.") from None
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in ("secp256r1", "secp384r1", "secp521r1"):
        return key
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048:
        return key
    raise AuthorityError(
        file,
        "this type or size of key is not supported",
        "Use ECDSA P-256, P-384 or P-521, or RSA of 2048 bits or more.",
    )


def _matches(key: SigningKey, certificate: x509.Certificate) -> bool:
    try:
        return key.public_key() == certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return False


def _check_ca(file: Path, certificate: x509.Certificate, now: datetime.datetime) -> None:
    """Refuse a certificate that is not a CA's or not valid now."""
    which = quoted(certificate.subject.rfc4514_string())
    try:
        extensions = certificate.extensions
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise AuthorityError(file, f"{which} has unreadable extensions", "Issue the certificate anew.") from None
    constraints = usage = None
    for extension in extensions:
        if isinstance(extension.value, x509.BasicConstraints):
            constraints = extension.value
        elif isinstance(extension.value, x509.KeyUsage):
            usage = extension.value
    if constraints is None or not constraints.ca:
        raise AuthorityError(
            file, f"{which} is not a CA (basicConstraints lacks CA:TRUE)", "Use a certificate issued for a CA."
        )
    if usage is not None and not usage.key_cert_sign:
        raise AuthorityError(
            file, f"{which} may not sign certificates (keyUsage lacks keyCertSign)", "Use a CA's certificate."
        )
    if certificate.not_valid_after_utc <= now:
        raise AuthorityError(
            file, f"{which} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC", "Put a renewed one in."
        )
    if certificate.not_valid_before_utc > now:
        raise AuthorityError(
            file,
            f"{which} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC",
            "Check this machine's clock, or wait.",
        )


def _issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _path_to_root(
    file: Path, signing: x509.Certificate, pool: tuple[x509.Certificate, ...], roots: tuple[x509.Certificate, ...]
) -> tuple[tuple[x509.Certificate, ...], x509.Certificate]:
    """The certificates from the signing one (exclusive) to a root (exclusive), and that root.

    The pool may repeat the signing certificate and the root, as the chain files of Istio's tools do.
    """
    path: list[x509.Certificate] = []
    current = signing
    while len(path) < _LONGEST_CHAIN:
        if current in roots:
            # A trusted certificate is the end of the way, even one that somebody else signed.
            return tuple(path[:-1]), current
        root = next((item for item in roots if _issued_by(current, item)), None)
        if root is not None:
            return tuple(path), root
        issuer = next(
            (item for item in pool if item != current and item not in path and _issued_by(current, item)), None
        )
        if issuer is None:
            break
        path.append(issuer)
        current = issuer
    raise AuthorityError(
        file,
        f"no way from {SIGNING_CERTIFICATE} to a certificate of {ROOTS}: nothing here or there has issued "
        f"{quoted(current.subject.rfc4514_string())}",
        f"Put every intermediate certificate into {CHAIN} and the root into {ROOTS}.",
    )


def _check_path_lengths(file: Path, line: tuple[x509.Certificate, ...]) -> None:
    """Refuse a pathLenConstraint that forbids the CAs below it (RFC 5280 section 4.2.1.9); `line` starts with the
    signing certificate, so a certificate's index is the number of CAs below it."""
    for below, certificate in enumerate(line):
        allowed = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
        if allowed is not None and below > allowed:
            raise AuthorityError(
                file,
                f"{quoted(certificate.subject.rfc4514_string())} allows {allowed} CAs below it, there are {below}",
                "Issue that certificate with a larger pathlen, or sign with one nearer to it.",
            )
