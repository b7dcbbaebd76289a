"""What the authority signs, as OpenSSL and the parser see it, and which files it refuses to work with."""

from __future__ import annotations

import datetime
import os
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from headrace.floor.clock import SystemClock
from headrace.identity.attest import IssueRefused, Stage, check_request
from headrace.identity.authority import Authority, AuthorityError, SigningRules
from headrace.identity.keys import PrivateKey
from headrace.model.identity import Identity

DAY = datetime.timedelta(days=1)


def public(key: PrivateKey, identity: Identity) -> ec.EllipticCurvePublicKey:
    return check_request(key.csr(identity), identity)


def openssl(*arguments: str | Path, data: str = "") -> str:
    ran = subprocess.run(
        ["openssl", *map(str, arguments)], input=data, capture_output=True, text=True, timeout=20, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


class Tree:
    """Makes certificates of an organisation's own authority."""

    def __init__(self, now: datetime.datetime) -> None:
        self.now = now

    def make(self, name: str, issuer=None, *, key=None, ca=True, days=365, start=None, pathlen=None, usage=True):
        key = key or ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        upper_key, upper = issuer or (key, None)
        start = start or self.now - DAY
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(upper.subject if upper else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + days * DAY)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=pathlen if ca else None), critical=True)
            .add_extension(x509.KeyUsage(True, False, False, False, False, usage, usage, False, False), critical=True)
        )
        return key, builder.sign(upper_key, hashes.SHA256())


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(item.public_bytes(Encoding.PEM) for item in certificates)


def key_pem(key, encryption=None) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def put(directory: Path, **files: bytes) -> Path:
    directory.mkdir(mode=0o700, exist_ok=True)
    for name, data in files.items():
        path = directory / (name.replace("_", "-") + ".pem")
        path.write_bytes(data)
        path.chmod(0o600)
    return directory


@pytest.fixture
def tree(clock) -> Tree:
    return Tree(datetime.datetime.fromtimestamp(int(clock.now()), datetime.UTC))


@pytest.fixture
def plugged(tmp_path: Path, tree: Tree) -> Path:
    """root → middle → signing, as Istio's tools lay it out: the chain file repeats the signing certificate and root."""
    root = tree.make("root")
    middle = tree.make("middle", root)
    signing = tree.make("signing", middle, days=30)
    return put(
        tmp_path / "plugged",
        ca_cert=pem(signing[1]),
        ca_key=key_pem(signing[0]),
        cert_chain=pem(signing[1], middle[1], root[1]),
        root_cert=pem(root[1]),
    )


def test_a_leaf_is_what_spiffe_asks_for(authority: Authority, clock, chat: Identity) -> None:
    key = PrivateKey.generate()
    leaf = authority.sign(public(key, chat), chat, 3600.0)
    certificates = x509.load_pem_x509_certificates(leaf.chain_pem.encode())
    assert len(certificates) == 1, "a self-signed root is not presented"
    certificate = certificates[0]
    extensions = certificate.extensions
    san = extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert san.critical
    assert [name.value for name in san.value] == [chat.uri]
    assert list(certificate.subject) == []
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_cert_sign
    assert set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    (root,) = x509.load_pem_x509_certificates(authority.bundle_pem.encode())
    root_id = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == root_id
    certificate.verify_directly_issued_by(root)
    assert (leaf.not_before, leaf.not_after) == (clock.now() - 60, clock.now() + 3600)
    assert certificate.not_valid_before_utc.timestamp() == leaf.not_before
    assert certificate.not_valid_after_utc.timestamp() == leaf.not_after
    assert leaf.serial == f"{certificate.serial_number:x}"


def test_a_root_names_its_trust_domain_and_is_owner_only(authority: Authority, tmp_path: Path, clock) -> None:
    directory = tmp_path / "ca"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {
        "ca-cert.pem": 0o600,
        "ca-key.pem": 0o600,
        "root-cert.pem": 0o600,
    }
    (root,) = x509.load_pem_x509_certificates((directory / "root-cert.pem").read_bytes())
    san = root.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in san] == ["spiffe://cluster.local"]
    constraints = root.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value.ca
    usage = root.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign
    assert usage.crl_sign
    assert root.not_valid_after_utc - root.not_valid_before_utc == 3650 * DAY
    assert authority.not_after == root.not_valid_after_utc.timestamp()


def test_an_existing_root_is_used_again(authority: Authority, tmp_path: Path, clock) -> None:
    again = Authority.open(tmp_path / "ca", "cluster.local", clock)
    assert again.bundle_pem == authority.bundle_pem


def test_openssl_verifies_chain_and_purpose(tmp_path: Path, chat: Identity) -> None:
    authority = Authority.open(tmp_path / "ca", "cluster.local", SystemClock())
    leaf = authority.sign(public(PrivateKey.generate(), chat), chat, 600.0)
    (tmp_path / "leaf.pem").write_text(leaf.chain_pem)
    for purpose in ("sslserver", "sslclient"):
        openssl("verify", "-x509_strict", "-purpose", purpose, "-CAfile", tmp_path / "ca/root-cert.pem",
                tmp_path / "leaf.pem")  # fmt: skip
    text = openssl("x509", "-noout", "-text", data=leaf.chain_pem)
    assert f"Subject Alternative Name: critical\n                URI:{chat.uri}" in text
    assert "TLS Web Server Authentication, TLS Web Client Authentication" in text
    assert "Public-Key: (256 bit)" in text


def test_serials_are_long_and_differ(authority: Authority, chat: Identity) -> None:
    key = public(PrivateKey.generate(), chat)
    serials = [int(authority.sign(key, chat, 600.0).serial, 16) for _ in range(50)]
    assert len(set(serials)) == 50
    assert max(serial.bit_length() for serial in serials) >= 128
    assert max(serial.bit_length() for serial in serials) <= 159


def test_a_leaf_never_outlives_its_issuer(plugged: Path, clock, chat: Identity) -> None:
    authority = Authority.open(plugged, "cluster.local", clock)
    key = public(PrivateKey.generate(), chat)
    assert authority.sign(key, chat, 366 * 86400.0).not_after == authority.not_after == clock.now() + 29 * 86400
    clock.seconds = authority.not_after + 1
    with pytest.raises(IssueRefused, match="expired") as refusal:
        authority.sign(key, chat, 600.0)
    assert refusal.value.stage is Stage.SIGN


def test_another_trust_domain_is_refused(authority: Authority, tmp_path: Path, clock, chat: Identity) -> None:
    with pytest.raises(IssueRefused, match=r"signs for 'cluster\.local'"):
        authority.sign(public(PrivateKey.generate(), chat), Identity("evil.example", "default", "chat"), 600.0)
    with pytest.raises(AuthorityError, match=r"this mesh has 'other\.example'.*Set meshConfig"):
        Authority.open(tmp_path / "ca", "other.example", clock)


def test_plugged_in_files_are_used_and_presented(plugged: Path, tmp_path: Path, clock, chat: Identity) -> None:
    before = {path.name: path.read_bytes() for path in plugged.iterdir()}
    authority = Authority.open(plugged, "cluster.local", clock, SigningRules(skew=5.0))
    leaf = authority.sign(public(PrivateKey.generate(), chat), chat, 600.0)
    names = [item.subject.rfc4514_string() for item in x509.load_pem_x509_certificates(leaf.chain_pem.encode())]
    assert names == ["", "CN=signing", "CN=middle"]
    assert authority.bundle_pem.encode() == before["root-cert.pem"]
    assert {path.name: path.read_bytes() for path in plugged.iterdir()} == before
    (tmp_path / "chain.pem").write_text(leaf.chain_pem)
    openssl("verify", "-attime", int(clock.now()), "-CAfile", plugged / "root-cert.pem",
            "-untrusted", tmp_path / "chain.pem", tmp_path / "chain.pem")  # fmt: skip


def test_rsa_and_p384_authorities_work(tmp_path: Path, tree: Tree, clock, chat: Identity) -> None:
    for name, key in (
        ("rsa", rsa.generate_private_key(65537, 2048)),
        ("p384", ec.generate_private_key(ec.SECP384R1())),
    ):
        key, root = tree.make(name, key=key)
        directory = put(tmp_path / name, ca_cert=pem(root), ca_key=key_pem(key), root_cert=pem(root))
        leaf = Authority.open(directory, "cluster.local", clock).sign(public(PrivateKey.generate(), chat), chat, 600.0)
        x509.load_pem_x509_certificate(leaf.chain_pem.encode()).verify_directly_issued_by(root)


def test_a_renewed_root_stands_beside_the_old_one(tmp_path: Path, tree: Tree, clock) -> None:
    """During a change of roots the bundle holds both, and one that has expired does no harm."""
    key, root = tree.make("root")
    _, old = tree.make("old", days=10, start=tree.now - 20 * DAY)
    directory = put(tmp_path / "two", ca_cert=pem(root), ca_key=key_pem(key), root_cert=pem(old, root))
    assert Authority.open(directory, "cluster.local", clock).bundle_pem.encode() == pem(root, old)


def faults(tree: Tree) -> dict[str, tuple[dict[str, bytes], str, str]]:
    """Case → (files to change, the file to be blamed, what is to be said)."""
    root = tree.make("root")
    signing = tree.make("signing", root)
    strange = tree.make("strange")
    past, future = tree.now - 400 * DAY, tree.now + DAY
    short_root = tree.make("short root", pathlen=0)
    long_middle = tree.make("middle", short_root)
    long_signing = tree.make("signing", long_middle)

    def signed_by(issuer, **options) -> dict[str, bytes]:
        made = tree.make("signing", issuer, **options)
        return {"ca_cert": pem(made[1]), "ca_key": key_pem(made[0]), "root_cert": pem(issuer[1])}

    base = {"ca_cert": pem(signing[1]), "ca_key": key_pem(signing[0]), "root_cert": pem(root[1])}
    small = rsa.generate_private_key(65537, 1024)
    return {
        "good": (base, "", ""),
        "key of another": (base | {"ca_key": key_pem(strange[0])}, "ca-key.pem", "not the one of ca-cert.pem"),
        "key encrypted": (
            base | {"ca_key": key_pem(signing[0], BestAvailableEncryption(b"x"))}, "ca-key.pem", "openssl pkey"),
        "key garbage": (base | {"ca_key": b"\xff\x00garbage"}, "ca-key.pem", "no readable PEM private key"),
        "key too small": (signed_by(root, key=small), "ca-key.pem", "not supported"),
        "certificate garbage": (base | {"ca_cert": b"-----BEGIN CERTIFICATE-----\nAAAA"}, "ca-cert.pem", "no readable"),
        "root empty": (base | {"root_cert": b""}, "root-cert.pem", "no readable PEM certificate"),
        "root huge": (base | {"root_cert": b"x" * (2 << 20)}, "root-cert.pem", "larger than"),
        "not a CA": (signed_by(root, ca=False, usage=False), "ca-cert.pem", "not a CA"),
        "no keyCertSign": (signed_by(root, usage=False), "ca-cert.pem", "keyUsage lacks keyCertSign"),
        "expired": (signed_by(root, start=past, days=399), "ca-cert.pem", "expired on 20"),
        "not yet valid": (signed_by(root, start=future), "ca-cert.pem", "not valid before"),
        "root expired": (
            signed_by(tree.make("root", start=past, days=399)), "root-cert.pem", "expired on"),
        "root of another": (base | {"root_cert": pem(strange[1])}, "cert-chain.pem", "nothing here or there has"),
        "chain broken": (
            {"ca_cert": pem(long_signing[1]), "ca_key": key_pem(long_signing[0]), "root_cert": pem(short_root[1])},
            "cert-chain.pem", "every intermediate"),
        "pathlen": (
            {"ca_cert": pem(long_signing[1]), "ca_key": key_pem(long_signing[0]), "root_cert": pem(short_root[1]),
             "cert_chain": pem(long_middle[1])}, "cert-chain.pem", "allows 0 CAs below it, there are 2"),
    }  # fmt: skip


def test_each_fault_of_the_files_names_file_and_remedy(tmp_path: Path, tree: Tree, clock) -> None:
    for number, (case, (files, blamed, said)) in enumerate(faults(tree).items()):
        directory = put(tmp_path / str(number), **files)
        if not blamed:
            Authority.open(directory, "cluster.local", clock)
            continue
        with pytest.raises(AuthorityError) as error:
            Authority.open(directory, "cluster.local", clock)
        assert error.value.file == directory / blamed, (case, str(error.value))
        assert said in str(error.value), case
        assert error.value.remedy, case


@pytest.mark.parametrize("missing", ["ca-cert.pem", "ca-key.pem", "root-cert.pem"])
def test_an_incomplete_authority_is_refused_not_replaced(plugged: Path, clock, missing: str) -> None:
    (plugged / missing).unlink()
    with pytest.raises(AuthorityError, match="missing") as error:
        Authority.open(plugged, "cluster.local", clock)
    assert error.value.file.name == missing
    assert not (plugged / missing).exists()


def test_a_key_that_others_may_read_is_refused(plugged: Path, clock) -> None:
    (plugged / "ca-key.pem").chmod(0o644)
    with pytest.raises(AuthorityError, match="chmod 600"):
        Authority.open(plugged, "cluster.local", clock)


def test_a_directory_in_place_of_a_file_is_explained(plugged: Path, clock) -> None:
    os.unlink(plugged / "ca-cert.pem")
    (plugged / "ca-cert.pem").mkdir()
    with pytest.raises(AuthorityError, match="cannot be read: Is a directory"):
        Authority.open(plugged, "cluster.local", clock)


def test_nothing_shown_holds_the_key(authority: Authority, tmp_path: Path) -> None:
    key = (tmp_path / "ca/ca-key.pem").read_text().splitlines()[1]
    assert key not in repr(authority)
    assert "hidden" in repr(authority)


def test_no_root_is_made_in_a_plugged_in_directory(tmp_path: Path, clock) -> None:
    with pytest.raises(AuthorityError, match=r"ca-cert\.pem: the file is missing"):
        Authority.open(tmp_path, "cluster.local", clock, create=False)
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_cannot_be_written_is_explained(tmp_path: Path, clock) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AuthorityError, match=r"cannot be written: Not a directory"):
        Authority.open(tmp_path / "file" / "ca", "cluster.local", clock)
