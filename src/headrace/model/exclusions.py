"""What transparent capture leaves alone: Istio's annotations `traffic.sidecar.istio.io/...` of a workload.

Checked by `config.kinds.workload`, carried by `app` to the agent, which makes rules of it (`agent.netns.rules`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

PREFIX = "traffic.sidecar.istio.io/"
_ALL = "*"


class ExclusionError(ValueError):
    """An annotation's value cannot be read: the message says why, `annotation` which, `remedy` how it should look."""

    def __init__(self, annotation: str, what: str, remedy: str) -> None:
        super().__init__(f"annotation {annotation}: {what}")
        self.annotation = annotation
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Exclusions:
    """What is left alone (Istio's annotations `traffic.sidecar.istio.io/...`). `include_*` None: everything."""

    include_inbound: tuple[int, ...] | None = None
    exclude_inbound: tuple[int, ...] = ()
    include_outbound: tuple[int, ...] = ()
    exclude_outbound: tuple[int, ...] = ()
    include_ranges: tuple[str, ...] | None = None
    exclude_ranges: tuple[str, ...] = ()

    @classmethod
    def parse(cls, annotations: Mapping[str, str]) -> Exclusions:
        """Of a workload's annotations; ExclusionError where one cannot be read."""

        def ports(name: str) -> tuple[int, ...] | None:
            text = annotations.get(PREFIX + name)
            return None if text is None or text.strip() == _ALL else _ports(name, text)

        def ranges(name: str) -> tuple[str, ...] | None:
            text = annotations.get(PREFIX + name)
            return None if text is None or text.strip() == _ALL else _ranges(name, text)

        return cls(
            include_inbound=ports("includeInboundPorts"),
            exclude_inbound=ports("excludeInboundPorts") or (),
            include_outbound=ports("includeOutboundPorts") or (),
            exclude_outbound=ports("excludeOutboundPorts") or (),
            include_ranges=ranges("includeOutboundIPRanges"),
            exclude_ranges=ranges("excludeOutboundIPRanges") or (),
        )


def _ports(name: str, text: str) -> tuple[int, ...]:
    found = []
    for part in filter(None, (item.strip() for item in text.split(","))):
        if not (part.isascii() and part.isdecimal()) or not 0 < int(part) < 65536:
            raise ExclusionError(PREFIX + name, f"{part[:20]!r} is no port", "Write numbers with commas between.")
        found.append(int(part))
    return tuple(found)


def _ranges(name: str, text: str) -> tuple[str, ...]:
    found = []
    for part in filter(None, (item.strip() for item in text.split(","))):
        try:
            if "%" in part:  # a scope may hold any text, and this becomes part of a rule
                raise ValueError(part)
            found.append(str(ipaddress.ip_network(part, strict=False)))
        except ValueError:
            what, remedy = f"{part[:50]!r} is no block of addresses", "Write 10.0.0.0/8, with commas between."
            raise ExclusionError(PREFIX + name, what, remedy) from None
    return tuple(found)
