"""Work done once: translated parts kept by the very objects that they were made of.

Every step of translation goes through one `Memo`. A key holds interned objects (compared by identity) and plain
values, and nothing is built from anything that is not in its key: what is undeclared cannot leak into a shared
resource. Called by `translate`.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar

from headrace.envoy.resources import XdsResource

T = TypeVar("T")


class Message(Protocol):
    """The part of a protobuf message that is used here."""

    def SerializeToString(self, deterministic: bool = ...) -> bytes: ...


class Memo:
    """Results by (kind, key), the least recently used ones dropped above `limit`; and slots of one result each.

    `built` counts by kind how often something was really built (for tests and measurements).
    """

    def __init__(self, limit: int = 50_000, slots: int = 200_000) -> None:
        self._limit = limit
        self._slot_limit = slots
        self._parts: OrderedDict[tuple[str, Hashable], object] = OrderedDict()
        self._slots: OrderedDict[tuple[str, Hashable], tuple[Hashable, object]] = OrderedDict()
        self.built: Counter[str] = Counter()

    def __len__(self) -> int:
        """How many results are held."""
        return len(self._parts) + len(self._slots)

    def get(self, kind: str, key: Hashable, build: Callable[..., T], *given: Any) -> T:
        """The result for `key`, made now by `build(*given)` if it is new. For what has no name to put it under."""
        place = (kind, key)
        parts = self._parts
        if place in parts:
            parts.move_to_end(place)
            return parts[place]  # type: ignore[return-value]
        value = build(*given)
        self.built[kind] += 1
        parts[place] = value
        if len(parts) > self._limit:
            parts.popitem(last=False)
        return value

    def latest(self, kind: str, slot: Hashable, key: Hashable, build: Callable[..., T], *given: Any) -> T:
        """The result for `key` in `slot`, made by `build(*given)`; the slot forgets the one for another key. For what
        has a name and of which only the newest is worth its memory, so that a life of changes does not fill it."""
        place = (kind, slot)
        held = self._slots.get(place)
        if held is not None and held[0] == key:
            self._slots.move_to_end(place)
            return held[1]  # type: ignore[return-value]
        value = build(*given)
        self.built[kind] += 1
        self._slots[place] = (key, value)
        self._slots.move_to_end(place)
        if len(self._slots) > self._slot_limit:
            self._slots.popitem(last=False)
        return value


class Same:
    """A key that is equal only to itself: for containers that are replaced and never changed."""

    __slots__ = ("held",)

    def __init__(self, held: object) -> None:
        self.held = held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.held is other.held

    def __hash__(self) -> int:
        return id(self.held)


def resource_of(type_url: str, name: str, message: Message) -> XdsResource:
    """The message as a resource; serialised in the deterministic order of map entries."""
    return XdsResource.of(type_url, name, message.SerializeToString(deterministic=True))
