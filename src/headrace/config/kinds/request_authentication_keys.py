"""JSON Web Key Sets as documents write them: what is one, and which keys should not stand in a document.

Used by `request_authentication`. Nothing here shows a key's content in a message.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    SECP521R1,
    EllipticCurve,
    EllipticCurvePublicNumbers,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

_NEEDED = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x"), "oct": ("k",)}
"""Members that each type of key must have (RFC 7518, RFC 8037)."""
_ALGORITHMS = {"RSA": ("RS", "PS"), "EC": ("ES",), "OKP": ("EdDSA",), "oct": ("HS",)}
_CURVES: Mapping[object, EllipticCurve] = {"P-256": SECP256R1(), "P-384": SECP384R1(), "P-521": SECP521R1()}
_SMALLEST_RSA, _LARGEST_RSA, _LARGEST_EXPONENT = 1024, 8192, 33
"""Sizes of RSA keys, in bits."""
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+={0,2}")
_NAMES = frozenset(("crv",))


class KeySetError(ValueError):
    """The text is no key set; the message says why, without showing any of it."""


def as_key_set(text: str) -> str:
    """The text as a key set: a single key becomes a set of one. KeySetError where it is neither."""
    parsed = _parsed(text)
    if "keys" in parsed:
        keys = parsed["keys"]
        if not isinstance(keys, list):
            raise KeySetError("'keys' is not a list")
        for number, key in enumerate(keys):
            _judge(key, f"key {number}")
        return text
    _judge(parsed, "it")
    return json.dumps({"keys": [parsed]}, sort_keys=True, separators=(",", ":"))


def has_usable_key(text: str) -> bool:
    """Whether Envoy can verify tokens by at least one key of a valid set; it refuses a set without any."""
    return any(_is_usable(key) for key in _parsed(text)["keys"])


def _is_usable(key: Mapping[str, Any]) -> bool:
    kind, algorithm = key["kty"], key.get("alg", "")
    if not isinstance(algorithm, str) or not isinstance(key.get("kid", ""), str):
        return False
    if algorithm and not algorithm.startswith(_ALGORITHMS[kind]):
        return False
    try:
        if kind == "RSA":
            modulus, exponent = _number(key["n"]), _number(key["e"])
            RSAPublicNumbers(exponent, modulus).public_key()
            return _SMALLEST_RSA <= modulus.bit_length() <= _LARGEST_RSA and exponent.bit_length() <= _LARGEST_EXPONENT
        if kind == "EC":
            curve = _CURVES.get(key["crv"])
            return curve is not None and bool(
                EllipticCurvePublicNumbers(_number(key["x"]), _number(key["y"]), curve).public_key()
            )
        if kind == "OKP":
            return key["crv"] == "Ed25519" and bool(Ed25519PublicKey.from_public_bytes(_bytes(key["x"])))
        return bool(algorithm and _bytes(key["k"]))
    except (ValueError, UnsupportedAlgorithm):
        return False


def _bytes(text: str) -> bytes:
    bare = text.rstrip("=")
    return base64.urlsafe_b64decode(bare + "=" * (-len(bare) % 4))


def _number(text: str) -> int:
    return int.from_bytes(_bytes(text), "big")


def private_keys(text: str) -> list[int]:
    """The places of keys in a valid set that hold private or symmetric material."""
    if not text:
        return []
    parsed = _parsed(text)
    keys = parsed.get("keys", [parsed])
    return [number for number, key in enumerate(keys) if "d" in key or key.get("kty") == "oct"]


def _parsed(text: str) -> Mapping[str, Any]:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        raise KeySetError("it is not JSON") from None
    if not isinstance(parsed, dict):
        raise KeySetError("it is not a JSON object")
    return parsed


def _judge(key: object, what: str) -> None:
    if not isinstance(key, dict):
        raise KeySetError(f"{what} is not a JSON object")
    kind = key.get("kty")
    if kind not in _NEEDED:
        raise KeySetError(f"{what} has no kty, or one other than {', '.join(_NEEDED)}")
    for name in _NEEDED[kind]:
        value = key.get(name)
        if not isinstance(value, str) or not (name in _NAMES or _BASE64URL.fullmatch(value)):
            raise KeySetError(f"{what}, of kty {kind}, has no {name}, or one that is not base64url")
