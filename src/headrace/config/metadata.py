"""The metadata of a document, judged by Kubernetes' rules, and the resource's `Metadata` made of it.

Called by `config.schema.validate_as` for every kind.
"""

from __future__ import annotations

import contextlib
import datetime
import re
from collections.abc import Mapping
from typing import Any

from headrace.config.documents import DEFAULT_NAMESPACE, Document, Path
from headrace.config.fields import is_dns_label, is_dns_name, is_label_key, is_label_value, shown
from headrace.config.schema import Finding
from headrace.model.resource import Metadata, Origin, ResourceKey

MAX_ANNOTATIONS = 256 * 1024
"""Characters in all annotations together (Kubernetes' bound)."""

_FIELDS = frozenset(
    {
        "name",
        "namespace",
        "labels",
        "annotations",
        "creationTimestamp",
        "resourceVersion",
        "generation",
        "uid",
        "generateName",
        "finalizers",
        "ownerReferences",
        "managedFields",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "clusterName",
    }
)
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")


def read(document: Document, key_kind: str, namespaced: bool, findings: list[Finding]) -> Metadata | None:
    """The document's metadata; findings are added for all that is wrong. None where it has no usable name."""
    metadata = document.data.get("metadata")
    if not isinstance(metadata, dict):
        findings.append(Finding(("metadata",), "a document needs metadata with a name", "Add metadata.name."))
        return None
    findings += [
        Finding(("metadata", field), f"unknown field '{field[:80]}'", "Remove it.")
        for field in metadata
        if field not in _FIELDS
    ]
    name = _name(metadata, findings)
    namespace = _namespace(metadata, namespaced, findings)
    labels = _pairs(metadata, "labels", findings)
    annotations = _pairs(metadata, "annotations", findings)
    created = _created(metadata.get("creationTimestamp"), findings)
    if not name:
        return None
    return Metadata(
        key=ResourceKey(key_kind, namespace, name),
        labels=labels,
        annotations=annotations,
        origin=Origin(document.source, document.file, document.line, created),
        digest=document.digest,
    )


def key_of(document: Document, namespaced: bool) -> ResourceKey | None:
    """The key of a document that may be invalid otherwise; None where it names nothing."""
    kind = f"{document.group}/{document.kind}" if document.group else document.kind
    if not document.name or not document.kind:
        return None
    return ResourceKey(kind, document.namespace if namespaced else "", document.name)


def _created(written: Any, findings: list[Finding]) -> str:
    """A creation time in UTC; empty where none is written."""
    if written is None:
        return ""
    if isinstance(written, str) and _TIMESTAMP.fullmatch(written):
        with contextlib.suppress(ValueError, OverflowError):
            moment = datetime.datetime.fromisoformat(written).astimezone(datetime.UTC)
            return moment.isoformat(timespec="microseconds")
    remedy = "Write 2026-01-31T12:00:00Z."
    findings.append(Finding(("metadata", "creationTimestamp"), f"{shown(written)} is not a time", remedy))
    return ""


def _name(metadata: Mapping[str, Any], findings: list[Finding]) -> str:
    name = metadata.get("name")
    if name is None or name == "":
        findings.append(Finding(("metadata", "name"), "a document needs a name", "Add metadata.name."))
    elif not isinstance(name, str) or not is_dns_name(name):
        remedy = "Use a-z, 0-9, '-' and '.', beginning and ending with a letter or digit; quote a number."
        findings.append(Finding(("metadata", "name"), f"{shown(name)} is not a name", remedy))
    else:
        return name
    return ""


def _namespace(metadata: Mapping[str, Any], namespaced: bool, findings: list[Finding]) -> str:
    namespace = metadata.get("namespace")
    if not namespaced:
        return ""
    if namespace is None or namespace == "":
        return DEFAULT_NAMESPACE
    if not isinstance(namespace, str) or not is_dns_label(namespace):
        remedy = "Use 1-63 of a-z, 0-9 and '-', beginning and ending with a letter or digit."
        findings.append(Finding(("metadata", "namespace"), f"{shown(namespace)} is not a namespace", remedy))
        return DEFAULT_NAMESPACE
    return namespace


def _pairs(metadata: Mapping[str, Any], field: str, findings: list[Finding]) -> dict[str, str]:
    """Labels or annotations, sorted by key."""
    written = metadata.get(field)
    if written is None:
        return {}
    at: Path = ("metadata", field)
    if not isinstance(written, dict):
        findings.append(Finding(at, "must be a mapping of text to text"))
        return {}
    good: dict[str, str] = {}
    for key in sorted(written):
        value = written[key]
        if not is_label_key(key):
            remedy = "Use at most 63 letters, digits, '-', '_' and '.', after an optional DNS name and '/'."
            findings.append(Finding((*at, key), f"{shown(key)} is not a key for {field}", remedy))
        elif not isinstance(value, str):
            remedy = "Quote the value: it must be text."
            findings.append(Finding((*at, key), f"{shown(value)} is not text", remedy))
        elif field == "labels" and not is_label_value(value):
            remedy = "Use at most 63 letters, digits, '-', '_' and '.'."
            findings.append(Finding((*at, key), f"{shown(value)} is not a label value", remedy))
        else:
            good[key] = value
    if sum(len(key) + len(value) for key, value in good.items()) > MAX_ANNOTATIONS:
        findings.append(Finding(at, f"{field} are longer than {MAX_ANNOTATIONS} characters", "Shorten them."))
    return good
