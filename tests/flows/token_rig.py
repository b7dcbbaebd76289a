"""JSON Web Tokens made by hand: right ones, and those that attackers make."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

ISSUER = "https://issuer.example"


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value: int) -> str:
    return encoded(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def claims(**other: Any) -> dict[str, Any]:
    """Claims of a token that is valid for five minutes."""
    return {"iss": ISSUER, "sub": "me", "aud": "chat", "exp": int(time.time()) + 300, **other}


class Rsa:
    """An issuer's RSA key."""

    def __init__(self, kid: str = "rsa") -> None:
        self.kid = kid
        self.key = rsa.generate_private_key(65537, 2048)

    @property
    def jwk(self) -> dict[str, str]:
        numbers = self.key.public_key().public_numbers()
        return {"kty": "RSA", "kid": self.kid, "n": number(numbers.n), "e": number(numbers.e)}

    def token(self, payload: dict[str, Any], **header: Any) -> str:
        """Signed RS256, whatever the header says instead."""
        text = head({"alg": "RS256", "kid": self.kid, **header}, payload)
        return f"{text}.{encoded(self.key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"

    def pem(self) -> bytes:
        return self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )


class Ec:
    """An issuer's P-256 key."""

    def __init__(self, kid: str = "ec") -> None:
        self.kid = kid
        self.key = ec.generate_private_key(ec.SECP256R1())

    @property
    def jwk(self) -> dict[str, str]:
        numbers = self.key.public_key().public_numbers()
        x, y = (encoded(value.to_bytes(32, "big")) for value in (numbers.x, numbers.y))
        return {"kty": "EC", "crv": "P-256", "kid": self.kid, "x": x, "y": y}

    def token(self, payload: dict[str, Any], **header: Any) -> str:
        text = head({"alg": "ES256", "kid": self.kid, **header}, payload)
        r, s = decode_dss_signature(self.key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{text}.{encoded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def head(header: dict[str, Any], payload: dict[str, Any]) -> str:
    return f"{encoded(json.dumps(header).encode())}.{encoded(json.dumps(payload).encode())}"


def unsigned(payload: dict[str, Any], algorithm: str = "none") -> str:
    """No signature at all."""
    return head({"alg": algorithm}, payload) + "."


def by_secret(payload: dict[str, Any], secret: bytes, **header: Any) -> str:
    """Signed HS256 with bytes that everybody knows: the public key."""
    text = head({"alg": "HS256", **header}, payload)
    return f"{text}.{encoded(hmac.digest(secret, text.encode(), hashlib.sha256))}"


def tampered(token: str, **other: Any) -> str:
    """The same header and signature with other claims."""
    header, payload, signature = token.split(".")
    data = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return f"{header}.{encoded(json.dumps({**data, **other}).encode())}.{signature}"


def key_set(*keys: Rsa | Ec) -> str:
    return json.dumps({"keys": [key.jwk for key in keys]})
