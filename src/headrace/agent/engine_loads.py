"""What model servers say of their load: of this host's replicas, as scraped here, and of the others, as relayed.

Held by the host; fed by `agent.engine_watch` and `agent.link`, read by both and by `agent.loads_file`. Pure but for the
wake-up of readers; times are seconds of the clock's `monotonic`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

from headrace.floor.cell import LatestValue
from headrace.inference.metrics import EngineMetrics
from headrace.wire import agent_v1_pb2 as wire

VARIABLE = "HEADRACE_ENGINE_LOADS"
"""The environment variable by which an Envoy learns the path of `agent.loads_file`'s file."""
STALE_SECONDS = 5.0
"""What was said longer ago is told to nobody: it would only mislead."""
FIGURES = ("waiting", "running", "kv_used", "kv_tokens", "slots", "most_adapters")
"""What is told in numbers, of all that an engine says."""
_MOST_PROBLEM = 500
_MOST_LOADS = 4096
_MOST_ADDRESS = 64
_MOST_ADAPTERS = 64
_MOST_NAME = 256


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """One replica of this host. `addresses` are its endpoints as proxies know them; `at`: when it said `metrics`, None
    before it said anything; `problem`: why it cannot be asked at present."""

    addresses: tuple[str, ...]
    metrics: EngineMetrics = field(default_factory=EngineMetrics)
    at: float | None = None
    problem: str = ""

    def failed(self, problem: str) -> ReplicaLoad:
        """The same figures, which grow old, and why there are no newer ones."""
        return replace(self, problem=problem)

    def figures(self) -> dict[str, float]:
        """What it says, by name."""
        said = {name: getattr(self.metrics, name) for name in FIGURES if name != "most_adapters"}
        said["most_adapters"] = self.metrics.lora.most if self.metrics.lora is not None else None
        return {name: float(value) for name, value in said.items() if value is not None}

    def adapters(self) -> tuple[str, ...]:
        """Adapters that it runs now, as far as they are told."""
        return told_adapters(self.metrics.lora.running if self.metrics.lora is not None else ())


@dataclass(frozen=True, slots=True)
class EndpointLoad:
    """What is known of one endpoint (`address:port`): figures by name, when they were said, and adapters that run."""

    address: str
    figures: Mapping[str, float]
    at: float
    adapters: tuple[str, ...] = ()


class EngineLoads:
    """The newest word of every replica. Belongs to one event loop."""

    def __init__(self) -> None:
        self.revision: LatestValue[int] = LatestValue(0)
        """Counts words of anybody."""
        self.own_revision: LatestValue[int] = LatestValue(0)
        """Counts words of this host's own replicas."""
        self._own: dict[str, ReplicaLoad] = {}
        self._others: tuple[EndpointLoad, ...] = ()

    def own(self, replica: str) -> ReplicaLoad | None:
        """What is known of one of this host's replicas."""
        return self._own.get(replica)

    def set(self, replica: str, load: ReplicaLoad) -> None:
        """A replica of this host spoke, or failed to."""
        self._own[replica] = load
        self._spoke()

    def forget(self, replica: str) -> None:
        """A replica is gone, or is no model server any more."""
        if self._own.pop(replica, None) is not None:
            self._spoke()

    def hear(self, message: wire.MeshEngineLoads, now: float) -> None:
        """What the control plane knows of other hosts' replicas, in place of what it said before."""
        self._others = tuple(
            EndpointLoad(address, figures, now - load.age_ms / 1000, told_adapters(load.adapters))
            for load in message.loads[:_MOST_LOADS]
            if (figures := _figures(load))
            for address in load.addresses
            if _is_address(address)
        )
        self._changed()

    def message(self, host: str, now: float) -> wire.HostEngineLoads:
        """What the control plane is told, of replicas that spoke or failed to."""
        loads = []
        for replica, load in sorted(self._own.items()):
            told = wire.EngineLoad(replica_id=replica, problem=load.problem[:_MOST_PROBLEM])
            if load.at is not None:
                told.age_ms = int(max(0.0, now - load.at) * 1000)
                for name, value in load.figures().items():
                    setattr(told, name, value)
                told.adapters.extend(load.adapters())
            if load.at is not None or load.problem:
                loads.append(told)
        return wire.HostEngineLoads(host=host, loads=loads)

    def words(self) -> tuple[object, ...]:
        """What this host's replicas say, without when: equal as long as there is no news."""
        return tuple((name, load.figures(), load.adapters(), load.problem) for name, load in sorted(self._own.items()))

    def endpoints(self, now: float) -> list[EndpointLoad]:
        """Every endpoint of which something fresh is known, by address; this host's own word on its own."""
        found = {load.address: load for load in self._others}
        found.update((load.address, load) for load in self._own_endpoints())
        fresh = (load for load in found.values() if now - load.at <= STALE_SECONDS)
        return sorted(fresh, key=lambda load: load.address)[:_MOST_LOADS]

    def _own_endpoints(self) -> Iterator[EndpointLoad]:
        for load in self._own.values():
            figures = load.figures()
            if load.at is not None and figures:
                for address in load.addresses:
                    yield EndpointLoad(address, figures, load.at, load.adapters())

    def _spoke(self) -> None:
        self.own_revision.set(self.own_revision.value + 1)
        self._changed()

    def _changed(self) -> None:
        self.revision.set(self.revision.value + 1)


def _figures(load: wire.EngineLoad) -> dict[str, float]:
    said = {name: getattr(load, name) for name in FIGURES if load.HasField(name)}  # type: ignore[arg-type]
    return {name: value for name, value in said.items() if math.isfinite(value) and value >= 0}


def told_adapters(names: Iterable[str]) -> tuple[str, ...]:
    """Those of them that are passed on: so many, and none that is longer than any model's name."""
    return tuple(name for name in islice(names, _MOST_ADAPTERS) if 0 < len(name.encode()) <= _MOST_NAME)


def _is_address(text: str) -> bool:
    """Nothing that could break the file's lines apart."""
    return 0 < len(text) <= _MOST_ADDRESS and text.isascii() and text.isprintable() and " " not in text
