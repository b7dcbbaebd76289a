"""Which VirtualServices speak for a host on the side of sidecars.

Called by `virtual_hosts`. Rules (Istio): VirtualServices for sidecars are not merged, the first of a host wins; a full
name beats a wildcard, a longer wildcard a shorter one. A VirtualService without a route for this caller leaves the host
to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.envoy.visibility import host_specificity, wildcard_covers
from headrace.model.traffic import VirtualService


@dataclass(frozen=True, slots=True, eq=False)
class Claims:
    """VirtualServices by full host, and by wildcard (most specific first)."""

    exact: dict[str, tuple[VirtualService, ...]]
    wild: tuple[tuple[str, tuple[VirtualService, ...]], ...]

    def of(self, host: str) -> tuple[VirtualService, ...]:
        """The VirtualServices that may speak for a service's host, in the order in which they are asked."""
        found = self.exact.get(host, ())
        if not self.wild:
            return found
        for pattern, services in self.wild:
            if wildcard_covers(pattern, host):
                found += services
        return found


def claims_of(virtual_services: Sequence[VirtualService]) -> Claims:
    """The claims of these VirtualServices, which are ordered by precedence."""
    exact: dict[str, list[VirtualService]] = {}
    wild: dict[str, list[VirtualService]] = {}
    for item in virtual_services:
        for host in dict.fromkeys(item.hosts):
            (wild if host.startswith("*") else exact).setdefault(host, []).append(item)
    ordered = sorted(wild.items(), key=lambda pair: host_specificity(pair[0]))
    return Claims(
        {host: tuple(items) for host, items in exact.items()}, tuple((host, tuple(items)) for host, items in ordered)
    )
