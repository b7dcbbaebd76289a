"""`v1 Secret`: key material by name. Values never stand in a message, a log or a repr."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BeforeValidator

from headrace.config.documents import Document
from headrace.config.fields import Bool, Text, text_of
from headrace.config.schema import INCOMPLETE, Finding, Kind, Spec, refuse
from headrace.model.problem import Severity
from headrace.model.resource import Metadata
from headrace.model.security import Secret

MAX_DATA = 1024 * 1024
"""Bytes of all values together (Kubernetes' bound)."""

_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_REQUIRED = {
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/dockercfg": (".dockercfg",),
}


def _decoded(value: Any) -> bytes:
    if not isinstance(value, str):
        raise refuse("must be base64 text", "Encode the value with base64, or use stringData.")
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        raise refuse("is not base64", "Encode the value with base64, or use stringData.") from None


def _plain(value: Any) -> bytes:
    if not isinstance(value, str):
        raise refuse("must be text", "Quote the value.")
    return value.encode(errors="surrogatepass")


def _key(value: Any) -> str:
    text = text_of(value, "a key")
    if not _KEY.fullmatch(text) or text in (".", ".."):
        raise refuse("is not a key of a Secret or ConfigMap", "Use letters, digits, '-', '_' and '.'.")
    return text


Key = Annotated[str, BeforeValidator(_key)]


class SecretBody(Spec):
    """core/v1 Secret."""

    type: Text = "Opaque"
    data: dict[Key, Annotated[bytes, BeforeValidator(_decoded)]] = {}
    string_data: dict[Key, Annotated[bytes, BeforeValidator(_plain)]] = {}
    immutable: Bool = False

    def __repr__(self) -> str:
        return "SecretBody(...)"

    def values(self) -> dict[str, bytes]:
        """All values; stringData overrides data (Kubernetes' rule)."""
        return dict(sorted((self.data | self.string_data).items()))


def _check(spec: SecretBody, document: Document) -> Iterator[Finding]:
    values = spec.values()
    if sum(map(len, values.values())) > MAX_DATA:
        yield Finding(("data",), f"a Secret's values are larger than {MAX_DATA} bytes", "Split it.")
    for name in _REQUIRED.get(spec.type, ()):
        if name not in values:
            message = f"a Secret of type {spec.type} needs '{name}'"
            yield Finding(("data", name), message, f"Add {name}, or change the type.", INCOMPLETE, Severity.WARNING)


def _lower(meta: Metadata, spec: SecretBody, document: Document) -> Secret:
    return Secret(meta, spec.values())


KIND = Kind(group="", versions=("v1",), name="Secret", model=SecretBody, lower=_lower, body="", check=_check)
