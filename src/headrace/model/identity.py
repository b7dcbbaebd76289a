"""Who a workload is: a SPIFFE identity in Istio's form.

Rule: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>` (SPIFFE-ID standard, path form of Istio).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
_SEGMENT = re.compile(r"[a-zA-Z0-9._-]{1,253}")


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """A workload identity. Raises ValueError where a part is empty or has characters SPIFFE does not allow."""

    trust_domain: str
    namespace: str
    service_account: str

    def __post_init__(self) -> None:
        if not _TRUST_DOMAIN.fullmatch(self.trust_domain):
            raise ValueError(f"trust domain {self.trust_domain!r}: use 1-255 of a-z, 0-9, '.', '_' and '-'")
        for part in (self.namespace, self.service_account):
            if not _SEGMENT.fullmatch(part) or part in (".", ".."):
                raise ValueError(f"identity part {part!r}: use letters, digits, '.', '_' and '-'")

    @property
    def uri(self) -> str:
        """The SPIFFE ID, as it stands in the certificate's URI SAN."""
        return f"spiffe://{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"

    @classmethod
    def parse(cls, uri: str) -> Identity:
        """The identity that a SPIFFE URI names; ValueError for any other text."""
        found = re.fullmatch(r"spiffe://([^/]+)/ns/([^/]+)/sa/([^/]+)", uri)
        if not found:
            raise ValueError(f"{uri[:200]!r} is not spiffe://<trust domain>/ns/<namespace>/sa/<service account>")
        return cls(*found.groups())
