"""The documents in force: sources bring them, each has one owner, and a bad one leaves its last good revision.

Owned by the control plane, in one event loop. Pure but for the journal that is passed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from headrace.config.documents import Document, ReadResult
from headrace.config.kinds import kind_named
from headrace.config.metadata import key_of
from headrace.config.revision import ConfigRevision
from headrace.config.schema import CONFLICT, DUPLICATE, OWNED_ELSEWHERE, Finding, problem_of, validate
from headrace.model.mesh import MeshConfig
from headrace.model.problem import Problem, Severity
from headrace.model.resource import ResourceKey

API = "api"
"""The source of documents that people apply to the running mesh."""


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A good document and what it became. `version` is the number of the revision that brought its content: its
    metadata.resourceVersion. `applied`: brought by `apply`, not by a source that is read whole."""

    key: ResourceKey
    document: Document
    resource: Any
    version: int
    problems: tuple[Problem, ...] = ()
    applied: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """One step for the journal: a document to keep, or (None) one to forget."""

    source: str
    key: ResourceKey
    stored: Stored | None


class Journal(Protocol):
    """Where documents survive a restart (`config.journal`)."""

    def write(self, changes: Sequence[Change]) -> None: ...

    def read(self) -> Sequence[Stored]: ...


@dataclass(frozen=True, slots=True)
class Applied:
    """What `apply` did: documents in force now (`changed` says which of them are new or different), and problems."""

    keys: tuple[ResourceKey, ...]
    changed: tuple[ResourceKey, ...]
    problems: tuple[Problem, ...]


@dataclass(slots=True)
class _Source:
    """What one source brought: good documents, those that another source owns, those that nothing is made of, as
    they are wrong or of another kind (analysis looks at them), and what is wrong."""

    stored: dict[ResourceKey, Stored] = field(default_factory=dict)
    refused: dict[ResourceKey, Document] = field(default_factory=dict)
    unread: list[Document] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


@dataclass(slots=True)
class _Round:
    """One change in the making: the source's state after it, and the documents already met, by key."""

    after: _Source
    seen: dict[ResourceKey, Document] = field(default_factory=dict)


class ConfigStore:
    """All documents of all sources. Every change that alters what is in force makes a new `ConfigRevision`.

    With a journal, documents applied before are in force again from the start; the last good documents of sources
    that are read whole serve as fallback when such a source is read for the first time.
    """

    def __init__(self, journal: Journal | None = None, mesh: MeshConfig | None = None) -> None:
        self._journal = journal
        self._default_mesh = mesh or MeshConfig()
        self._sources: dict[str, _Source] = {}
        self._fallback: dict[str, dict[ResourceKey, Stored]] = {}
        self._changes: list[Change] = []
        self._number = 0
        for stored in journal.read() if journal else ():
            self._number = max(self._number, stored.version)
            target = self._source(stored.document.source).stored if stored.applied else None
            if target is None:
                target = self._fallback.setdefault(stored.document.source, {})
            target[stored.key] = stored
        self._revision = self._assemble(None)

    def revision(self) -> ConfigRevision:
        """What is in force now; the same object until something changes."""
        return self._revision

    def replace_source(self, source: str, result: ReadResult) -> ConfigRevision:
        """Take `result` as all that `source` has. Documents it no longer has are gone, except where the file that
        held them cannot be read, or holds them in a form that is wrong: then the last good one stays."""
        fallback = self._fallback.pop(source, {})
        before = self._source(source).stored or fallback
        after = _Source(problems=list(result.problems))
        broken = set(result.broken)
        round_ = _Round(after)
        for document in result.documents:
            if self._bring(document, before, round_) is None:
                broken.add(document.file)
        for key, old in before.items():
            if key not in round_.seen and _covers(broken, old.document.file) and self.owner(key) in (None, source):
                after.stored[key] = old
        self._changes += [Change(source, key, None) for key in fallback if key not in after.stored]
        self._replace(source, after)
        return self._commit()

    def apply(self, source: str, documents: Iterable[Document]) -> Applied:
        """Bring single documents; each good one comes into force, each bad one is a problem.

        metadata.resourceVersion, where written, must be the version in force (0 or absent: any).
        """
        before = self._source(source)
        round_ = _Round(_Source())
        for document in documents:
            conflict = self._conflict(document)
            if conflict:
                round_.after.problems.append(problem_of(document, conflict))
            else:
                self._bring(document, before.stored, round_)
        good = {key: item for key, item in round_.after.stored.items() if item.document is round_.seen[key]}
        changed = tuple(
            key for key, item in good.items() if key not in before.stored or before.stored[key].version != item.version
        )
        problems = {*round_.after.problems, *(problem for item in good.values() for problem in item.problems)}
        applied = {key: replace(item, applied=True) for key, item in good.items()}
        self._replace(source, replace(before, stored=before.stored | applied))
        self._commit()
        return Applied(tuple(good), changed, tuple(sorted(problems)))

    def delete(self, source: str, key: ResourceKey) -> Problem | None:
        """Take a document of this source out of force; the problem where there is none or another source owns it."""
        owner = self.owner(key)
        if owner is None:
            return _about(key, f"there is no {key}", "Look at the names with `headrace get`.")
        if owner != source:
            found = self._owned(key)
            return _about(key, found.message, found.remedy)
        before = self._source(source)
        kept = {other: stored for other, stored in before.stored.items() if other != key}
        self._replace(source, replace(before, stored=kept))
        self._commit()
        return None

    def drop_source(self, source: str) -> ConfigRevision:
        """Forget a source and all that it brought."""
        return self.replace_source(source, ReadResult())

    def owner(self, key: ResourceKey) -> str | None:
        """The source whose document is in force."""
        return next((name for name, source in self._sources.items() if key in source.stored), None)

    def get(self, key: ResourceKey) -> Stored | None:
        """The document in force."""
        return next((source.stored[key] for source in self._sources.values() if key in source.stored), None)

    def documents(self) -> list[Stored]:
        """All documents in force, sorted by key."""
        return sorted((item for source in self._sources.values() for item in source.stored.values()), key=_by_key)

    def _source(self, name: str) -> _Source:
        return self._sources.setdefault(name, _Source())

    def _bring(self, document: Document, before: Mapping[ResourceKey, Stored], round_: _Round) -> ResourceKey | None:
        """Judge one document and put it, or its last good revision, into the round. None: its key cannot be told."""
        after, key = round_.after, _key_of(document)
        old = before.get(key) if key else None
        first = round_.seen.get(key) if key else None
        if key is not None and first is not None:
            message = f"{key} is written a second time, first at {first.file}:{first.line}"
            finding = Finding((), message, "Remove or rename one; the first is in force.", DUPLICATE)
            after.problems.append(problem_of(document, finding))
            return key
        if key is not None and self.owner(key) not in (None, document.source):
            after.problems.append(problem_of(document, self._owned(key)))
            after.refused[key] = round_.seen[key] = document
            return key
        unchanged = old is not None and _unchanged(old, document)
        if key is not None and old is not None and unchanged and not old.problems:
            moved = document is not old.document and document.lines != old.document.lines
            after.stored[key] = replace(old, document=document) if moved else old
            round_.seen[key] = after.stored[key].document
            return key
        resource, key, problems = validate(document)
        if key is None:
            after.problems += problems
            after.unread.append(document)
            return None if any(problem.severity is Severity.ERROR for problem in problems) else _NOTHING
        round_.seen[key] = document
        if resource is None and old is not None:
            after.problems += [_still(problem) for problem in problems]
            after.stored[key] = replace(old, problems=())
        elif resource is None:
            after.problems += problems
            after.unread.append(document)
        elif old is not None and unchanged:
            after.stored[key] = replace(old, document=document, problems=problems)
        else:
            after.stored[key] = Stored(key, document, resource, self._number + 1, problems)
        return key

    def _owned(self, key: ResourceKey) -> Finding:
        stored = self.get(key)
        place = f"{stored.document.file}:{stored.document.line}" if stored else ""
        remedy = f"Change or delete it there ({place}), or use another name."
        return Finding((), f"{key} belongs to {self.owner(key)}", remedy, OWNED_ELSEWHERE)

    def _conflict(self, document: Document) -> Finding | None:
        metadata = document.data.get("metadata")
        written = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
        if written in (None, "", "0"):
            return None
        key = _key_of(document)
        stored = self.get(key) if key else None
        if stored is not None and written == str(stored.version):
            return None
        at = ("metadata", "resourceVersion")
        if stored is None:
            remedy = "Remove resourceVersion to create it."
            return Finding(at, "the document is not in force any more", remedy, CONFLICT)
        remedy = "Get it again, repeat the change, apply that."
        return Finding(at, f"the document was changed meanwhile (now {stored.version})", remedy, CONFLICT)

    def _replace(self, name: str, after: _Source) -> None:
        """Put a source's new state in place, note what that changes, and let documents in that it kept out."""
        before = self._source(name)
        self._sources[name] = after
        for key, stored in after.stored.items():
            old = before.stored.get(key)
            if old is None or old.version != stored.version or old.applied != stored.applied:
                self._changes.append(Change(name, key, stored))
        gone = [key for key in before.stored if key not in after.stored]
        self._changes += [Change(name, key, None) for key in gone]
        for key in gone:
            self._admit(key)

    def _admit(self, key: ResourceKey) -> None:
        """Bring into force the document of another source that waited for this name."""
        for name, source in self._sources.items():
            document = source.refused.pop(key, None)
            if document is None:
                continue
            place = (document.file, document.line, OWNED_ELSEWHERE)
            source.problems = [item for item in source.problems if (item.file, item.line, item.code) != place]
            self._bring(document, {}, _Round(source))
            if key in source.stored:
                self._changes.append(Change(name, key, source.stored[key]))
                return

    def _commit(self) -> ConfigRevision:
        """The revision after a change, written to the journal first."""
        if self._journal and self._changes:
            self._journal.write(self._changes)
        self._changes = []
        self._revision = self._assemble(self._revision)
        return self._revision

    def _assemble(self, last: ConfigRevision | None) -> ConfigRevision:
        stored = self.documents()
        resources = {item.key: item.resource for item in stored if not isinstance(item.resource, MeshConfig)}
        meshes = [item for item in stored if isinstance(item.resource, MeshConfig)]
        mesh = meshes[0].resource if meshes else self._default_mesh
        findings = {problem for source in self._sources.values() for problem in source.problems}
        for item in stored:
            findings.update(item.problems)
        for item in meshes[1:]:
            first = meshes[0].document
            finding = Finding(
                (), f"the mesh is configured at {first.file}:{first.line} already", "Keep one.", DUPLICATE
            )
            findings.add(problem_of(item.document, finding))
        documents = {item.key: item.document for item in stored}
        unread = tuple(document for source in self._sources.values() for document in source.unread)
        problems = tuple(sorted(findings))
        if last is not None and mesh is last.mesh and _same(resources, last.resources):
            if problems == last.findings and _same(documents, last.documents) and unread == last.unread:
                return last
        else:
            self._number += 1
        return ConfigRevision(self._number, resources, problems, mesh, documents, unread)


_NOTHING = ResourceKey("", "", "")
"""Stands for a document that is no resource and no error: a kind that is not supported yet."""


def _key_of(document: Document) -> ResourceKey | None:
    """The key of a document of a known kind, without judging it further."""
    kind = kind_named(document.group, document.kind)
    return key_of(document, kind.namespaced) if kind else None


def _unchanged(old: Stored, document: Document) -> bool:
    """Whether a document makes the same resource: same content, and (unless it was applied) the same rank by place."""
    known = old.document
    if (known.digest, known.api_version) != (document.digest, document.api_version):
        return False
    if old.applied:
        return True
    created = known.data["metadata"].get("creationTimestamp") == document.data["metadata"].get("creationTimestamp")
    return created and (known.file, known.index) == (document.file, document.index)


def _same(one: Mapping[ResourceKey, Any], other: Mapping[ResourceKey, Any]) -> bool:
    return len(one) == len(other) and all(
        key == known and resource is value
        for (key, resource), (known, value) in zip(one.items(), other.items(), strict=True)
    )


def _still(problem: Problem) -> Problem:
    """The problem of a document whose last good revision goes on."""
    if problem.severity is not Severity.ERROR:
        return problem
    return replace(problem, remedy=f"{problem.remedy} The last good revision stays in force.".strip())


def _covers(broken: Iterable[str], file: str) -> bool:
    """Whether a file, or a directory above it, is among those that could not be read."""
    return any(file == name or file.startswith(name.rstrip("/") + "/") for name in broken)


def _about(key: ResourceKey, message: str, remedy: str) -> Problem:
    return Problem("", 0, OWNED_ELSEWHERE, Severity.ERROR, key.short_kind, key.namespace, key.name, "", message, remedy)


def _by_key(stored: Stored) -> tuple[str, str, str]:
    return (stored.key.kind, stored.key.namespace, stored.key.name)
