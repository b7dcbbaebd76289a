"""pydantic's errors become findings: what is wrong in plain words, at the field's place in the document.

Called by `config.schema.validate_as`. No word of pydantic's reaches a user.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from headrace.config.documents import Document, Path
from headrace.config.schema import Finding

MAX_FINDINGS = 100
"""Most schema findings of one document; a document with more is wrong as a whole."""

_PLAIN = {
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
    "mapping_type": "must be a mapping",
    "model_type": "must be a mapping of fields",
    "model_attributes_type": "must be a mapping of fields",
    "dict_attributes_type": "must be a mapping of fields",
    "none_required": "must not be written",
}


def findings_of(error: ValidationError, model: type[BaseModel], document: Document, prefix: Path) -> list[Finding]:
    """One finding for each of pydantic's errors, in its order, at most MAX_FINDINGS."""
    found = []
    for detail in error.errors(include_url=False, include_input=False)[:MAX_FINDINGS]:
        location: Path = tuple(detail["loc"])
        message, remedy, below = _words(detail, model, location)
        found.append(Finding((*prefix, *location, *below), message, remedy))
    return found


def _words(detail: ErrorDetails, model: type[BaseModel], location: Path) -> tuple[str, str, Path]:
    """(message, remedy, path below the location) of one error."""
    kind = detail["type"]
    context: Mapping[str, Any] = detail.get("ctx") or {}
    if kind == "headrace":
        return str(context["message"]), str(context["remedy"]), tuple(context["at"])
    if kind == "missing":
        return f"'{location[-1]}' is required", f"Add {location[-1]}.", ()
    if kind == "extra_forbidden":
        unknown = str(location[-1])
        return f"unknown field '{unknown[:80]}'", _suggestion(unknown, _known_fields(model, location[:-1])), ()
    if kind in _PLAIN:
        return _PLAIN[kind], "", ()
    if kind == "too_short":
        return "needs at least one item" if context.get("min_length") == 1 else "has too few items", "", ()
    if kind == "too_long":
        return f"has more than {context.get('max_length')} items", "", ()
    if kind in ("literal_error", "enum"):
        return "is not one of its values", f"Use one of {context.get('expected', '')}.", ()
    text = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return text.replace("Input should", "should"), "", ()


def _suggestion(unknown: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(unknown, names, 1, 0.6)
    if near:
        return f"Did you mean '{near[0]}'?"
    return f"Fields here are {', '.join(names)}." if 0 < len(names) <= 12 else "Remove it."


def _known_fields(model: type[BaseModel], location: Path) -> set[str]:
    """The field names (as documents write them) of the models that may stand at a location."""
    here: list[Any] = [model]
    for part in location:
        here = [inner for annotation in here for inner in _below(annotation, part)]
    names: set[str] = set()
    for annotation in here:
        for found in _models(annotation):
            names |= {info.alias or name for name, info in found.model_fields.items()}
    return names


def _below(annotation: Any, part: str | int) -> list[Any]:
    """The annotations of what `part` names inside something annotated so."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [info.annotation for name, info in annotation.model_fields.items() if part in (name, info.alias)]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _below(arguments[0], part)
    if origin in (typing.Union, types.UnionType):
        return [inner for argument in arguments for inner in _below(argument, part)]
    if origin in (list, tuple) and isinstance(part, int):
        return [arguments[0]]
    if origin is dict:
        return [arguments[1]]
    return []


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [model for argument in typing.get_args(annotation) for model in _models(argument)]
    if typing.get_origin(annotation) is typing.Annotated:
        return _models(typing.get_args(annotation)[0])
    return []
