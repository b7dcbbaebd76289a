"""Statuses of Gateway API documents as `headrace get` shows them: generations, times, and what the proxies say.

Called by `control_plane.mesh`. What documents tell is settled by `registry.gateway_api`; whether a Gateway is really
programmed is known only here.
"""

from __future__ import annotations

import copy
import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from headrace.floor.clock import Clock, SystemClock
from headrace.model.resource import ResourceKey
from headrace.registry.gateway_api.conditions import PROGRAMMED

Status = dict[str, Any]
_PARTS = ("listeners", "parents", "ancestors")
_NAMES = ("name", "parentRef", "ancestorRef")
_Place = tuple[ResourceKey, str, str]
"""A document, a part of its status, a condition's type."""


@dataclass(slots=True)
class StatusBook:
    """When each condition became what it is, as far as this control plane has seen it."""

    clock: Clock = field(default_factory=SystemClock)
    _since: dict[_Place, tuple[str, str]] = field(default_factory=dict)

    def stamped(self, key: ResourceKey, status: Mapping[str, Any], generation: int) -> Status:
        """The status of a document with the fields of every condition that the specification asks for."""
        found: Status = copy.deepcopy(dict(status))
        for name, part in _parts(found):
            part["conditions"] = [
                {
                    "type": item["type"],
                    "status": item["status"],
                    "observedGeneration": generation,
                    "lastTransitionTime": self._time((key, name, item["type"]), item["status"]),
                    "reason": item["reason"],
                    "message": item["message"],
                }
                for item in part["conditions"]
            ]
        return found

    def _time(self, place: _Place, status: str) -> str:
        """When the condition was first seen to be so (it changes with `status`, not with its reason)."""
        known = self._since.get(place)
        if known is not None and known[0] == status:
            return known[1]
        now = datetime.datetime.fromtimestamp(self.clock.now(), datetime.UTC)
        text = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        self._since[place] = (status, text)
        return text


def _parts(status: Status) -> list[tuple[str, Status]]:
    """Everything of a status that has conditions, by a name."""
    found = [("", status)] if "conditions" in status else []
    for kind in _PARTS:
        for part in status.get(kind, ()):
            name = next((str(part[field]) for field in _NAMES if field in part), "")
            found.append((f"{kind} {name}", part))
    return found


def as_served(status: Mapping[str, Any], waiting: Sequence[str] | None, addresses: Sequence[str]) -> Status:
    """A Gateway's status as its proxies have it: `waiting` tells what those that are not ready wait for (None: it has
    no proxy that the mesh runs), `addresses` where clients find it."""
    found: Status = dict(status)
    if waiting is None:
        return found
    if addresses:
        found["addresses"] = [{"type": "IPAddress", "value": address} for address in addresses]
    if waiting:
        found["conditions"] = [
            item if item["type"] != PROGRAMMED or item["status"] == "False" else _pending(waiting)
            for item in found.get("conditions", ())
        ]
    return found


def _pending(waiting: Sequence[str]) -> dict[str, str]:
    message = f"Waiting for its proxy: {'; '.join(waiting)}"
    return {"type": PROGRAMMED, "status": "False", "reason": "Pending", "message": message}
