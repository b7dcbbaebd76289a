"""Every field that a document may have, and what becomes of it: read from the models of `config.kinds` and from what
their lowering does, so that docs/reference/coverage.md cannot say otherwise.

A field "does" something where its kind's lowering reads it. That is tried, not believed: a spec is made in which only
this field is set (without validation, by its type), it is lowered, and every attribute that is read of it is noted.
Documents of the goldens, and of tests/unit/house/coverage/, show those that do something only in company.
"""

from __future__ import annotations

import contextlib
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from headrace.config import metadata
from headrace.config.documents import Document, read_text
from headrace.config.kinds import MODULES, kind_named
from headrace.config.mesh_config import read_mesh_config
from headrace.config.schema import NO_EFFECT, NOT_SUPPORTED, Kind, Spec, validate
from headrace.model.problem import Severity

DOES, NOTHING, UNSUPPORTED, REJECTED, UNPROVEN = "does", "no effect", "not supported", "rejected", "unproven"
COMPANY = Path(__file__).with_name("coverage")
"""Documents that set the fields which do something only in company."""
GOLDENS = Path(__file__).resolve().parents[2] / "goldens"
_BOOKS = "Kubernetes' own books: nothing in a mesh depends on it"
_ONE_FAMILY = "addresses are taken as they are written"
_WHICH = "the field that is written says the same"
_FITS = "the template is the workload; the selector only has to fit it"
_CONTROLLERS = ("DaemonSet", "Deployment", "Job", "ReplicaSet", "StatefulSet")
QUIET: tuple[tuple[str, str], ...] = (
    ("BackendTLSPolicy: spec.validation.subjectAltNames[].type", _WHICH),
    ("ConfigMap: binaryData", "nothing of a mesh is written in it"),
    ("ConfigMap: immutable", _BOOKS),
    ("GatewayClass: spec.description", "for people"),
    *(
        (f"HTTPRoute: spec.rules[].{place}filters[].{name}.path.type", _WHICH)
        for place in ("", "backendRefs[].")
        for name in ("requestRedirect", "urlRewrite")
    ),
    ("Endpoints: subsets[].addresses[]", _BOOKS),
    ("Endpoints: subsets[].notReadyAddresses[]", _BOOKS),
    ("Endpoints: subsets[].ports[].appProtocol", "the Service's port says the protocol"),
    ("EndpointSlice: addressType", _ONE_FAMILY),
    ("EndpointSlice: endpoints[]", _BOOKS),
    ("EndpointSlice: ports[].appProtocol", "the Service's port says the protocol"),
    ("Namespace: spec.finalizers", _BOOKS),
    ("Secret: type", "a Secret is what its keys are"),
    ("Secret: immutable", _BOOKS),
    ("Service: spec.externalTrafficPolicy", "of kube-proxy: sidecars and gateways choose endpoints themselves"),
    ("Service: spec.internalTrafficPolicy", "of kube-proxy: sidecars and gateways choose endpoints themselves"),
    ("Service: spec.ipFamilies", _ONE_FAMILY),
    ("Service: spec.ipFamilyPolicy", _ONE_FAMILY),
    ("Service: spec.allocateLoadBalancerNodePorts", "there are no nodes whose ports could be taken"),
    ("ServiceAccount: secrets[]", _BOOKS),
    ("ServiceAccount: imagePullSecrets[]", _BOOKS),
    ("ServiceAccount: automountServiceAccountToken", _BOOKS),
    ("Workload: spec.ports[].protocol", "TCP, which is all that is carried"),
    ("Workload: spec.readinessProbe.httpGet.scheme", "HTTP, which is all that is probed"),
    ("Workload: spec.livenessProbe.httpGet.scheme", "HTTP, which is all that is probed"),
    ("Workload: spec.startupProbe.httpGet.scheme", "HTTP, which is all that is probed"),
    ("EnvoyFilter: spec.configPatches[].match.waypoint", "there are no waypoint proxies (HR0002 at the context)"),
    *(
        (f"{kind}: {path}.{part}[].name", "containers are known by their ports")
        for kind, path in (
            ("Pod", "spec"),
            ("CronJob", "spec.jobTemplate.spec.template.spec"),
            *((kind, "spec.template.spec") for kind in (*_CONTROLLERS, "ReplicationController")),
        )
        for part in ("containers", "initContainers")
    ),
    ("CronJob: spec.jobTemplate.spec.selector", _FITS),
    *((f"{kind}: spec.selector", _FITS) for kind in (*_CONTROLLERS, "ReplicationController")),
)
"""Fields that are accepted without a word and do nothing: (kind and path, why). Only what cannot mislead."""
_AT_TYPE = "HR0001 at the filter's type: the route is left out"
SAID_BESIDE: tuple[tuple[str, str], ...] = tuple(
    (f"{kind}: spec.rules[].{place}filters[].{name}", _AT_TYPE)
    for kind in ("HTTPRoute", "GRPCRoute")
    for place, names in (
        ("", ("extensionRef", "externalAuth")),
        ("backendRefs[].", ("extensionRef", "externalAuth", "requestMirror", "requestRedirect", "urlRewrite", "cors")),
    )
    for name in names
)
"""Fields that are not supported, where HR0001 is said of the field beside them."""
_NUMBER = re.compile(r"\[\d+]")
_DEEPEST = 12


@dataclass(frozen=True)
class Row:
    """One leaf field: its path as HR0001 and HR0002 write it, and what becomes of it."""

    path: str
    verdict: str
    why: str = ""


@dataclass(frozen=True)
class Leaf:
    """A leaf field: the chain of models and Python names that leads to it."""

    path: str
    chain: tuple[tuple[type[Spec], str], ...]


def kinds() -> Iterator[Kind[Any]]:
    """Every kind of document."""
    for group, name in sorted(MODULES):
        kind = kind_named(group, name)
        assert kind is not None
        yield kind


def leaves(kind: Kind[Any]) -> list[Leaf]:
    """All leaf fields of a kind; a model inside itself is followed once."""
    start = kind.body or ""
    return list(_walk(kind.model, start, ()))


def _walk(model: type[Spec], path: str, chain: tuple[tuple[type[Spec], str], ...]) -> Iterator[Leaf]:
    if sum(1 for other, _ in chain if other is model) > 1 or len(chain) > _DEEPEST:
        return
    for name, field in model.model_fields.items():
        alias = _alias(name, field)
        step = (*chain, (model, name))
        inner, marks = _inside(field.annotation)
        here = f"{path}.{alias}{marks}" if path else f"{alias}{marks}"
        if inner is None:
            yield Leaf(here, step)
        else:
            yield from _walk(inner, here, step)


def _alias(name: str, field: FieldInfo) -> str:
    return field.alias or field.serialization_alias or name


def _parts(annotation: Any) -> list[Any]:
    """The alternatives of an annotation, without None, Annotated and names."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _parts(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [part for item in typing.get_args(annotation) for part in _parts(item)]
    return [] if annotation is type(None) else [annotation]


def _inside(annotation: Any) -> tuple[type[Spec] | None, str]:
    """The model inside a field, with `[]` for lists and `.*` for maps; None for a leaf."""
    for part in _parts(annotation):
        origin, arguments = typing.get_origin(part), typing.get_args(part)
        if origin in (list, tuple) and arguments:
            inner, marks = _inside(arguments[0])
            if inner is not None:
                return inner, "[]" + marks
        elif origin is dict:
            inner, marks = _inside(arguments[1])
            if inner is not None:
                return inner, ".*" + marks
        elif isinstance(part, type) and issubclass(part, BaseModel):
            return part, ""  # type: ignore[return-value]
    return None, ""


def _dummy(annotation: Any, depth: int = 0) -> Any:
    """Some value of a type."""
    for part in _parts(annotation):
        origin, arguments = typing.get_origin(part), typing.get_args(part)
        if origin is typing.Literal:
            return arguments[0]
        if origin in (list, tuple):
            return [_dummy(arguments[0], depth + 1)] if arguments else []
        if origin is dict:
            return {_dummy(arguments[0], depth + 1): _dummy(arguments[1], depth + 1)}
        if isinstance(part, type):
            if issubclass(part, BaseModel):
                return _made(part, {}, depth + 1)
            if issubclass(part, Enum):
                return next(iter(part))
            known: dict[type, Any] = {str: "x", int: 1, float: 1.0, bool: True, bytes: b"x", dict: {"x": "x"}}
            if part in known:
                return known[part]
    return "x"


def _made(model: type[BaseModel], given: dict[str, Any], depth: int = 0) -> Any:
    """A model with what is required and what is given, not validated."""
    values = dict(given)
    for name, field in model.model_fields.items():
        if name not in values and field.is_required() and depth < _DEEPEST:
            values[name] = _dummy(field.annotation, depth)
    return model.model_construct(**values)


def _spec_of(leaf: Leaf) -> tuple[Any, Any]:
    """A spec in which only the leaf (and what is required) is set, and the model that holds it."""
    model, name = leaf.chain[-1]
    holder = made = _made(model, {name: _dummy(model.model_fields[name].annotation)})
    for outer, field in reversed(leaf.chain[:-1]):
        made = _made(outer, {field: _wrapped(outer.model_fields[field].annotation, made)})
    return made, holder


def _wrapped(annotation: Any, inner: Any) -> Any:
    """The inner model as its field holds it: itself, in a list, or in a map."""
    for part in _parts(annotation):
        origin, arguments = typing.get_origin(part), typing.get_args(part)
        if origin in (list, tuple) and arguments and _inside(arguments[0])[0] is not None:
            return [_wrapped(arguments[0], inner)]
        if origin is dict and _inside(arguments[1])[0] is not None:
            return {_dummy(arguments[0]): _wrapped(arguments[1], inner)}
    return inner


@contextlib.contextmanager
def _noted(reads: set[tuple[int, str]]) -> Iterator[None]:
    """Note every field that is read of any Spec, by the identity of its holder."""
    fields: dict[type, frozenset[str]] = {}

    def reading(self: Any, name: str) -> Any:
        own = type(self)
        if own not in fields:
            fields[own] = frozenset(own.model_fields)
        if name in fields[own]:
            reads.add((id(self), name))
        elif name in ("model_dump", "model_dump_json", "__iter__"):
            reads.update((id(self), field) for field in fields[own])
        return object.__getattribute__(self, name)

    Spec.__getattribute__ = reading  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        del Spec.__getattribute__


def _document(kind: Kind[Any]) -> Document:
    version = f"{kind.group}/{kind.versions[0]}" if kind.group else kind.versions[0]
    body = f"{kind.body}: {{}}\n" if kind.body else ""
    text = f"apiVersion: {version}\nkind: {kind.name}\nmetadata: {{name: x, namespace: x}}\n{body}"
    return read_text(text, "x.yaml", "x").documents[0]


def is_read(kind: Kind[Any], leaf: Leaf) -> bool:
    """Whether the kind's lowering reads the field where it is set."""
    spec, holder = _spec_of(leaf)
    document = _document(kind)
    meta = metadata.read(document, kind.key_kind, kind.namespaced, [])
    assert meta is not None
    reads: set[tuple[int, str]] = set()
    with _noted(reads), contextlib.suppress(Exception):  # values that no validator saw may be impossible
        kind.lower(meta, spec, document)
    return (id(holder), leaf.chain[-1][1]) in reads


Fields = set[tuple[type, str]]
"""Models with the Python name of a field: a model that stands in several places is lowered the same way in each."""


def read_in(kind: Kind[Any], document: Document) -> Fields:
    """The fields that an accepted document sets and its lowering reads; none of a bad one."""
    try:
        spec = kind.model.model_validate(document.data[kind.body] if kind.body else _bare(document))
    except (ValidationError, KeyError):
        return set()
    meta = metadata.read(document, kind.key_kind, kind.namespaced, [])
    reads: set[tuple[int, str]] = set()
    with _noted(reads):
        kind.lower(meta, spec, document)  # type: ignore[arg-type]
    return {(type(holder), name) for holder, name in _set_fields(spec) if (id(holder), name) in reads}


def _bare(document: Document) -> dict[str, Any]:
    outside = ("apiVersion", "kind", "metadata", "status")
    return {name: value for name, value in document.data.items() if name not in outside}


def _set_fields(spec: Any) -> Iterator[tuple[Any, str]]:
    """Every field that is written in a spec: its holder and name."""
    for name in spec.model_fields_set:
        yield spec, name
        for item in _models_in(getattr(spec, name)):
            yield from _set_fields(item)


def _models_in(value: Any) -> Iterator[Any]:
    if isinstance(value, BaseModel):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _models_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _models_in(item)


@dataclass(frozen=True)
class Samples:
    """What real documents show: fields that lowering reads, by kind; and what is said of fields, by kind and path."""

    read: dict[tuple[str, str], Fields]
    said: dict[tuple[str, str], tuple[str, str]]


def samples() -> Samples:
    """What the documents of the goldens and of COMPANY show."""
    read: dict[tuple[str, str], Fields] = {}
    said: dict[tuple[str, str], tuple[str, str]] = {}
    paths = [*sorted(GOLDENS.glob("*/*.yaml")), *sorted(COMPANY.glob("*.yaml"))]
    for path in paths:
        if path.name == "case.yaml":
            continue
        found = read_mesh_config(path, "x") if path.name == "mesh.yaml" else read_text(path.read_text(), path.name, "x")
        for document in found.documents:
            kind = kind_named(document.group, document.kind)
            if kind is not None:
                read.setdefault((kind.group, kind.name), set()).update(read_in(kind, document))
                said.update(_judged(kind, document, errors=path.parent == COMPANY))
    return Samples(read, said)


def _judged(kind: Kind[Any], document: Document, *, errors: bool) -> dict[tuple[str, str], tuple[str, str]]:
    """What validation says of the document's fields; of what it refuses only where `errors` are of the field itself."""
    verdicts = {NO_EFFECT: NOTHING, NOT_SUPPORTED: UNSUPPORTED}
    return {
        (kind.key_kind, _NUMBER.sub("[]", problem.field).removesuffix("[]")): (
            verdicts.get(problem.code, REJECTED),
            problem.message,
        )
        for problem in validate(document).problems
        if problem.code in verdicts or (errors and problem.severity is Severity.ERROR)
    }


def said_of(kind: Kind[Any], leaf: Leaf) -> tuple[str, str]:
    """What the kind's check says of the field as such: a verdict and why ('' : nothing)."""
    if kind.check is None:
        return "", ""
    spec, _ = _spec_of(leaf)
    wanted = leaf.path.replace("[]", "").replace(".*", "").split(".")
    found = []
    with contextlib.suppress(Exception):
        for finding in kind.check(spec, _document(kind)):
            names = [part for part in finding.path if isinstance(part, str) and part != "x"]
            if names == wanted:
                found.append(finding)
    for finding in found:
        if finding.code == NO_EFFECT:
            return NOTHING, finding.message
        if finding.code == NOT_SUPPORTED:
            return UNSUPPORTED, finding.message
    errors = [finding for finding in found if finding.severity is Severity.ERROR]
    return (REJECTED, errors[0].message) if errors else ("", "")


def is_named(patterns: tuple[str, ...], path: str) -> bool:
    """Whether one of the patterns names the field, or something that it stands in."""
    bare = path.removesuffix("[]")
    return any(path == item or bare == item or path.startswith((f"{item}.", f"{item}[")) for item in patterns)


def rows(kind: Kind[Any], known: Samples) -> list[Row]:
    """Every leaf field of a kind with its verdict."""
    read = known.read.get((kind.group, kind.name), set())
    return [_row(kind, leaf, read, known.said) for leaf in leaves(kind)]


def _row(kind: Kind[Any], leaf: Leaf, read: Fields, said: dict[tuple[str, str], tuple[str, str]]) -> Row:
    path = leaf.path
    if is_named(kind.untranslated, path):
        return Row(path, UNSUPPORTED, "HR0001 where it is set")
    if is_named(kind.without_effect, path):
        return Row(path, NOTHING, "HR0002 where it is set")
    beside = _said_in(SAID_BESIDE, kind, path)
    if beside:
        return Row(path, UNSUPPORTED, beside)
    if leaf.chain[-1] in read or is_read(kind, leaf):
        return Row(path, DOES)
    parts = path.split(".")
    for end in range(len(parts), 1, -1):
        verdict, why = said.get((kind.key_kind, ".".join(parts[:end]).removesuffix("[]")), ("", ""))
        if verdict:
            return Row(path, verdict, why)
    quiet = _said_in(QUIET, kind, path)
    verdict, why = (NOTHING, quiet) if quiet else said_of(kind, leaf)
    return Row(path, verdict or UNPROVEN, why)


def _said_in(known: tuple[tuple[str, str], ...], kind: Kind[Any], path: str) -> str:
    return next((words for item, words in known if is_named((item,), f"{kind.name}: {path}")), "")
