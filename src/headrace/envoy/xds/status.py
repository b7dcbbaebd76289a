"""What is known about the discovery of one proxy, for `headrace proxy status` and metrics. Made by `Session`, `Hub`."""

from __future__ import annotations

from dataclasses import dataclass, field

from headrace.envoy.resources import CLUSTER, LISTENER


@dataclass(frozen=True, slots=True)
class Nack:
    """A refusal: Envoy's own words, when (seconds since the epoch), and the resources of the refused response.

    A response of several resources is sent again in halves, so `resources` narrows down to the bad one.
    """

    message: str
    when: float
    resources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TypeStatus:
    """One resource type of one stream. Versions are hashes of the whole published set of that type, empty where
    nothing was sent or acknowledged yet; `pending` counts responses without an answer."""

    type_url: str
    wildcard: bool
    subscribed: int
    published: str
    sent: str
    acknowledged: str
    generation: int
    pending: int
    in_sync: bool
    push_ms: float | None
    nacks: tuple[Nack, ...] = ()


@dataclass(frozen=True, slots=True)
class ProxyStatus:
    """One connected proxy. `connected_since`: when its newest stream began, in seconds since the epoch. Envoy opens one
    aggregated stream, but one for each secret; `types` holds those of all streams."""

    proxy: str
    connected_since: float
    streams: int
    types: tuple[TypeStatus, ...]

    @property
    def in_sync(self) -> bool:
        """Everything that was published has been acknowledged. Envoy asks for listeners once its clusters are warm: a
        stream that asked for clusters only is still starting."""
        asked = {kind.type_url for kind in self.types}
        starting = not asked or (CLUSTER in asked and LISTENER not in asked)
        return not starting and all(kind.in_sync for kind in self.types)

    @property
    def nacks(self) -> tuple[Nack, ...]:
        return tuple(nack for kind in self.types for nack in kind.nacks)

    @property
    def push_ms(self) -> float | None:
        """How long the slowest of the last pushes took from sending to its acknowledgement."""
        return max((kind.push_ms for kind in self.types if kind.push_ms is not None), default=None)


@dataclass(slots=True)
class Counters:
    """Plain totals since the start of the process, for metrics."""

    streams_opened: int = 0
    streams_closed: int = 0
    streams_refused: int = 0
    publishes: int = 0
    requests: int = 0
    request_bytes: int = 0
    acks: int = 0
    nacks: int = 0
    responses: int = 0
    response_bytes: int = 0
    resources_sent: int = 0
    removals_sent: int = 0
    push_seconds: float = 0.0
    """Sum over all acknowledged responses of the time from sending to acknowledgement."""
    by_type: dict[str, int] = field(default_factory=dict)
    """Responses by type URL."""

    def count_response(self, type_url: str, changed: int, removed: int, size: int) -> None:
        """One response of `size` bytes was handed out."""
        self.responses += 1
        self.response_bytes += size
        self.resources_sent += changed
        self.removals_sent += removed
        self.by_type[type_url] = self.by_type.get(type_url, 0) + 1
