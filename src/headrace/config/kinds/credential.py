"""`spec.credential` of an InferencePolicy: a Secret whose value proxies put into requests.

Called by `inference_policy`. Lowered to `model.credential.Credential`.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from headrace.config.fields import DnsName, HeaderName, shown, text_of
from headrace.config.kinds.secret import Key
from headrace.config.schema import Spec, refuse
from headrace.model.credential import Credential

LONGEST_PREFIX = 256
_FRAMING = frozenset(
    ("connection", "content-length", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade")
)
"""Headers that say how a message is carried; no credential stands in one."""


def _carries(value: str) -> str:
    if value.startswith(":") or value.lower() in _FRAMING:
        raise refuse(f"{shown(value)} cannot carry a credential", "Use Authorization, x-api-key or the like.")
    return value


def _prefix(value: Any) -> str:
    text = text_of(value, "a prefix")
    if len(text) > LONGEST_PREFIX or any(not " " <= letter <= "~" for letter in text) or text != text.lstrip():
        raise refuse(
            f"must be at most {LONGEST_PREFIX} printable ASCII characters, without a space in front",
            'Write "Bearer ", or "" for none.',
        )
    return text


class SecretRefSpec(Spec):
    """A Secret of the policy's own namespace, and one of its keys (none: its only one)."""

    name: DnsName
    key: Key | None = None


class CredentialSpec(Spec):
    secret_ref: SecretRefSpec
    header: Annotated[HeaderName, AfterValidator(_carries)] = "Authorization"
    prefix: Annotated[str, BeforeValidator(_prefix)] = "Bearer "

    def lowered(self) -> Credential:
        """The same as the model has it."""
        return Credential(self.secret_ref.name, self.secret_ref.key or "", self.header, self.prefix)
