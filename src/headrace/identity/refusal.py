"""Why no certificate was issued: the stage that refused, and a sentence for the operator.

Raised by every stage of `identity.issuer`; the control plane's gRPC adapter turns the stage into a status code.
"""

from __future__ import annotations

from enum import StrEnum


class Stage(StrEnum):
    """The stages of issuing, in their order. ATTEST and REQUEST blame the asker, SIGN and RECORD ourselves."""

    ATTEST = "attest"
    REQUEST = "request"
    SIGN = "sign"
    RECORD = "record"


class IssueRefused(Exception):
    """No certificate. `reason` says what was wrong; it holds nothing secret and quotes foreign text shortened."""

    def __init__(self, stage: Stage, reason: str) -> None:
        super().__init__(f"certificate refused at stage {stage.value}: {reason}")
        self.stage = stage
        self.reason = reason


def quoted(text: str, limit: int = 120) -> str:
    """Foreign text for a message: printable, in quotes, at most `limit` characters of it."""
    return repr(text if len(text) <= limit else text[:limit] + "...")
