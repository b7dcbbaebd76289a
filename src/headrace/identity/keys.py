"""Private keys of workloads and the certificate requests made with them. Runs on the node, inside the agent.

Called by `identity.rotation` for every replica and every renewal: a key lives as long as its certificate and exists in
the agent's memory and its Envoy's only.
"""

from __future__ import annotations

from typing import NoReturn

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from headrace.model.identity import Identity


class PrivateKey:
    """An ECDSA P-256 key whose text forms (repr, str, format) hide it and which cannot be pickled or copied."""

    __slots__ = ("_key",)

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> PrivateKey:
        """A new key from the operating system's random source (which no test replaces)."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    def csr(self, identity: Identity) -> bytes:
        """A DER certificate request that proves possession of the key and names `identity` as its one URI SAN.

        The subject is empty, so the SAN is critical (RFC 5280 section 4.2.1.6, SPIFFE X.509-SVID section 2).
        """
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity.uri)])
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        request = builder.add_extension(names, critical=True).sign(self._key, hashes.SHA256())
        return request.public_bytes(Encoding.DER)

    def bare_csr(self) -> bytes:
        """A DER certificate request that proves possession of the key and names nobody: who asks is known otherwise."""
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(self._key, hashes.SHA256())
        return request.public_bytes(Encoding.DER)

    def public_der(self) -> bytes:
        """The public half: DER SubjectPublicKeyInfo."""
        return self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def reveal_pem(self) -> bytes:
        """The key itself, unencrypted PKCS #8 PEM: for the SDS secret of the replica's own Envoy and nothing else."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def __repr__(self) -> str:
        return "PrivateKey(P-256, hidden)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key is not pickled or copied")
