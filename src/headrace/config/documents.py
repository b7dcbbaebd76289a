"""Files become documents: raw mappings with a line for every field, nothing judged but what can be read at all.

Called by `headrace check`, by the control plane's watch of directories and by the management API. Everything here
is untrusted: sizes, nesting, aliases and links are bounded; whatever cannot be read is a `Problem`, never an exception.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from headrace.config.text import MAX_NODES, Broken, parse
from headrace.model.problem import Problem, Severity

UNREADABLE = "HR0004"
"""A file or document that cannot be read: missing, not YAML, not UTF-8, too large, nested too deeply."""
MAX_FILE = 4 * 1024 * 1024
"""Largest file, in bytes."""
MAX_FILES = 20_000
"""Most files and directories in one read."""
SUFFIXES = (".yaml", ".yml", ".json")
DEFAULT_NAMESPACE = "default"

CLUSTER_WIDE = frozenset(
    {
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "GatewayClass",
        "IngressClass",
        "MeshConfig",
        "Namespace",
        "Node",
        "PersistentVolume",
        "StorageClass",
    }
)
"""Kinds whose documents stand in no namespace."""

Path = tuple[str | int, ...]
"""A place in a document: `("spec", "http", 0, "timeout")`."""

_UNHASHED_METADATA = ("resourceVersion", "uid", "generation", "managedFields", "selfLink", "creationTimestamp")


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """One document as it was written.

    `namespace` is `default` where the document names none (empty for cluster-wide kinds), `name` empty where it has
    none. `lines` maps the path of every field to its 1-based line in `file`. `index` counts the documents of one file,
    `digest` is a hash of the content without status and without what a Kubernetes server adds to metadata.
    """

    kind: str
    api_version: str
    namespace: str
    name: str
    data: Mapping[str, Any] = field(repr=False)
    lines: Mapping[Path, int] = field(repr=False)
    file: str
    line: int
    source: str
    index: int
    digest: str

    @property
    def group(self) -> str:
        """API group: `networking.istio.io`, empty for core kinds."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        return self.api_version.rpartition("/")[2]

    def locate(self, path: Path) -> tuple[Path, int]:
        """The path as it is spelled in this document, and its line: of the field, or of the nearest field above it
        that is written (for a missing one). Parts that are no part of the document (union tags) are left out."""
        found: list[str | int] = []
        value: Any = self.data
        line = self.line
        for at, part in enumerate(path):
            step = _step(value, part)
            if step is None:
                if at == len(path) - 1 and part != "[key]":
                    found.append(part)
                continue
            value = value[step]
            found.append(step)
            line = self.lines.get(tuple(found), line)
        return tuple(found), line


@dataclass(frozen=True, slots=True)
class ReadResult:
    """What reading brought: documents in order of file and position, problems, and the files (or directories, or
    paths that are missing) of which a part could not be told: their last good documents stay in force."""

    documents: tuple[Document, ...] = ()
    problems: tuple[Problem, ...] = ()
    broken: frozenset[str] = frozenset()


FileCache = dict[str, tuple[bytes, ReadResult]]
"""What `read_paths` read before: file → (hash of its bytes, what it held)."""


def read_paths(paths: Iterable[str | os.PathLike[str]], source: str, cache: FileCache | None = None) -> ReadResult:
    """Read files and directories (sorted, `*.yaml`, `*.yml`, `*.json`, hidden ones skipped).

    With a `cache`, kept by the caller for one source, files whose bytes did not change are not parsed again, and
    their `Document`s stay the same objects.
    """
    walk = _Walk()
    for path in paths:
        walk.add(os.fspath(path), named=True)
    documents: list[Document] = []
    problems, broken = walk.problems, walk.broken
    for file in walk.files:
        try:
            data = _read_file(file)
        except _Unreadable as error:
            problems.append(_unreadable(file, 0, str(error), error.remedy))
            broken.add(file)
            continue
        result = _read_cached(data, file, source, cache)
        documents += result.documents
        problems += result.problems
        broken |= result.broken
    if cache is not None:
        for file in set(cache) - set(walk.files):
            del cache[file]
    return ReadResult(tuple(documents), tuple(problems), frozenset(broken))


def _read_cached(data: bytes, file: str, source: str, cache: FileCache | None) -> ReadResult:
    if cache is None:
        return read_text(data, file, source)
    digest = hashlib.blake2b(data, digest_size=32).digest()
    known = cache.get(file)
    if known is None or known[0] != digest:
        known = cache[file] = (digest, read_text(data, file, source))
    return known[1]


def read_text(text: str | bytes, file: str, source: str) -> ReadResult:
    """Read the documents of one text; `file` is the name that problems show."""
    if len(text) > MAX_FILE:
        return _broken(file, 0, f"is larger than {MAX_FILE // 1024**2} MiB", "Split it into smaller files.")
    if isinstance(text, bytes):
        data = text
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            return _broken(file, line, "is not UTF-8 text", "Save the file as UTF-8.")
    if "\0" in text:
        return _broken(file, text.count("\n", 0, text.index("\0")) + 1, "has a NUL byte", "Save it as plain text.")
    documents: list[Document] = []
    problems: list[Problem] = []
    broken = False
    for part in parse(text):
        if isinstance(part, Broken):
            problems.append(_unreadable(file, part.line, part.message, part.remedy))
            broken = True
            continue
        for data, lines, line in _unpack(part.data, part.lines, part.line):
            if isinstance(data, dict):
                documents.append(_document(data, lines, line, (file, source, len(documents))))
            else:
                remedy = "Begin it with apiVersion, kind and metadata."
                problems.append(_unreadable(file, line, "a document must be a mapping of fields", remedy))
                broken = True
    return ReadResult(tuple(documents), tuple(problems), frozenset({file} if broken else ()))


def digest_of(data: Mapping[str, Any]) -> str:
    """A hash of a document's content: equal for equal fields, whatever their order, place or comments."""
    content = {name: value for name, value in data.items() if name != "status"}
    metadata = content.get("metadata")
    if isinstance(metadata, dict):
        content["metadata"] = {name: value for name, value in metadata.items() if name not in _UNHASHED_METADATA}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _document(data: dict[str, Any], lines: Mapping[Path, int], line: int, place: tuple[str, str, int]) -> Document:
    metadata = data.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}

    def text(value: Any, default: str = "") -> str:
        return value if isinstance(value, str) and value else default

    kind = text(data.get("kind"))
    return Document(
        kind=kind,
        api_version=text(data.get("apiVersion")),
        namespace="" if kind in CLUSTER_WIDE else text(metadata.get("namespace"), DEFAULT_NAMESPACE)[:253],
        name=text(metadata.get("name"))[:253],
        data=data,
        lines=lines,
        file=place[0],
        line=line,
        source=place[1],
        index=place[2],
        digest=digest_of(data),
    )


def _unpack(data: Any, lines: Mapping[Path, int], line: int) -> list[tuple[Any, Mapping[Path, int], int]]:
    """The document itself, or those of a `kind: List`; nothing for an empty one."""
    if data is None:
        return []
    if not (isinstance(data, dict) and data.get("kind") == "List" and isinstance(data.get("items"), list)):
        return [(data, lines, line)]
    inner: list[dict[Path, int]] = [{} for _ in data["items"]]
    for path, at in lines.items():
        if len(path) > 2 and path[0] == "items" and isinstance(path[1], int):
            inner[path[1]][path[2:]] = at
    found = []
    for at, item in enumerate(data["items"]):
        found += _unpack(item, inner[at], lines.get(("items", at), line))
    return found


def _step(value: Any, part: str | int) -> str | int | None:
    """The key with which `part` stands in `value`: itself or its snake_case spelling; None where it does not."""
    if isinstance(part, int):
        return part if isinstance(value, list) and -1 < part < len(value) else None
    if not isinstance(value, dict):
        return None
    if part in value:
        return part
    return next((name for name in value if same_field(name, part)), None)


def same_field(written: str, name: str) -> bool:
    """Whether a field is written as its lowerCamelCase name, or as protobuf's snake_case of it."""
    return written == name or ("_" in written and written.replace("_", "").lower() == name.lower())


class _Unreadable(Exception):
    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


def _reason(error: OSError) -> _Unreadable:
    if isinstance(error, FileNotFoundError):
        return _Unreadable("does not exist", "Check the path.")
    if isinstance(error, PermissionError):
        return _Unreadable("may not be read", "Give this user permission to read it.")
    if error.errno == 40:  # ELOOP
        return _Unreadable("is a symbolic link that leads back to itself", "Remove the link.")
    return _Unreadable(f"cannot be read: {error.strerror or error}", "Check the path.")


def _read_file(path: str) -> bytes:
    """The bytes of a regular file of bounded size."""
    try:
        if not stat.S_ISREG(FilePath(path).stat().st_mode):  # before opening: opening a device can do things
            raise _Unreadable("is not a regular file", "Name a file or a directory.")
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise _Unreadable("is not a regular file", "Name a file or a directory.")
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise _reason(error) from None
    except ValueError:
        raise _Unreadable("is not a valid path", "Check the path.") from None
    return data


class _Walk:
    """Collects the files to read, each once, and refuses links that lead back to a directory above."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.problems: list[Problem] = []
        self.broken: set[str] = set()
        self._seen: set[str] = set()
        self._full = False

    def add(self, path: str, named: bool = False, above: tuple[str, ...] = ()) -> None:
        try:
            mode = FilePath(path).stat().st_mode
            real = os.path.realpath(path)
        except OSError as error:
            reason = _reason(error)
            return self._refuse(path, str(reason), reason.remedy)
        except ValueError:
            return self._refuse(path, "is not a valid path", "Check the path.")
        if stat.S_ISDIR(mode) and real in above:
            return self._refuse(path, "is a symbolic link to a directory that it lies in", "Remove the link.")
        if real in self._seen:
            return None
        if len(self._seen) >= MAX_FILES:
            if not self._full:
                self._full = True
                self._refuse(path, f"is one of more than {MAX_FILES} files", "Name fewer directories.")
            return None
        if stat.S_ISDIR(mode):
            self._seen.add(real)
            return self._enter(path, (*above, real))
        if named or path.endswith(SUFFIXES):
            self._seen.add(real)
            self.files.append(path)
        return None

    def _enter(self, path: str, above: tuple[str, ...]) -> None:
        if len(above) > 64:
            return self._refuse(path, "lies more than 64 directories deep", "Name a directory nearer to the files.")
        try:
            names = sorted(entry.name for entry in FilePath(path).iterdir())
        except OSError as error:
            reason = _reason(error)
            return self._refuse(path, str(reason), reason.remedy)
        for name in names:
            if name.startswith("."):
                continue
            inner = str(FilePath(path) / name)
            if name.endswith(SUFFIXES) or FilePath(inner).is_dir():
                self.add(inner, above=above)
        return None

    def _refuse(self, path: str, message: str, remedy: str) -> None:
        self.problems.append(_unreadable(path, 0, message, remedy))
        self.broken.add(path)


def _unreadable(file: str, line: int, message: str, remedy: str) -> Problem:
    return Problem(file, line, UNREADABLE, Severity.ERROR, "", "", "", "", message, remedy)


def _broken(file: str, line: int, message: str, remedy: str) -> ReadResult:
    return ReadResult((), (_unreadable(file, line, message, remedy),), frozenset({file}))


__all__ = [
    "DEFAULT_NAMESPACE",
    "MAX_FILE",
    "MAX_NODES",
    "UNREADABLE",
    "Document",
    "Path",
    "ReadResult",
    "digest_of",
    "read_paths",
    "read_text",
]
