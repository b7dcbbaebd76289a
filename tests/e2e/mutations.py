"""Seeded ways to spoil a document, each of which must be noticed, for the tests of hostile input."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import yaml

Data = dict[str, Any]
Mutation = Callable[[Data, random.Random], str | bytes]
Place = tuple[str | int, ...]


def _written(data: Data) -> str:
    return yaml.safe_dump(data, sort_keys=False)


def _places(value: Any, at: Place = ()) -> Iterator[Place]:
    """The places of all scalars."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _places(item, (*at, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _places(item, (*at, index))
    else:
        yield at


def _put(data: Data, place: Place, value: Any) -> Data:
    spoiled = copy.deepcopy(data)
    target: Any = spoiled
    for part in place[:-1]:
        target = target[part]
    target[place[-1]] = value
    return spoiled


def _scalar(data: Data, source: random.Random) -> Place:
    return source.choice(list(_places(data["spec"], ("spec",))))


def unknown_field(data: Data, source: random.Random) -> str:
    """A field that does not exist, beside those of the spec."""
    spec = data["spec"] | {f"x{source.randrange(10**6)}": 1}
    return _written(data | {"spec": spec})


def wrong_type(data: Data, source: random.Random) -> str:
    """A mapping where a plain value is expected."""
    return _written(_put(data, _scalar(data, source), {"surprise": [1, {"deep": None}]}))


def no_spec_at_all(data: Data, source: random.Random) -> str:
    """A spec that is no mapping."""
    return _written(data | {"spec": source.choice(["text", 17, [1, 2], True, 1e300])})


def no_name(data: Data, source: random.Random) -> str:
    """A document without a name."""
    return _written(data | {"metadata": {}})


def bad_name(data: Data, source: random.Random) -> str:
    """A name that Kubernetes refuses."""
    name = source.choice(["../../etc/passwd", "Upper Case", "x" * 300, "a\u202eb", "-", "a/b"])
    return _written(data | {"metadata": {"name": name}})


def unknown_version(data: Data, source: random.Random) -> str:
    """A version that nobody serves."""
    group = data["apiVersion"].rpartition("/")[0]
    return _written(data | {"apiVersion": f"{group}/v{source.randrange(7, 99)}" if group else "v7"})


def half_a_document(data: Data, source: random.Random) -> str:
    """YAML that breaks off."""
    return _written(data) + source.choice(
        ["  x: {a: [1, 2", '  "open', "\t- tab: 1\n", "  &a *a : b\n", "}{][\n", "  - : :\n -"]
    )


def a_key_twice(data: Data, source: random.Random) -> str:
    """The same key again."""
    return _written(data) + "spec: {}\n"


def binary(data: Data, source: random.Random) -> bytes:
    """Bytes that are no text."""
    text = bytearray(_written(data).encode())
    for _ in range(8):
        text.insert(source.randrange(len(text)), source.choice([0xFF, 0xFE, 0xC0, 0x80]))
    return bytes(text)


def control_characters(data: Data, source: random.Random) -> str:
    """Characters that YAML forbids."""
    text = _written(data)
    at = source.randrange(len(text))
    return text[:at] + source.choice(["\0", "\x07", "\x1b[2J", "\x7f"]) + text[at:]


def deep(data: Data, source: random.Random) -> str:
    """Nesting without an end in sight."""
    depth = source.randrange(500, 20_000)
    return json.dumps(data | {"spec": "@"}).replace('"@"', "[" * depth + "]" * depth)


def code(data: Data, source: random.Random) -> str:
    """A tag that makes a careless loader run code."""
    return _written(data) + "status: !!python/object/apply:os.system ['touch hacked']\n"


MUTATIONS: tuple[Mutation, ...] = (
    unknown_field,
    wrong_type,
    no_spec_at_all,
    no_name,
    bad_name,
    unknown_version,
    half_a_document,
    a_key_twice,
    binary,
    control_characters,
    deep,
    code,
)


def mutated(documents: list[Data], count: int, seed: int) -> list[tuple[str, bytes]]:
    """`count` spoiled documents with the name of what was done to each; the same for the same seed."""
    source = random.Random(seed)
    found = []
    for number in range(count):
        mutation = MUTATIONS[number % len(MUTATIONS)]
        data = copy.deepcopy(source.choice(documents))
        data["metadata"] = data["metadata"] | {"name": f"spoiled-{number}"}
        text = mutation(data, source)
        found.append((mutation.__name__, text if isinstance(text, bytes) else text.encode()))
    return found
