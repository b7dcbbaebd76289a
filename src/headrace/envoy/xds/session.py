"""One aggregated delta discovery stream as a state machine: requests and resource sets in, responses out, no I/O.

Driven by `Hub` (and by the agent's secret discovery through it). The rules are those of the xDS protocol, "Incremental
xDS" and "Eventual consistency considerations":

- additions go out as clusters, endpoints, listeners, routes; listeners and routes wait until the clusters before them
  are acknowledged, which Envoy does when they are warm; clusters are removed only after listeners and routes;
- one response a type is under way at a time, so a slow client gets the newest state next, not every state between;
- a cluster that was sent is followed by its endpoints, even unchanged ones: Envoy warms the changed cluster until they
  come and does not ask. The endpoints of a cluster have the cluster's name;
- whatever waits for an answer waits `patience` at most: a cluster that never warms holds nothing up for long.
"""

from __future__ import annotations

from dataclasses import dataclass

from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import DecodeError

from headrace.envoy.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE, TYPES, Resources, ResourceSet
from headrace.envoy.xds.assembly import Assembler, Response
from headrace.envoy.xds.status import Counters, TypeStatus
from headrace.envoy.xds.watch import NOTHING, Flight, Watch
from headrace.floor.clock import Clock

PATIENCE = 2.0
"""Seconds that dependent updates wait for an answer."""
ARRIVAL = 0.2
"""Seconds after a stream's first request in which nothing is removed below listeners: a client that reconnects asks for
one type after the other, and what it still uses is known only when all have come."""
MAX_REQUEST_BYTES = 8 << 20
MAX_NAMES = 100_000
"""Names that one stream may subscribe to in one type."""
_MAX_TYPES = 32
_MAX_FLIGHTS = 16
_MAX_NACK = 4096


class ProtocolError(Exception):
    """The client sent what no delta discovery client may send; its stream must end."""


@dataclass(frozen=True, slots=True)
class _Push:
    """What one response changes and removes, and which removals it leaves for later."""

    changed: tuple[str, ...]
    removed: tuple[str, ...]
    left: tuple[str, ...]


class Session:
    """One stream. `receive` and `update` change the state, `outgoing` tells what to send now, `wake_at` when to ask
    again if nothing else happens."""

    def __init__(
        self, assembler: Assembler, clock: Clock, *, patience: float = PATIENCE, counters: Counters | None = None
    ) -> None:
        self._assembler = assembler
        self._clock = clock
        self._patience = patience
        self._counters = counters if counters is not None else Counters()
        self._target: ResourceSet | None = None
        self._generation = 0
        self._watches: dict[str, Watch] = {}
        self._owed: set[str] = set()  # clusters that were sent and whose endpoints must follow
        self._nonce = 0
        self._blocked: set[str] = set()
        self._began: float | None = None

    def receive(self, message: bytes) -> None:
        """Take a serialised DeltaDiscoveryRequest; ProtocolError where it is none."""
        if len(message) > MAX_REQUEST_BYTES:
            raise ProtocolError(f"a request of {len(message)} bytes; at most {MAX_REQUEST_BYTES} are read")
        try:
            request = discovery_pb2.DeltaDiscoveryRequest.FromString(message)
        except DecodeError as error:
            raise ProtocolError("not a DeltaDiscoveryRequest") from error
        self._counters.requests += 1
        self._counters.request_bytes += len(message)
        watch = self._watches.get(request.type_url)
        if watch is None:
            self._begin(request)
            return
        if request.response_nonce:
            self._answer(watch, request)
        if request.resource_names_subscribe:
            watch.subscribe(frozenset(request.resource_names_subscribe))
            _check_names(watch)
        if request.resource_names_unsubscribe:
            watch.unsubscribe(frozenset(request.resource_names_unsubscribe))

    def update(self, resources: ResourceSet, generation: int) -> bool:
        """The newest set, published as `generation` (which only grows); whether it is another one than before."""
        if resources is self._target:
            return False
        self._target = resources
        self._generation = generation
        return True

    def outgoing(self) -> list[Response]:
        """The responses to send now, in order."""
        if self._target is None:
            return []
        out: list[Response] = []
        self._blocked = set()
        for watch in self._in_order():
            self._advance(watch, self._target.of_type(watch.type_url), out)
        self._remove_last(self._target, out)
        for watch in self._watches.values():
            if watch.type_url not in self._blocked and not watch.flights and not watch.retries:
                watch.settled = self._generation
        return out

    def wake_at(self) -> float | None:
        """The monotonic time at which something that waits now may be sent without an answer; None: nothing waits."""
        if not self._blocked or self._began is None:
            return None
        now = self._clock.monotonic()
        ends = [self._began + ARRIVAL]
        for watch in self._watches.values():
            ends += [flight.sent_at + self._patience for flight in watch.flights.values()]
        return min((end for end in ends if end > now), default=None)

    def settled(self, generation: int) -> bool:
        """The client has answered (or did not need) all that was published up to `generation`. A refusal is an answer:
        what was refused is not sent again. Before its first request nothing is known of a client; one for which nothing
        was ever published has nothing to answer."""
        return self._target is None or (
            bool(self._watches)
            and all(watch.settled >= min(generation, self._generation) for watch in self._watches.values())
        )

    def status(self) -> tuple[TypeStatus, ...]:
        """What is known of every type that the client asked for."""
        found = []
        for watch in self._in_order():
            target = self._target.of_type(watch.type_url) if self._target is not None else NOTHING
            in_sync = (
                self._target is not None
                and not watch.flights
                and not watch.retries
                and not watch.selection(target)
                and not watch.refused(target)
            )
            found.append(watch.status(target, self._generation, in_sync))
        return tuple(found)

    def _begin(self, request: discovery_pb2.DeltaDiscoveryRequest) -> None:
        if not request.type_url or len(self._watches) >= _MAX_TYPES:
            raise ProtocolError(f"no type URL, or more than {_MAX_TYPES} of them")
        if self._began is None:
            self._began = self._clock.monotonic()
        watch = Watch(request.type_url, self._assembler)
        watch.begin(frozenset(request.resource_names_subscribe), request.initial_resource_versions)
        _check_names(watch)
        self._watches[request.type_url] = watch

    def _answer(self, watch: Watch, request: discovery_pb2.DeltaDiscoveryRequest) -> None:
        flight = watch.flights.get(request.response_nonce)
        if flight is None:
            return
        now = self._clock.monotonic()
        if request.HasField("error_detail"):
            self._counters.nacks += 1
            message = (
                " ".join(request.error_detail.message[:_MAX_NACK].split()) or f"status code {request.error_detail.code}"
            )
            watch.refuse(flight, message, now, self._clock.now())
        else:
            self._counters.acks += 1
            self._counters.push_seconds += now - flight.sent_at
            watch.accept(flight, now)

    def _in_order(self) -> list[Watch]:
        known = [self._watches[type_url] for type_url in TYPES if type_url in self._watches]
        return known + [watch for type_url, watch in sorted(self._watches.items()) if type_url not in TYPES]

    def _advance(self, watch: Watch, target: Resources, out: list[Response]) -> None:
        """Send what is new of one type; removals too, except of the types that are removed last."""
        urgent = watch.type_url == ENDPOINT and self._repay(watch)
        selection = watch.selection(target)
        later = selection.gone if watch.type_url in _REMOVED_LAST else ()
        removed = selection.missing if later else tuple(sorted((*selection.gone, *selection.missing)))
        if selection.changed or removed or watch.greeting:
            if self._held_back(watch, urgent):
                self._blocked.add(watch.type_url)
            else:
                out.append(self._send(watch, target, _Push(selection.changed, removed, later)))
            return
        if not later:
            watch.rest(target)
        if watch.retries and not self._held_back(watch, urgent) and (names := watch.next_retry(target)):
            out.append(self._send(watch, target, _Push(names, (), later)))

    def _repay(self, watch: Watch) -> bool:
        """Have the endpoints of clusters that were sent told again; whether there are any."""
        due = self._owed & watch.names
        self._owed = set()
        watch.force(frozenset(due))
        return bool(due)

    def _held_back(self, watch: Watch, urgent: bool) -> bool:
        if len(watch.flights) >= _MAX_FLIGHTS:
            return True
        if watch.type_url in (LISTENER, ROUTE) and self._busy(CLUSTER):
            return True
        return not urgent and watch.waiting(self._clock.monotonic(), self._patience)

    def _busy(self, type_url: str) -> bool:
        """Something of the type is under way or waits to be."""
        watch = self._watches.get(type_url)
        if watch is None:
            return False
        return type_url in self._blocked or watch.waiting(self._clock.monotonic(), self._patience)

    def _arriving(self) -> bool:
        """The client may not have asked for everything yet."""
        return self._began is None or self._clock.monotonic() - self._began < ARRIVAL

    def _remove_last(self, target: ResourceSet, out: list[Response]) -> None:
        """Removals whose dependents must have moved first. Where a client refused to move, nothing is removed below
        what it still uses."""
        for type_url, dependents in _REMOVED_LAST.items():
            watch = self._watches.get(type_url)
            if watch is None or type_url in self._blocked:
                continue
            resources = target.of_type(type_url)
            gone = watch.selection(resources).gone
            others = [self._watches[name] for name in dependents if name in self._watches]
            if not gone or any(other.refused(target.of_type(other.type_url)) for other in others):
                continue
            if self._arriving() or any(self._busy(other.type_url) or other.retries for other in [watch, *others]):
                self._blocked.add(type_url)
            else:
                out.append(self._send(watch, resources, _Push((), gone, ())))

    def _send(self, watch: Watch, target: Resources, push: _Push) -> Response:
        """The response for one push, noted as under way."""
        self._nonce += 1
        whole = not push.left
        flight = Flight(
            nonce=format(self._nonce, "x"),
            changed=push.changed,
            removed=push.removed,
            target=target,
            sent_at=self._clock.monotonic(),
            covers=self._generation if whole else watch.settled,
            whole=whole,
        )
        watch.launch(flight, push.left)
        if watch.type_url == CLUSTER:
            self._owed.difference_update(push.removed)
            self._owed.update(push.changed)
        changed = tuple(target[name] for name in push.changed)
        body = self._assembler.body(watch.type_url, changed, push.removed)
        self._counters.count_response(watch.type_url, len(push.changed), len(push.removed), len(body))
        return Response(body, flight.nonce)


_REMOVED_LAST = {ROUTE: (LISTENER,), CLUSTER: (LISTENER, ROUTE), ENDPOINT: (CLUSTER, LISTENER, ROUTE)}
"""Types that are removed after everything else → what must have been answered before."""


def _check_names(watch: Watch) -> None:
    if len(watch.names) > MAX_NAMES:
        raise ProtocolError(f"{len(watch.names)} names of {watch.type_url}; at most {MAX_NAMES} are served")
