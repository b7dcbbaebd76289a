"""Virtual addresses for services that declare none, so that a name can be looked up and a connection be told by it.

Called by `registry.services` where replicas have network namespaces. An address follows from the service's namespace
and host alone, so that it stays the same over restarts and on every control plane; of two services whose hashes meet,
the older one has the address and the younger one the next free one. The ranges are routed nowhere: 240.0.0.0/4 (class
E, as Istio's 240.240.0.0/16) and 2001:2::/48 (Istio's).
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable

from headrace.model.service import Resolution, Service

_FIRST = int(ipaddress.IPv4Address("241.0.0.0"))
AUTO_ALLOCATE = "networking.istio.io/enable-autoallocate-ip"
"""Label that keeps a service without an address where it says "false" (Istio's)."""
_COUNT = 14 << 24  # to 254.255.255.255
_PREFIX6 = ipaddress.IPv6Address("2001:2::").packed[:8]


def needs_address(service: Service) -> bool:
    """Whether the service is one thing that has a name but no address of its own."""
    return (
        not service.addresses
        and not service.headless
        and service.resolution is not Resolution.NONE
        and not service.host.startswith("*")
        and not _is_address(service.host)
        and service.meta.labels.get(AUTO_ALLOCATE, "").lower() != "false"
    )


def virtual_addresses(services: Iterable[Service]) -> dict[tuple[str, str], tuple[str, str]]:
    """An IPv4 and an IPv6 address for each service that needs them, by namespace and host; `services` oldest first."""
    taken: set[int] = set()
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for service in services:
        key = (service.namespace, service.host)
        if key in found or not needs_address(service):
            continue
        digest = hashlib.blake2b("/".join(key).encode(), digest_size=16).digest()
        slot = int.from_bytes(digest[:8], "big") % _COUNT
        while slot in taken:
            slot = (slot + 1) % _COUNT
        taken.add(slot)
        found[key] = (str(ipaddress.IPv4Address(_FIRST + slot)), str(ipaddress.IPv6Address(_PREFIX6 + digest[8:])))
    return found


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
