"""YAML text becomes values with lines, as Kubernetes reads YAML (YAML to JSON), under bounds.

Called by `config.documents` only. No message shows a value, which may be a secret. Works on libyaml's events instead
of its node tree: PyYAML's composer recurses in C and dies of deep nesting, and the tree costs most of the time.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from yaml.cyaml import CParser  # type: ignore[attr-defined]

MAX_DEPTH = 64
"""Deepest nesting of a document."""
MAX_NODES = 100_000
"""Most values that aliases may add to one document."""

MAX_VALUES = 400_000
"""Most values that one document may write out."""
MAX_DOCUMENTS = 20_000
"""Most documents in one text."""

_Path = tuple[str | int, ...]

_TAG = "tag:yaml.org,2002:"
_CONSTANTS: dict[str, bool | None] = {"": None, "~": None}
for _words, _meaning in (
    (("null",), None),
    (("true", "yes", "on"), True),
    (("false", "no", "off"), False),
):
    for _word in _words:
        _CONSTANTS |= {_word: _meaning, _word.capitalize(): _meaning, _word.upper(): _meaning}
_INTEGER = re.compile(r"[-+]?(0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_SEPARATOR = re.compile(r"(?m)^---(?=\s|$)")


@dataclass(frozen=True, slots=True)
class Parsed:
    """One document: plain values (keys are always text), and the 1-based line of every path in it."""

    data: Any
    lines: dict[_Path, int]
    line: int


@dataclass(frozen=True, slots=True)
class Broken:
    """A document that cannot be read, with the line of the fault."""

    line: int
    message: str
    remedy: str


class _Refused(Exception):
    def __init__(self, line: int, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.fault = Broken(line, message, remedy)


@dataclass(slots=True)
class _Node:
    """A value and its line: a scalar, a list of nodes, or a dict of key to (line of the key, node)."""

    line: int
    value: Any
    size: int = 0


def parse(text: str) -> list[Parsed | Broken]:
    """The documents of a text in order. Where one cannot be read, each part between `---` lines is read by itself, so
    that a broken document does not lose the others."""
    try:
        return list(_stream(text, 0))
    except _Refused as error:
        parts = _parts(text)
        if len(parts) == 1 or len(parts) > MAX_DOCUMENTS:
            return [error.fault]
    found: list[Parsed | Broken] = []
    for offset, part in parts:
        try:
            found += _stream(part, offset)
        except _Refused as error:
            found.append(error.fault)
    return found


def _parts(text: str) -> list[tuple[int, str]]:
    """(line offset, text) of the parts between lines that begin with `---`."""
    starts = [0, *(match.start() for match in _SEPARATOR.finditer(text)), len(text)]
    parts = []
    offset = 0
    for start, end in itertools.pairwise(starts):
        part = text[start:end]
        if part.strip():
            parts.append((offset, part))
        offset += part.count("\n")
    return parts


def _stream(text: str, offset: int) -> Iterator[Parsed]:
    """Every document of a YAML stream; _Refused at the first that cannot be read (going on in a stream that nests
    deeply would cost libyaml quadratic time)."""
    parser = CParser(text)

    def take() -> Any:
        try:
            return parser.get_event()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = (mark.line if mark else 0) + 1 + offset
            what = ": ".join(part for part in (error.context, error.problem) if part)
            raise _Refused(line, f"is not valid YAML: {what}", "Check indentation, quotes and colons.") from None
        except (yaml.YAMLError, UnicodeError) as error:
            reason = getattr(error, "reason", "") or "a character that YAML does not allow"
            raise _Refused(offset + 1, f"is not valid YAML: {reason}", "Save it as plain UTF-8 text.") from None

    count = 0
    while (event := take()) is not None:
        if not isinstance(event, yaml.DocumentStartEvent):
            continue
        count += 1
        if count > MAX_DOCUMENTS:
            line = event.start_mark.line + 1 if event.start_mark else 0
            raise _Refused(line, f"has more than {MAX_DOCUMENTS} documents", "Split it into several files.")
        root = _Builder(take, offset).build()
        lines: dict[_Path, int] = {}
        data = _flatten(root, (), lines)
        yield Parsed(data, lines, min(lines.values(), default=root.line))


class _Builder:
    """Builds the tree of one document from events, with bounded depth and bounded growth by aliases."""

    def __init__(self, take: Callable[[], Any], offset: int) -> None:
        self._take = take
        self._offset = offset
        self._anchors: dict[str, _Node] = {}
        self._grown = 0
        self._values = 0

    def build(self) -> _Node:
        return self._node(self._take(), 0)

    def _node(self, event: Any, depth: int) -> _Node:
        line = event.start_mark.line + 1 + self._offset
        kind = type(event)
        self._values += 1
        if self._values > MAX_VALUES:
            raise _Refused(line, f"has more than {MAX_VALUES} values", "Split it into several documents.")
        if kind is yaml.ScalarEvent:
            node = _Node(line, _scalar(event, line))
        elif kind is yaml.AliasEvent:
            return self._alias(event, line)
        elif depth >= MAX_DEPTH:
            raise _Refused(line, f"is nested more than {MAX_DEPTH} levels deep", "No kind needs that: flatten it.")
        elif kind is yaml.SequenceStartEvent:
            _check_tag(event, line, "seq")
            node = _Node(line, self._sequence(depth))
        else:
            _check_tag(event, line, "map")
            node = _Node(line, self._mapping(depth))
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _sequence(self, depth: int) -> list[_Node]:
        items = []
        while type(event := self._take()) is not yaml.SequenceEndEvent:
            items.append(self._node(event, depth + 1))
        return items

    def _mapping(self, depth: int) -> dict[str, tuple[int, _Node]]:
        fields: dict[str, tuple[int, _Node]] = {}
        merged: list[_Node] = []
        while type(event := self._take()) is not yaml.MappingEndEvent:
            line = event.start_mark.line + 1 + self._offset
            if type(event) is not yaml.ScalarEvent:
                raise _Refused(line, "a field name must be plain text", "Quote it; render templates first.")
            name = event.value
            if event.anchor:
                self._anchors[event.anchor] = _Node(line, name)
            value = self._node(self._take(), depth + 1)
            if name == "<<" and event.implicit[0]:
                merged += _mergeable(value)
            elif name in fields:
                first = fields[name][0]
                raise _Refused(line, f"field '{name[:80]}' is written twice, first in line {first}", "Keep one.")
            else:
                fields[name] = (line, value)
        for node in merged:
            for name, entry in node.value.items():
                fields.setdefault(name, entry)
        return fields

    def _alias(self, event: Any, line: int) -> _Node:
        node = self._anchors.get(event.anchor)
        if node is None:
            raise _Refused(
                line, "has an alias ('*...') that stands for nothing above it", "Quote the value if it is text."
            )
        self._grown += _size(node)
        if self._grown > MAX_NODES:
            raise _Refused(line, f"grows by more than {MAX_NODES} values through aliases", "Write the values out.")
        return node


def _size(node: _Node) -> int:
    """Values in a finished node, aliases expanded. Nodes are finished inside out, so each is counted once."""
    if not node.size:
        inner: Iterable[_Node] = ()
        if isinstance(node.value, list):
            inner = node.value
        elif isinstance(node.value, dict):
            inner = [entry[1] for entry in node.value.values()]
        node.size = 1 + sum(_size(item) for item in inner)
    return node.size


def _mergeable(node: _Node) -> list[_Node]:
    """The mappings that a merge key (`<<`) brings."""
    nodes = node.value if isinstance(node.value, list) else [node]
    if not all(isinstance(item.value, dict) for item in nodes):
        raise _Refused(node.line, "'<<' needs a mapping or a list of mappings")
    return list(nodes)


def _flatten(node: _Node, path: _Path, lines: dict[_Path, int]) -> Any:
    """Plain values of a tree; the line of every path goes into `lines`."""
    value = node.value
    if isinstance(value, dict):
        data = {}
        for name, (line, inner) in value.items():
            below = (*path, name)
            lines[below] = line
            data[name] = _flatten(inner, below, lines)
        return data
    if isinstance(value, list):
        items = []
        for at, inner in enumerate(value):
            below = (*path, at)
            lines[below] = inner.line
            items.append(_flatten(inner, below, lines))
        return items
    return value


def _check_tag(event: Any, line: int, expected: str) -> None:
    if event.tag and event.tag not in ("!", _TAG + expected):
        raise _Refused(
            line, "has a YAML tag ('!...') that documents may not use", "Remove the tag, or quote the value."
        )


def _scalar(event: Any, line: int) -> Any:
    tag = event.tag
    if not tag or tag == "!":
        return _plain(event.value, line) if event.implicit[0] and not tag else event.value
    if tag == _TAG + "str":
        return event.value
    value = _plain(event.value, line)
    kinds: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "null": (type(None),)}
    expected = kinds.get(tag.removeprefix(_TAG))
    if expected is None:
        _check_tag(event, line, "str")
    elif not isinstance(value, expected) or (isinstance(value, bool) and tag != _TAG + "bool"):
        raise _Refused(line, "has a value that does not fit its YAML tag", "Remove the tag.")
    return value


def _plain(text: str, line: int) -> Any:
    """The value of an unquoted scalar: null, boolean, number or text. Dates and 12:30 stay text."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] not in "0123456789+-." or len(text) > 400:
        return text
    if _INTEGER.fullmatch(text):
        return _integer(text, line)
    if _FLOAT.fullmatch(text):
        value = float(text.replace("_", ""))
        if not math.isfinite(value):
            raise _Refused(line, "has a number that is too large", "Quote it if it is meant as text.")
        return value
    if _SPECIAL.fullmatch(text):
        raise _Refused(line, "has an infinite or undefined number", "Quote it if it is meant as text.")
    return text


def _integer(text: str, line: int) -> int:
    digits = text.replace("_", "").lstrip("+")
    sign, digits = (-1, digits[1:]) if digits.startswith("-") else (1, digits)
    try:
        value = int(digits, 8) if re.fullmatch(r"0[0-7]+", digits) else int(digits, 0)
    except ValueError:
        raise _Refused(line, "has digits that are no number", "Quote the value if it is text.") from None
    if value >= 1 << 64:
        raise _Refused(line, "has a number that is too large", "Quote it if it is meant as text.")
    return sign * value
