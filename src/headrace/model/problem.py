"""What a user is told about a document: one judgement, where it stands and what to do.

Written by `config` and `registry`, read by `app` (`headrace check`, `apply`, the logs).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad a problem is: an ERROR keeps the document out of force, the others do not."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One judgement of one document.

    `code` is one of Istio's analysis codes (IST....) where Istio has one, else one of ours (HR....).
    `field` is the path in the document (`spec.http[0].timeout`, empty for the whole document) and
    `line` the 1-based line of that field in `file` (0: not known). `remedy` says what to do, as a
    sentence; `message` says what is wrong. `kind`, `namespace` and `name` are empty where the
    document could not be read far enough to tell.
    """

    file: str
    line: int
    code: str
    severity: Severity
    kind: str
    namespace: str
    name: str
    field: str
    message: str
    remedy: str

    def as_json(self) -> dict[str, str | int]:
        """The object that `headrace check -o json` promises (contract.md), with `field` and `remedy` beside."""
        return {
            "code": self.code,
            "severity": self.severity.value,
            "kind": self.kind,
            "namespace": self.namespace,
            "name": self.name,
            "message": self.message,
            "file": self.file,
            "line": self.line,
            "field": self.field,
            "remedy": self.remedy,
        }

    def as_line(self) -> str:
        """One line for a terminal or a log: `file:line: severity CODE kind ns/name field: message Remedy`.
        Of a file as a whole (line 0) the line is left out."""
        subject = " ".join(part for part in (self.kind, f"{self.namespace}/{self.name}".strip("/")) if part)
        place = " ".join(part for part in (self.code, subject, self.field) if part)
        said = f"{self.message.rstrip('.')}. {self.remedy}" if self.remedy else self.message
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.severity} {place}: {said}"
