"""Keys and the requests made with them."""

from __future__ import annotations

import copy
import pickle

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from headrace.identity.keys import PrivateKey
from headrace.model.identity import Identity

CHAT = Identity("cluster.local", "default", "chat")


def test_csr_names_the_identity_critically_and_proves_possession() -> None:
    key = PrivateKey.generate()
    request = x509.load_der_x509_csr(key.csr(CHAT))
    assert request.is_signature_valid
    assert list(request.subject) == []
    san = request.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert san.critical
    assert san.value.get_values_for_type(x509.UniformResourceIdentifier) == [
        "spiffe://cluster.local/ns/default/sa/chat"
    ]
    public = request.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert public.curve.name == "secp256r1"


def test_every_key_is_another_one() -> None:
    assert PrivateKey.generate().public_der() != PrivateKey.generate().public_der()


@pytest.mark.parametrize("show", [repr, str, "{}".format, lambda key: repr([key]), lambda key: f"{key!s:>10}"])
def test_text_forms_hide_the_key(show) -> None:
    key = PrivateKey.generate()
    shown = show(key)
    assert "hidden" in shown
    assert "BEGIN" not in shown


@pytest.mark.parametrize("leak", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_key_cannot_be_pickled_or_copied(leak) -> None:
    with pytest.raises(TypeError, match="private key"):
        leak(PrivateKey.generate())
