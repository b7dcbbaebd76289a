"""Envoy's messages by their full names, and JSON as Envoy reads it: for documents that hold Envoy configuration.

Called by `config.kinds` (is this piece right, and which bytes is it) and `envoy.translate` (what stands in an Any). The
generated classes of a package are imported when the first of its types is named; nothing is imported for a mesh whose
documents name none.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any, cast

from google.protobuf import any_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from headrace.wire.envoy_packages import NEWER, NOT_BUILT

_TYPE = "@type"
_TYPED_STRUCT = "type.googleapis.com/xds.type.v3.TypedStruct"
_DEPTH = 100
"""Most messages inside each other (protobuf's own limit)."""
_MOST_NAMES = 4096
"""Most names that are remembered: documents can name what is not there without end."""
_ROOTS = frozenset({"google", "opentelemetry", "cel", "envoy", "xds", "udpa"})
"""Roots of the packages that hold generated classes."""
_RETIRED = re.compile(r"envoy\..*\bv[12](alpha\d*)?\.")
"""Versions of Envoy's API that it does not speak any more; generated classes are still there."""
_DURATION = "google.protobuf.Duration"
_ANY = "google.protobuf.Any"
_FREE = frozenset(f"google.protobuf.{name}" for name in ("Struct", "Value", "ListValue"))
"""Messages that hold any JSON: what stands in it is for somebody else to read, `@type`s too."""
_SECONDS = re.compile(r"-?\d+(\.\d+)?s")
_GO_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_GO_DURATION = re.compile(rf"[-+]?({_GO_PART.pattern})+")
_UNITS = {
    "ns": Decimal("1e-9"),
    "us": Decimal("1e-6"),
    "µs": Decimal("1e-6"),
    "ms": Decimal("1e-3"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
}
_MORE_WORDS = re.compile(r"\.? Available Fields.*")


class UnknownTypeError(ValueError):
    """A `@type` that names no message of any Envoy."""

    def __init__(self, url: str) -> None:
        super().__init__(f"there is no message {url!r}")
        self.url = url


class NotBuiltError(UnknownTypeError):
    """A `@type` of an extension that the Envoy which Headrace runs was built without."""


class WrongMessageError(ValueError):
    """JSON that is not such a message; the text says what is wrong with it."""


@lru_cache(_MOST_NAMES)
def message_class(name: str) -> type[Message] | None:
    """The class of a message by its full name (`envoy.config.cluster.v3.Cluster`); None where there is none."""
    package = _package(name)
    parts = package.split(".")
    if parts[0] not in _ROOTS or _RETIRED.match(name) or not all(part.isidentifier() for part in parts):
        return None
    _import_package(package)
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(name)
    except KeyError:
        return None
    return message_factory.GetMessageClass(descriptor)


def _package(name: str) -> str:
    """The package of a message: what stands before the first name in capitals."""
    parts = name.split(".")
    while parts and not parts[-1][:1].islower():
        parts.pop()
    return ".".join(parts)


@lru_cache(_MOST_NAMES)
def _import_package(package: str) -> None:
    """Import the generated modules of a package, which registers their messages."""
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return
    for item in pkgutil.iter_modules(found.submodule_search_locations or () if found else ()):
        if item.name.endswith("_pb2"):
            importlib.import_module(f"{package}.{item.name}")


def unpacked(holder: any_pb2.Any) -> Message | None:
    """The message that an Any holds; None where its type is unknown or its bytes are not that message."""
    kind = message_class(holder.type_url.rpartition("/")[2])
    if kind is None:
        return None
    try:
        return kind.FromString(holder.value)
    except DecodeError:
        return None


def message_from_json(name: str, value: Mapping[str, Any]) -> Message:
    """JSON data as the message `name`; fields that it does not have are left out, as Istio leaves them out.

    Equal data gives equal bytes, whatever the order of its keys. UnknownTypeError where a `@type` is unknown,
    NotBuiltError where this Envoy lacks it, WrongMessageError where a field has a wrong value.
    """
    message = _parsed(name, value, ignore_unknown=True)
    settle_anys(message)
    return message


def unknown_fields(name: str, value: Mapping[str, Any]) -> str:
    """What the message `name` does not have of these fields, in words; empty where it has them all."""
    try:
        _parsed(name, value, ignore_unknown=False)
    except WrongMessageError as error:
        return str(error)
    return ""


def _parsed(name: str, value: Mapping[str, Any], *, ignore_unknown: bool) -> Message:
    kind = message_class(name)
    if kind is None:
        raise UnknownTypeError(name)
    message = kind()
    data = _readable(value, cast("Descriptor", kind.DESCRIPTOR), 0)
    try:
        json_format.ParseDict(data, message, ignore_unknown_fields=ignore_unknown, max_recursion_depth=_DEPTH)
    except (json_format.ParseError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise WrongMessageError(_MORE_WORDS.sub("", " ".join(str(error).split()))) from error
    return message


def _readable(value: Any, kind: Descriptor | None, depth: int) -> Any:
    """The data of a message of this kind (None: of no known one) as protobuf's JSON has it: every `@type` is looked up,
    types without a class here become JSON that Envoy reads itself, durations may be written as in Go (`500ms`)."""
    if depth > _DEPTH:
        raise WrongMessageError(f"more than {_DEPTH} levels of fields")
    if isinstance(value, list | tuple):
        return [_readable(item, kind, depth + 1) for item in value]
    if kind is not None and kind.full_name == _DURATION and isinstance(value, str):
        return _duration(value)
    if not isinstance(value, Mapping) or _is_free(kind):
        return value
    url = value.get(_TYPE)
    if isinstance(url, str):
        name = url.rpartition("/")[2]
        package = _package(name)
        if package in NEWER:
            message_class(_TYPED_STRUCT.rpartition("/")[2])  # imports it
            fields = {key: item for key, item in value.items() if key != _TYPE}
            return {_TYPE: _TYPED_STRUCT, "type_url": url, "value": fields}
        if package in NOT_BUILT:
            raise NotBuiltError(url)
        held = message_class(name)
        if held is None:
            raise UnknownTypeError(url)
        kind = cast("Descriptor", held.DESCRIPTOR)
    elif kind is not None and kind.full_name == _ANY:
        raise WrongMessageError(f"a value of any type needs {_TYPE!r}")
    if _is_free(kind):
        return value
    for key, item in value.items():
        _check_enum(kind, key, item)
    return {key: _readable(item, _kind_of(kind, key), depth + 1) for key, item in value.items()}


def _is_free(kind: Descriptor | None) -> bool:
    return kind is not None and kind.full_name in _FREE


def _check_enum(kind: Descriptor | None, name: str, value: Any) -> None:
    """Refuse a name that is none of an enum's: protobuf would leave it out without a word."""
    field = _field(kind, name)
    if field is None or field.enum_type is None:
        return
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str) and item not in field.enum_type.values_by_name:
            raise WrongMessageError(f"{name} has no value {item[:80]!r}")


def _field(kind: Descriptor | None, name: str) -> FieldDescriptor | None:
    """The field of this name, in either spelling."""
    if kind is None:
        return None
    return kind.fields_by_name.get(name) or kind.fields_by_camelcase_name.get(name)


def _kind_of(kind: Descriptor | None, name: str) -> Descriptor | None:
    """The message that stands in the field `name` (in either spelling) of a message, in its list or in its map."""
    if kind is None:
        return None
    if kind.GetOptions().map_entry:
        return kind.fields_by_name["value"].message_type
    field = _field(kind, name)
    return field.message_type if field is not None else None


def _duration(text: str) -> str:
    """A duration as Go writes it in seconds; other texts as they are."""
    if _SECONDS.fullmatch(text) or not _GO_DURATION.fullmatch(text):
        return text
    seconds = sum((Decimal(number) * _UNITS[unit] for number, unit in _GO_PART.findall(text)), Decimal(0))
    return f"{'-' if text.startswith('-') else ''}{seconds.normalize():f}s"


def settle_anys(message: Message) -> None:
    """Serialise what Anys hold in the one order of map entries, so that equal messages have equal bytes."""
    for child in _children(message):
        if isinstance(child, any_pb2.Any):
            held = unpacked(child)
            if held is not None:
                settle_anys(held)
                child.value = held.SerializeToString(deterministic=True)
        else:
            settle_anys(child)


def _children(message: Message) -> Iterator[Message]:
    """The messages in the set fields of the message, one by one."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is not None:
                yield from value.values()
        elif field.is_repeated:
            yield from value
        else:
            yield value


def filters_without_config(message: Message) -> list[str]:
    """Names of what should say what it is by `typed_config` and does not, outermost first (Istio's
    recurseMissingTypedConfig: only fields that hold one message are looked into)."""
    found = []
    fields = message.DESCRIPTOR.fields_by_name
    if "typed_config" in fields and not message.HasField("typed_config"):
        by_discovery = "config_discovery" in fields and message.HasField("config_discovery")
        found += [] if by_discovery else [str(getattr(message, "name", ""))]
    for field, value in message.ListFields():
        if field.message_type is not None and not field.is_repeated:
            found += filters_without_config(value)
    return found
