"""How a kind of document is described, and how one document becomes a resource.

A kind is one small file below `config.kinds`: a strict pydantic model of its body (`Spec`), a function that lowers
the validated model to a frozen dataclass of `headrace.model`, and a declaration of what is accepted but not done yet.
`validate` is called by the store and by `headrace check`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from headrace.config.documents import Document, Path, same_field
from headrace.model.problem import Problem, Severity
from headrace.model.resource import Metadata, ResourceKey

SCHEMA_ERROR = "IST0106"
"""Istio's SchemaValidationError: a field, value or document that the schema does not allow."""
INTERNAL_ERROR = "IST0001"
"""Istio's InternalError: a fault of Headrace itself."""
NOT_SUPPORTED = "HR0001"
"""A kind or field that is known and valid, but not acted on yet."""
NO_EFFECT = "HR0002"
"""A kind or field that can have no effect in this mesh."""
UNKNOWN_KIND = "HR0003"
"""A kind or API version that neither Istio, Kubernetes nor Headrace has."""
DUPLICATE = "HR0005"
"""A second document of the same kind, namespace and name within one source."""
OWNED_ELSEWHERE = "HR0006"
"""A document that another source brought already."""
CONFLICT = "HR0007"
"""A change of another version of the document than the one in force."""
INCOMPLETE = "HR0008"
"""A document of Kubernetes' that its API server would refuse, and that says enough to go on with here."""


_PART = re.compile(r'\[(\d+)\]|\["(.*?)"\]|([^.\[\]]+)')
_WORD = re.compile(r"[A-Za-z0-9_-]{1,253}")


def to_camel(name: str) -> str:
    """The JSON name of a field as protobuf makes it: `enable_64bit_trace_id` → `enable64bitTraceId`."""
    return re.sub(r"_+(.)", lambda match: match[1].upper(), name.rstrip("_"))


class Spec(BaseModel):
    """Base of every document model: strict types, unknown fields refused, null means "not written".

    Field names are snake_case in Python and lowerCamelCase in documents; both are read, as protobuf's JSON does.
    Use `list[...]` and `dict[str, ...]`, `str`, and from `config.fields` Int32/UInt32/Bool/Number/... for numbers.
    """

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        defer_build=True,
        protected_namespaces=(),
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_unset(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and None in value.values():
            return {key: item for key, item in value.items() if item is not None}
        return value


def refuse(message: str, remedy: str = "", at: Path = ()) -> PydanticCustomError:
    """The exception with which validators of Specs refuse a value: what is wrong, what to do, and where.

    `at` is a path below the validated value, in the document's spelling (`("route", 1, "weight")`), for validators
    of whole models. Both texts go to the user as they are.
    """
    return PydanticCustomError("headrace", "{message}", {"message": message, "remedy": remedy, "at": at})


@dataclass(frozen=True, slots=True)
class Finding:
    """One judgement of a kind's `check`: `path` from the document's root (`("spec", "hosts", 0)`)."""

    path: Path
    message: str
    remedy: str = ""
    code: str = SCHEMA_ERROR
    severity: Severity = Severity.ERROR


S = TypeVar("S", bound=Spec)


@dataclass(frozen=True, slots=True)
class Kind(Generic[S]):
    """All that the engine needs to know of one kind of document.

    `body` is the field that `model` describes; empty: the whole document except apiVersion, kind, metadata and status.
    `lower` turns the validated body into a resource (it may not fail: whatever can be wrong is a validator's or
    `check`'s to say). `check` gives further findings; an ERROR among them keeps the document out of force.
    `untranslated` (HR0001) and `without_effect` (HR0002) are patterns of field paths, as in `spec.http[].delegate`:
    `[]` stands for every item of a list, `*` for every key of a map; either gives a warning where the field is set.
    """

    group: str
    versions: tuple[str, ...]
    name: str
    model: type[S]
    lower: Callable[[Metadata, S, Document], object]
    body: str = "spec"
    body_required: bool = True
    namespaced: bool = True
    check: Callable[[S, Document], Iterable[Finding]] | None = None
    untranslated: tuple[str, ...] = ()
    without_effect: tuple[str, ...] = ()

    @property
    def key_kind(self) -> str:
        """The kind as it stands in a ResourceKey."""
        return f"{self.group}/{self.name}" if self.group else self.name


class Validated(NamedTuple):
    """What `validate` says: the resource (None where an error keeps it out of force), its key, and the problems."""

    resource: Any
    key: ResourceKey | None
    problems: tuple[Problem, ...]


def validate(document: Document) -> Validated:
    """Judge one document by its kind's schema and lower it. Never raises for anything that a document says."""
    from headrace.config.kinds import find_kind  # a kind's file imports this module

    kind, problem = find_kind(document)
    if kind is None:
        return Validated(None, None, (problem,) if problem else ())
    try:
        return validate_as(kind, document)
    except Exception as error:  # a fault of ours in one kind must not take the other documents with it
        message = f"Headrace cannot judge this document: {type(error).__name__} in its code for {kind.name}"
        finding = Finding((), message, "Report this as a bug, with the document.", INTERNAL_ERROR)
        return Validated(None, None, (problem_of(document, finding),))


def validate_as(kind: Kind[Any], document: Document) -> Validated:
    """`validate` for a kind that is already known."""
    from headrace.config import messages, metadata

    findings: list[Finding] = []
    meta = metadata.read(document, kind.key_kind, kind.namespaced, findings)
    body = _body(kind, document, findings)
    spec = None
    if body is not None:
        try:
            spec = kind.model.model_validate(body)
        except ValidationError as error:
            prefix: Path = (kind.body,) if kind.body else ()
            findings += messages.findings_of(error, kind.model, document, prefix)
    if spec is not None and kind.check:
        findings += kind.check(spec, document)
    failed = any(finding.severity is Severity.ERROR for finding in findings)
    findings += _declared(document, kind.untranslated, NOT_SUPPORTED, "is not supported yet: it is ignored")
    findings += _declared(document, kind.without_effect, NO_EFFECT, "has no effect in this mesh")
    problems = tuple(sorted(problem_of(document, finding) for finding in findings))
    if failed or meta is None or spec is None:
        return Validated(None, meta.key if meta else None, problems)
    return Validated(kind.lower(meta, spec, document), meta.key, problems)


def problem_of(document: Document, finding: Finding) -> Problem:
    """The Problem for a finding in a document, with the exact line of its field."""
    path, line = document.locate(finding.path)
    return Problem(
        file=document.file,
        line=line,
        code=finding.code,
        severity=finding.severity,
        kind=document.kind,
        namespace=document.namespace,
        name=document.name,
        field=path_text(path),
        message=finding.message,
        remedy=finding.remedy,
    )


def path_text(path: Path) -> str:
    """`("spec", "http", 0, "route")` → `spec.http[0].route`; keys with other characters as `labels["a.b/c"]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _WORD.fullmatch(part):
            text += f".{part}" if text else part
        else:
            text += f'["{part[:253]}"]'
    return text


def parse_path(text: str) -> Path:
    """`spec.http[0].route` → `("spec", "http", 0, "route")`: the reverse of `path_text`."""
    return tuple(int(index) if index else quoted or name for index, quoted, name in _PART.findall(text))


def _body(kind: Kind[Any], document: Document, findings: list[Finding]) -> Mapping[str, Any] | None:
    """The part of the document that the kind's model describes; None (with a finding) where there is none."""
    if not kind.body:
        outside = ("apiVersion", "kind", "metadata", "status")
        return {name: value for name, value in document.data.items() if name not in outside}
    expected = ("apiVersion", "kind", "metadata", "status", kind.body)
    remedy = f"Fields of a {kind.name} stand in {kind.body}."
    findings += [
        Finding((name,), f"unknown field '{name[:80]}'", remedy) for name in document.data if name not in expected
    ]
    body = document.data.get(kind.body)
    if body is None:
        if kind.body_required:
            findings.append(Finding((kind.body,), f"a {kind.name} needs a {kind.body}", f"Add {kind.body}."))
            return None
        return {}
    if not isinstance(body, dict):
        findings.append(Finding((kind.body,), "must be a mapping of fields"))
        return None
    return body


def _declared(document: Document, patterns: Sequence[str], code: str, what: str) -> list[Finding]:
    """A warning for every field of the document that one of the patterns names and that is set to something."""
    return [
        Finding(path, f"'{path_text(path)}' {what}", "", code, Severity.WARNING)
        for pattern in patterns
        for path in _paths(document.data, pattern.replace("[]", ".[]").split("."), ())
    ]


def _paths(value: Any, parts: Sequence[str], path: Path) -> Iterable[Path]:
    if not parts:
        if value not in (None, "", [], {}):
            yield path
        return
    part, rest = parts[0], parts[1:]
    if part == "[]":
        if isinstance(value, list):
            for at, item in enumerate(value):
                yield from _paths(item, rest, (*path, at))
    elif isinstance(value, dict):
        for name in value:
            if part == "*" or same_field(name, part):
                yield from _paths(value[name], rest, (*path, name))
