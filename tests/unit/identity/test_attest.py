"""Who may ask, and what a request must be: the right ones pass, everything else is one kind of refusal."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.identity.attest import CSR_LIMIT, Assigned, IssueRefused, Stage, attest, check_request
from headrace.identity.keys import PrivateKey
from headrace.model.identity import Identity

CHAT = Identity("cluster.local", "default", "chat")
OTHER = Identity("cluster.local", "default", "other")
GOOD = PrivateKey.generate().csr(CHAT)


class Table:
    """Assignments from a dictionary."""

    def __init__(self, **replicas: Assigned) -> None:
        self._replicas = replicas

    def assigned(self, replica_id: str) -> Assigned | None:
        return self._replicas.get(replica_id)


TABLE = Table(chat=Assigned("here", CHAT, 60.0))


def request(key, names: list[x509.GeneralName] | None = None, digest=None) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    return builder.sign(key, digest).public_bytes(Encoding.DER)


def test_the_host_of_a_replica_gets_its_identity_and_bounds() -> None:
    answer = attest("here", "chat", TABLE)
    assert (answer.host, answer.replica_id, answer.identity, answer.max_lifetime) == ("here", "chat", CHAT, 60.0)


@pytest.mark.parametrize(
    ("host", "replica", "said"),
    [
        ("there", "chat", "assigned to host 'here', not to 'there'"),
        ("here", "gone", "not assigned"),
        ("", "chat", "host name"),
        ("here", "", "replica id"),
        ("here", "x" * 513, "longer than"),
        ("here\n2026-01-01 forged log line", "chat", "unprintable"),
    ],
)
def test_nobody_else_may_ask(host: str, replica: str, said: str) -> None:
    with pytest.raises(IssueRefused) as refusal:
        attest(host, replica, TABLE)
    assert refusal.value.stage is Stage.ATTEST
    assert said in refusal.value.reason
    assert "\n" not in str(refusal.value)


def test_the_public_key_of_a_good_request_is_taken() -> None:
    key = PrivateKey.generate()
    taken = check_request(key.csr(CHAT), CHAT)
    assert taken.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == key.public_der()


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_stronger_curves_and_requests_without_a_name_pass(curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    assert check_request(request(key, None, hashes.SHA256()), CHAT) == key.public_key()


@pytest.mark.parametrize(
    "names",
    [
        [x509.UniformResourceIdentifier(OTHER.uri)],
        [x509.UniformResourceIdentifier(CHAT.uri), x509.UniformResourceIdentifier(OTHER.uri)],
        [x509.UniformResourceIdentifier(CHAT.uri), x509.DNSName("chat.example")],
        [x509.DNSName(CHAT.uri)],
        [x509.RFC822Name("a@b.example")],
    ],
)
def test_a_request_for_another_name_is_refused(names: list[x509.GeneralName]) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(IssueRefused, match="asks for"):
        check_request(request(key, names, hashes.SHA256()), CHAT)


@pytest.mark.parametrize(
    "make",
    [
        lambda: request(rsa.generate_private_key(65537, 2048), None, hashes.SHA256()),
        lambda: request(ed25519.Ed25519PrivateKey.generate()),
        lambda: request(ec.generate_private_key(ec.SECP224R1()), None, hashes.SHA256()),
        lambda: request(ec.generate_private_key(ec.SECP256K1()), None, hashes.SHA256()),
    ],
    ids=["rsa", "ed25519", "p224", "secp256k1"],
)
def test_other_keys_are_refused(make) -> None:
    with pytest.raises(IssueRefused, match="key is not ECDSA") as refusal:
        check_request(make(), CHAT)
    assert refusal.value.stage is Stage.REQUEST


def test_a_request_signed_by_another_key_is_refused() -> None:
    """Possession is proved by the signature: a stranger's public key put into one's own request does not pass."""
    mine, theirs = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    raw = request(mine, None, hashes.SHA256())
    old, new = (key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint) for key in (mine, theirs))
    assert old in raw
    with pytest.raises(IssueRefused, match="proof of possession"):
        check_request(raw.replace(old, new), CHAT)


def test_size_is_bounded_before_anything_is_parsed() -> None:
    big = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "x" * 60) for _ in range(100)])
    )
    raw = big.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER)
    for data in (b"", raw, b"\x30" * (CSR_LIMIT + 1)):
        with pytest.raises(IssueRefused, match="bytes, 1 to 4096"):
            check_request(data, CHAT)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=CSR_LIMIT + 10))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(IssueRefused):
        check_request(data, CHAT)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255), st.binary(max_size=8))
def test_a_changed_request_is_refused(at: int, flip: int, tail: bytes) -> None:
    """One byte changed anywhere: nothing but a refusal comes out, and never another identity's key."""
    changed = GOOD[:at] + bytes([GOOD[at] ^ flip]) + GOOD[at + 1 :] + tail
    with pytest.raises(IssueRefused):
        check_request(changed, CHAT)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(GOOD) - 1))
def test_a_cut_request_is_refused(length: int) -> None:
    with pytest.raises(IssueRefused):
        check_request(GOOD[:length], CHAT)
