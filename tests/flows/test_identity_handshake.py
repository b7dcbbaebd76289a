"""Handshakes of Python's TLS with certificates of ours: own and plugged-in roots, expiry, foreign roots."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from headrace.floor.clock import SystemClock
from headrace.identity.attest import check_request
from headrace.identity.authority import Authority
from headrace.identity.keys import PrivateKey
from headrace.model.identity import Identity

CHAT = Identity("cluster.local", "default", "chat")


class LateClock(SystemClock):
    """The machine's clock, `late` seconds behind."""

    def __init__(self, late: float) -> None:
        self._late = late

    def now(self) -> float:
        return super().now() - self._late


def context(side: int, authority: Authority, trusted: str, directory: Path, life: float = 600.0) -> ssl.SSLContext:
    """A TLS context with a fresh certificate of the authority that demands a peer descending from `trusted`."""
    key = PrivateKey.generate()
    leaf = authority.sign(check_request(key.csr(CHAT), CHAT), CHAT, life)
    pair = directory / f"{leaf.serial}.pem"
    pair.write_bytes(key.reveal_pem() + leaf.chain_pem.encode())
    made = ssl.SSLContext(side)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_cert_chain(pair)
    made.load_verify_locations(cadata=trusted)
    return made


def handshake(client: ssl.SSLContext, server: ssl.SSLContext) -> tuple[bytes, bytes]:
    """Both sides through memory: the certificates that client and server saw of each other (DER)."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(10):
        waiting = []
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                waiting.append(side)
        if not waiting:
            shown = tuple(side.getpeercert(True) for side in sides)
            assert shown[0] is not None
            assert shown[1] is not None
            return shown[0], shown[1]
    raise AssertionError("the handshake does not end")


def uris(certificate: bytes) -> list[str]:
    found = x509.load_der_x509_certificate(certificate).extensions
    return found.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
        x509.UniformResourceIdentifier
    )


def plug_in_intermediate(directory: Path) -> None:
    """An organisation's root and an intermediate for the mesh, in the files of Istio's names."""
    now = datetime.datetime.now(datetime.UTC)
    keys = [ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP256R1())]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("Example Root", "Example Mesh")]
    root, signing = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(names[0])
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(keys[0], hashes.SHA256())
        for name, key in zip(names, keys, strict=True)
    )
    directory.mkdir()
    files = {
        "ca-cert.pem": signing.public_bytes(Encoding.PEM),
        "ca-key.pem": keys[1].private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
        "cert-chain.pem": signing.public_bytes(Encoding.PEM) + root.public_bytes(Encoding.PEM),
        "root-cert.pem": root.public_bytes(Encoding.PEM),
    }
    for name, data in files.items():
        (directory / name).write_bytes(data)
        (directory / name).chmod(0o600)


@pytest.mark.parametrize("plugged", [False, True], ids=["self-signed", "plugged-in"])
def test_both_sides_accept_each_other(tmp_path: Path, plugged: bool) -> None:
    if plugged:
        plug_in_intermediate(tmp_path / "ca")
    authority = Authority.open(tmp_path / "ca", "cluster.local", SystemClock())
    client = context(ssl.PROTOCOL_TLS_CLIENT, authority, authority.bundle_pem, tmp_path)
    server = context(ssl.PROTOCOL_TLS_SERVER, authority, authority.bundle_pem, tmp_path)
    seen = handshake(client, server)
    assert [uris(certificate) for certificate in seen] == [[CHAT.uri], [CHAT.uri]]


@pytest.mark.parametrize("wrong", ["client", "server"])
def test_a_peer_of_another_root_is_refused(tmp_path: Path, wrong: str) -> None:
    ours = Authority.open(tmp_path / "ca", "cluster.local", SystemClock())
    theirs = Authority.open(tmp_path / "theirs", "cluster.local", SystemClock())
    client = context(ssl.PROTOCOL_TLS_CLIENT, theirs if wrong == "client" else ours, ours.bundle_pem, tmp_path)
    server = context(ssl.PROTOCOL_TLS_SERVER, theirs if wrong == "server" else ours, ours.bundle_pem, tmp_path)
    # Both roots have the same subject, so what is refused is the signature and not merely the name.
    with pytest.raises(ssl.SSLCertVerificationError, match=r"signature failure|unable to get local issuer|self.signed"):
        handshake(client, server)


def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path / "ca", "cluster.local", SystemClock())
    earlier = Authority.open(tmp_path / "ca", "cluster.local", LateClock(30.0))
    client = context(ssl.PROTOCOL_TLS_CLIENT, earlier, authority.bundle_pem, tmp_path, life=10.0)
    server = context(ssl.PROTOCOL_TLS_SERVER, authority, authority.bundle_pem, tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError, match="has expired"):
        handshake(client, server)
