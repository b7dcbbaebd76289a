"""What model servers say of their load, of all hosts: relayed between the hosts' agents, and shown to people.

Fed and read by the agent API (`agents`), shown by `mesh`. Figures only: nothing here ever leads to a translation. A
host speaks for the replicas that it reports and for no others. No I/O; times are seconds of one monotonic clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from headrace.app.control_plane.assignments import PlannedReplica
from headrace.floor.cell import LatestValue
from headrace.wire import agent_v1_pb2 as wire

STALE_SECONDS = 5.0
"""What was said longer ago is not relayed: it would only mislead."""
_MOST_LOADS = 4096
_MOST_PROBLEM = 500
_MOST_ADAPTERS, _MOST_NAME = 64, 256
_FIGURES = (
    ("waiting", 1),
    ("running", 1),
    ("kv_used", 3),
    ("kv_tokens", 0),
    ("slots", 0),
    ("most_adapters", 0),
)
"""What is told in numbers, with the digits that people see."""


class Hosts(Protocol):
    """What this needs of `hosts.HostBook`."""

    def host_of(self, replica: str) -> str | None: ...

    def address_of(self, replica: str) -> str: ...

    def known(self, replica: str) -> PlannedReplica | None: ...


@dataclass(frozen=True, slots=True)
class _Said:
    load: wire.EngineLoad
    at: float


class EngineLoadBook:
    """The newest load of every replica, by host."""

    def __init__(self, hosts: Hosts, now: Callable[[], float]) -> None:
        self.revision: LatestValue[int] = LatestValue(0)
        """Counts messages of hosts."""
        self._hosts = hosts
        self._now = now
        self._said: dict[str, dict[str, _Said]] = {}

    def hear(self, message: wire.HostEngineLoads) -> None:
        """Take over a host's whole state."""
        now = self._now()
        self._said[message.host] = {
            load.replica_id: _Said(load, now - load.age_ms / 1000)
            for load in message.loads[:_MOST_LOADS]
            if self._hosts.host_of(load.replica_id) == message.host
        }
        self.revision.set(self.revision.value + 1)

    def forget(self, host: str) -> None:
        """The host's agent is gone."""
        if self._said.pop(host, None) is not None:
            self.revision.set(self.revision.value + 1)

    def for_host(self, host: str) -> wire.MeshEngineLoads:
        """What a host's agent is told: the fresh figures of all other hosts, with the addresses of their endpoints."""
        now = self._now()
        found = []
        for said in self._of_others(host):
            addresses = self._addresses(said.load.replica_id)
            if addresses and now - said.at <= STALE_SECONDS:
                load = wire.EngineLoad(addresses=addresses, age_ms=max(0, int((now - said.at) * 1000)))
                load.adapters.extend(said.load.adapters[:_MOST_ADAPTERS])
                for field in ("replica_id", *(name for name, _ in _FIGURES)):
                    if field == "replica_id" or said.load.HasField(field):  # type: ignore[arg-type]
                        setattr(load, field, getattr(said.load, field))
                found.append(load)
        return wire.MeshEngineLoads(loads=sorted(found, key=lambda load: load.replica_id)[:_MOST_LOADS])

    def _of_others(self, host: str) -> Iterator[_Said]:
        for name, said in self._said.items():
            if name != host:
                yield from said.values()

    def _addresses(self, replica: str) -> list[str]:
        plan, address = self._hosts.known(replica), self._hosts.address_of(replica)
        if plan is None or not address:
            return []
        host = f"[{address}]" if ":" in address else address
        return [f"{host}:{port.number}" for port in plan.ports]

    def rows(self) -> Mapping[str, dict[str, Any]]:
        """For people, by replica: what was said, seconds since then, and why it cannot be asked at present."""
        now = self._now()
        return {name: _row(said, now) for loads in self._said.values() for name, said in loads.items()}


def _row(said: _Said, now: float) -> dict[str, Any]:
    load = said.load
    row: dict[str, Any] = {}
    for field, digits in _FIGURES:
        row[field] = _figure(getattr(load, field), digits) if load.HasField(field) else None  # type: ignore[arg-type]
    known = any(value is not None for value in row.values())
    row["adapters"] = [name[:_MOST_NAME] for name in load.adapters[:_MOST_ADAPTERS]] or None
    row["age_s"] = round(max(0.0, now - said.at), 1) if known else None
    row["problem"] = load.problem[:_MOST_PROBLEM] or None
    return row


def _figure(value: float, digits: int) -> float | None:
    """As people write it; None where it is no number."""
    if not math.isfinite(value):
        return None
    rounded = round(value, digits)
    return int(rounded) if rounded.is_integer() else rounded
