"""A MeshConfig file as Istio has it: the fields alone, without apiVersion and kind, or inside Istio's ConfigMap.

Called for `--mesh-config FILE` by `headrace check`, `headrace translate` and the control plane.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from headrace.config.documents import Document, Path, ReadResult, digest_of, read_paths, read_text

SOURCE = "mesh-config"
_NAME = "mesh"


def read_mesh_config(path: str | os.PathLike[str], source: str = SOURCE) -> ReadResult:
    """The documents of a MeshConfig file; bare fields become the spec of a `MeshConfig` document.

    A file with a ConfigMap is read as Istio's own (`data.mesh` holds the fields as text). Other documents stay as
    they are.
    """
    result = read_paths([path], source)
    documents: list[Document] = []
    problems = list(result.problems)
    broken = set(result.broken)
    for document in result.documents:
        text = _config_map_text(document)
        if text is not None:
            inner = read_text(text, document.file, source)
            first = document.lines.get(("data", "mesh"), document.line)
            documents += [_wrapped(item, first) for item in inner.documents]
            problems += [replace(problem, line=problem.line + first) for problem in inner.problems]
            broken |= inner.broken
        elif "kind" in document.data or "apiVersion" in document.data:
            documents.append(document)
        else:
            documents.append(_wrapped(document, 0))
    return ReadResult(tuple(documents), tuple(problems), frozenset(broken))


def _config_map_text(document: Document) -> str | None:
    data = document.data.get("data")
    text = data.get("mesh") if document.kind == "ConfigMap" and isinstance(data, dict) else None
    return text if isinstance(text, str) else None


def _wrapped(document: Document, offset: int) -> Document:
    """The fields as the spec of a MeshConfig document; lines moved down by `offset`."""
    data: dict[str, Any] = {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "MeshConfig",
        "metadata": {"name": _NAME},
        "spec": dict(document.data),
    }
    lines: dict[Path, int] = {("spec", *path): line + offset for path, line in document.lines.items()}
    return replace(
        document,
        kind="MeshConfig",
        api_version="headrace.dev/v1alpha1",
        namespace="",
        name=_NAME,
        data=data,
        lines=lines,
        line=document.line + offset,
        digest=digest_of(data),
    )
