"""One resource type of one stream: what the client wants, what it has, and what is under way. Used by `Session` only.

What the client has is kept as a reference to a published mapping plus the few names where it differs, so that
hundreds of equal clients share one mapping.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from headrace.envoy.resources import CLUSTER, LISTENER, Resources
from headrace.envoy.xds.assembly import Assembler
from headrace.envoy.xds.status import Nack, TypeStatus

NOTHING: Resources = MappingProxyType({})
UNTOLD = ""
"""Version of a name the client waits to hear about: whatever is known of it must be told."""
_STALE = "-"
"""Version of a name that the client has although it should not: no content hash equals it."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What a client lacks. `gone`: it has them and should not; `missing`: it asked, and they do not exist."""

    changed: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changed or self.gone or self.missing)


_EMPTY = Selection()


@dataclass(slots=True)
class Flight:
    """A response that was sent and not answered. `covers`: the generation in force once it is answered; `whole`: the
    client then has all of `target`."""

    nonce: str
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    target: Resources
    sent_at: float
    covers: int
    whole: bool


class Watch:
    """State of one type. Times are monotonic seconds unless said otherwise."""

    def __init__(self, type_url: str, assembler: Assembler) -> None:
        self.type_url = type_url
        self._assembler = assembler
        self.wildcard = False
        self.names: frozenset[str] = frozenset()
        self.greeting = False
        """The client waits for a first response, even an empty one."""
        self.flights: dict[str, Flight] = {}
        self.retries: deque[dict[str, str]] = deque()
        """Parts of refused responses (name → version) to be sent again on their own, to find the bad resource."""
        self.settled = -1
        """Everything up to this generation has been answered."""
        self.push_ms: float | None = None
        self._held: Resources = NOTHING
        self._odd: dict[str, str] = {}
        self._acknowledged: Resources = NOTHING
        self._refused: dict[str, tuple[str, Nack]] = {}
        self._doubtful: Nack | None = None

    # what the client wants

    def begin(self, names: frozenset[str], versions: Mapping[str, str]) -> None:
        """The first request of the type on a stream. Without names it asks for everything, where the type allows that
        (xDS protocol: clusters and listeners). `versions`: what the client has from an earlier stream."""
        self.wildcard = "*" in names or (not names and self.type_url in (CLUSTER, LISTENER))
        self.names = self._assembler.subscription(names - {"*"})
        self.greeting = self.wildcard and not versions
        self._odd = {name: version or _STALE for name, version in versions.items() if self.wants(name)}
        for name in self.names:
            self._odd.setdefault(name, UNTOLD)

    def subscribe(self, names: frozenset[str]) -> None:
        """More names. One that is subscribed already is told again: the client forgot it."""
        if "*" in names and not self.wildcard:
            self.wildcard = self.greeting = True
        names -= {"*"}
        if names:
            self.names = self._assembler.subscription(self.names | names)
            self._odd.update(dict.fromkeys(names, UNTOLD))

    def unsubscribe(self, names: frozenset[str]) -> None:
        """Fewer names. What a wildcard still covers is told again, as the client cannot know that it does."""
        if "*" in names:
            self.wildcard = False
        names -= {"*"}
        if names & self.names:
            self.names = self._assembler.subscription(self.names - names)
        for name in names:
            if self.wildcard:
                self._odd[name] = UNTOLD
            else:
                self._odd.pop(name, None)
        if not self.wildcard:
            self._odd = {name: version for name, version in self._odd.items() if name in self.names}

    def wants(self, name: str) -> bool:
        return self.wildcard or name in self.names

    # what must be sent

    def selection(self, target: Resources) -> Selection:
        """What takes the client from what it has to `target`."""
        if self._held is target and not self._odd:
            return _EMPTY
        difference = self._assembler.difference(self._held, target)
        changed, gone = difference.changed, difference.removed
        if not self.wildcard:
            changed = tuple(name for name in changed if name in self.names)
            gone = tuple(name for name in gone if name in self.names)
        if not self._odd:
            return Selection(changed, gone)
        more_changed, more_gone, missing = [], [], []
        for name, version in self._odd.items():
            resource = target.get(name)
            if resource is not None:
                if resource.version != version:
                    more_changed.append(name)
            elif version == UNTOLD:
                missing.append(name)
            else:
                more_gone.append(name)
        return Selection(
            _merged((name for name in changed if name not in self._odd), more_changed),
            _merged((name for name in gone if name not in self._odd), more_gone),
            tuple(sorted(missing)),
        )

    def force(self, names: frozenset[str]) -> None:
        """Tell these names again if they are subscribed, whatever the client has."""
        for name in names:
            if self.wants(name):
                self._odd[name] = UNTOLD

    def rest(self, target: Resources) -> None:
        """Nothing is left to send: the client has `target`."""
        self._held = target
        self._odd = {}
        if not self.flights and not self.retries and not self.refused(target):
            self._acknowledged = target

    def refused(self, target: Resources) -> bool:
        """The client refused a resource as it stands in `target`."""
        return any(
            (resource := target.get(name)) is not None and resource.version == version
            for name, (version, _) in self._refused.items()
        )

    def launch(self, flight: Flight, left: tuple[str, ...]) -> None:
        """A response was handed out; `left` are the gone names that it does not remove yet."""
        self.flights[flight.nonce] = flight
        self.greeting = False
        if flight.target is not self._held or self._odd:
            odd = {name: self._version(name) for name in left}
            self._held, self._odd = flight.target, odd

    def _version(self, name: str) -> str:
        """What the client has under a name that it should not have."""
        held = self._held.get(name)
        return self._odd.get(name) or (held.version if held is not None else _STALE)

    def next_retry(self, target: Resources) -> tuple[str, ...]:
        """The names of the next part of a refused response that are still as they were; empty if there is none."""
        while self.retries:
            part = self.retries.popleft()
            names = tuple(
                name
                for name, version in part.items()
                if self.wants(name) and (resource := target.get(name)) is not None and resource.version == version
            )
            if names:
                return names
        return ()

    def waiting(self, now: float, patience: float) -> bool:
        """A response sent less than `patience` ago has no answer yet."""
        return any(now - flight.sent_at < patience for flight in self.flights.values())

    # what the client answered

    def accept(self, flight: Flight, now: float) -> None:
        """The client acknowledged the response."""
        self._land(flight, now)
        if self._refused:
            for name in (*flight.changed, *flight.removed):
                self._refused.pop(name, None)
        self._clear_doubt()
        if flight.whole and not self.retries and not self.refused(flight.target):
            self._acknowledged = flight.target

    def refuse(self, flight: Flight, message: str, now: float, when: float) -> None:
        """The client refused the response. Several resources are tried again in halves, one not until it changes."""
        self._land(flight, now)
        nack = Nack(message, when, flight.changed or flight.removed)
        versions = {name: flight.target[name].version for name in flight.changed}
        if len(versions) == 1:
            for name, version in versions.items():
                self._refused[name] = (version, nack)
            self._clear_doubt()
            return
        self._doubtful = nack
        half = len(flight.changed) // 2
        for names in (flight.changed[half:], flight.changed[:half]):
            if names:
                self.retries.appendleft({name: versions[name] for name in names})

    def _land(self, flight: Flight, now: float) -> None:
        del self.flights[flight.nonce]
        self.push_ms = (now - flight.sent_at) * 1000
        self.settled = max(self.settled, flight.covers)

    def _clear_doubt(self) -> None:
        if not self.retries and not self.flights:
            self._doubtful = None

    def status(self, target: Resources, generation: int, in_sync: bool) -> TypeStatus:
        """What people see of this type; `target` is what is published for it."""
        refused = {nack.resources: nack for name, (_, nack) in self._refused.items() if name in target}
        nacks = [*refused.values(), *([self._doubtful] if self._doubtful else [])]
        return TypeStatus(
            type_url=self.type_url,
            wildcard=self.wildcard,
            subscribed=len(target) if self.wildcard else len(self.names),
            published=self._assembler.version(target),
            sent=self._assembler.version(self._held),
            acknowledged=self._assembler.version(self._acknowledged),
            generation=generation if in_sync else self.settled,
            pending=len(self.flights),
            in_sync=in_sync,
            push_ms=self.push_ms,
            nacks=tuple(sorted(nacks, key=lambda nack: nack.when)),
        )


def _merged(first: Iterable[str], second: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted((*first, *second)))
