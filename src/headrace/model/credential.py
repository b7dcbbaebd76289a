"""A credential that proxies put into requests, so that applications never hold it: what an InferencePolicy says of it.

Made by `config.kinds.inference_policy`, judged by `config.analysis.credentials`, and turned into a secret of Envoy by
`envoy.translate.credentials`. The value of the Secret stands in no message and no repr.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

LONGEST_VALUE = 16 * 1024
"""Bytes of the header's whole value: far more than any token, far less than what servers take."""


class UnusableCredentialError(ValueError):
    """The Secret cannot be used; the message says why, without a byte of it."""


@dataclass(frozen=True, slots=True)
class Credential:
    """Which Secret of the policy's namespace, which of its keys ('' : its only one), and the request header that gets
    `prefix` and the value."""

    secret: str
    key: str = ""
    header: str = "Authorization"
    prefix: str = "Bearer "

    def header_value(self, data: Mapping[str, bytes]) -> bytes:
        """What the header is to have, of a Secret with these values. UnusableCredentialError where there is no such
        key, or its value cannot stand in a header (RFC 9110, 5.5; of that only ASCII)."""
        value = data[self._key_of(data)]
        if not value:
            raise UnusableCredentialError("its value is empty")
        if any(not 0x20 <= byte < 0x7F for byte in value):
            raise UnusableCredentialError("its value has a line end, a control character or one beyond ASCII")
        if value != value.strip():
            raise UnusableCredentialError("its value begins or ends with a space")
        whole = self.prefix.encode() + value
        if len(whole) > LONGEST_VALUE:
            raise UnusableCredentialError(f"its value is longer than {LONGEST_VALUE} bytes")
        return whole

    def _key_of(self, data: Mapping[str, bytes]) -> str:
        if self.key:
            if self.key not in data:
                raise UnusableCredentialError(f"it has no key {self.key}")
            return self.key
        if len(data) != 1:
            raise UnusableCredentialError(f"it has {len(data)} keys, and the policy names none")
        return next(iter(data))
