"""Discovery responses put together from bytes that exist already.

A resource is wrapped once into its `Resource` entry, a transition from one set to the next is computed once, and a
response body is joined once, however many proxies need them: a session adds only its nonce. Used by `Session`; one
`Assembler` is shared by all sessions of a `Hub`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from headrace.envoy.resources import SECRET, Resources, XdsResource

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# Keys of envoy.service.discovery.v3.DeltaDiscoveryResponse and Resource, and google.protobuf.Any: (number << 3) | 2.
_RESPONSE_RESOURCES = b"\x12"
_RESPONSE_TYPE_URL = b"\x22"
_RESPONSE_NONCE = b"\x2a"
_RESPONSE_REMOVED = b"\x32"
_RESOURCE_VERSION = b"\x0a"
_RESOURCE_RESOURCE = b"\x12"
_RESOURCE_NAME = b"\x1a"
_ANY_TYPE_URL = b"\x0a"
_ANY_VALUE = b"\x12"

_ENTRIES_BYTES = 16 << 20
_BODIES_BYTES = 16 << 20
_DIFFERENCES_NAMES = 200_000
_SUBSCRIPTIONS_NAMES = 200_000
_VERSIONS = 256
_SMALL = 16
"""Mappings of so few resources are not worth a place in a cache; a proxy's secrets are among them."""


class Recent(Generic[K, V]):
    """A cache of at most twice `limit` units of cost that keeps what was used lately: two generations, the older of
    which is dropped when the younger is full."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._young: dict[K, tuple[V, int]] = {}
        self._old: dict[K, tuple[V, int]] = {}
        self._cost = 0

    def get(self, key: K) -> V | None:
        found = self._young.get(key)
        if found is not None:
            return found[0]
        found = self._old.get(key)
        if found is None:
            return None
        self.put(key, *found)
        return found[0]

    def put(self, key: K, value: V, cost: int) -> None:
        if self._cost + cost > self._limit and self._young:
            self._old, self._young, self._cost = self._young, {}, 0
        self._young[key] = (value, cost)
        self._cost += cost


@dataclass(frozen=True, slots=True, eq=False)
class Difference:
    """What takes a client from one mapping of resources to another: names, sorted."""

    changed: tuple[str, ...]
    removed: tuple[str, ...]


_SAME = Difference((), ())


@dataclass(frozen=True, slots=True)
class Response:
    """A DeltaDiscoveryResponse to one client: a body that others share, and a nonce. Joined when it is written, so that
    hundreds of large responses do not exist at once."""

    body: bytes
    nonce: str

    @property
    def size(self) -> int:
        """Length in bytes, but for the nonce."""
        return len(self.body)

    def message(self) -> bytes:
        """The serialised DeltaDiscoveryResponse."""
        return self.body + _field(_RESPONSE_NONCE, self.nonce.encode())


class Assembler:
    """Shared caches of wrapped resources, differences, bodies and subscriptions. No locks: one event loop."""

    def __init__(self) -> None:
        # Keys by id(): each value holds the object itself, so that its id stays taken.
        self._entries: Recent[int, tuple[XdsResource, bytes]] = Recent(_ENTRIES_BYTES)
        self._differences: Recent[tuple[int, int], tuple[Resources, Resources, Difference]] = Recent(_DIFFERENCES_NAMES)
        self._bodies: Recent[tuple[str, tuple[XdsResource, ...], tuple[str, ...]], bytes] = Recent(_BODIES_BYTES)
        self._subscriptions: Recent[frozenset[str], frozenset[str]] = Recent(_SUBSCRIPTIONS_NAMES)
        self._versions: Recent[int, tuple[Resources, str]] = Recent(_VERSIONS)
        self.wrapped = 0
        """How many resources were wrapped (tests count it)."""
        self.compared = 0
        """How many differences were computed (tests count it)."""

    def difference(self, held: Resources, target: Resources) -> Difference:
        """Names whose version in `target` is new or another, and names that `target` lacks."""
        if held is target:
            return _SAME
        if len(held) + len(target) <= _SMALL:
            return _compare(held, target)
        key = (id(held), id(target))
        found = self._differences.get(key)
        if found is None:
            self.compared += 1
            found = (held, target, _compare(held, target))
            self._differences.put(key, found, len(held) + len(target) + 1)
        return found[2]

    def body(self, type_url: str, changed: tuple[XdsResource, ...], removed: tuple[str, ...]) -> bytes:
        """A serialised DeltaDiscoveryResponse without nonce. Those with secrets are not kept: nobody shares them, and a
        key must go with its owner."""
        if type_url == SECRET:
            return _join(type_url, [_wrap(resource) for resource in changed], removed)
        key = (type_url, changed, removed)
        found = self._bodies.get(key)
        if found is None:
            found = _join(type_url, [self._entry(resource) for resource in changed], removed)
            self._bodies.put(key, found, len(found) + 1)
        return found

    def subscription(self, names: frozenset[str]) -> frozenset[str]:
        """The one object that stands for this set of names, so that equal proxies share it."""
        found = self._subscriptions.get(names)
        if found is None:
            found = names
            self._subscriptions.put(names, names, len(names) + 1)
        return found

    def version(self, resources: Resources) -> str:
        """The version of a whole mapping: a hash over names and versions, 12 hex digits; empty for an empty one."""
        if len(resources) <= _SMALL:
            return _digest(resources)
        found = self._versions.get(id(resources))
        if found is None:
            found = (resources, _digest(resources))
            self._versions.put(id(resources), found, 1)
        return found[1]

    def _entry(self, resource: XdsResource) -> bytes:
        found = self._entries.get(id(resource))
        if found is None:
            self.wrapped += 1
            found = (resource, _wrap(resource))
            self._entries.put(id(resource), found, len(found[1]))
        return found[1]


def _compare(held: Resources, target: Resources) -> Difference:
    changed = []
    for name, resource in target.items():
        before = held.get(name)
        if before is not resource and (before is None or before.version != resource.version):
            changed.append(name)
    return Difference(tuple(sorted(changed)), tuple(sorted(name for name in held if name not in target)))


def _digest(resources: Resources) -> str:
    if not resources:
        return ""
    digest = hashlib.blake2b(digest_size=6)
    for name in sorted(resources):
        digest.update(f"{name}\0{resources[name].version}\0".encode())
    return digest.hexdigest()


def _join(type_url: str, entries: list[bytes], removed: tuple[str, ...]) -> bytes:
    gone = [_field(_RESPONSE_REMOVED, name.encode()) for name in removed]
    return b"".join((_field(_RESPONSE_TYPE_URL, type_url.encode()), *entries, *gone))


def _wrap(resource: XdsResource) -> bytes:
    """The resource as an entry of the field `resources`."""
    any_message = _field(_ANY_TYPE_URL, resource.type_url.encode()) + _field(_ANY_VALUE, resource.body)
    return _field(
        _RESPONSE_RESOURCES,
        _field(_RESOURCE_VERSION, resource.version.encode())
        + _field(_RESOURCE_RESOURCE, any_message)
        + _field(_RESOURCE_NAME, resource.name.encode()),
    )


def _field(key: bytes, value: bytes) -> bytes:
    """A length-delimited protobuf field."""
    length = len(value)
    if length < 0x80:
        return b"".join((key, length.to_bytes(1, "little"), value))
    digits = bytearray()
    while length >= 0x80:
        digits.append(length & 0x7F | 0x80)
        length >>= 7
    digits.append(length)
    return b"".join((key, digits, value))
