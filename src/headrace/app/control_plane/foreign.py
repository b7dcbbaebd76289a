"""What another host's agent may report: nothing that could harm more than its own replicas. Pure.

Called by `agents` for reports that came over the network; this machine's own agent is believed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from headrace.registry.observed import ReplicaState
from headrace.wire import agent_v1_pb2 as wire

_MOST_PORTS = 200
_LONGEST_TEXT = 1000
_STATES = frozenset(ReplicaState)


def sound(report: wire.ReplicaReport) -> bool:
    """Whether a report of a replica can be taken over: a known state, an address that others can reach, ports that are
    ports, short texts, and none of what only one machine's replicas have (netns capture)."""
    return (
        report.state in _STATES
        and reachable(report.address)
        and not report.capture
        and not report.address6
        and 0 <= report.outbound_port < 65536
        and _ports(report.app_ports)
        and _ports(report.gateway_ports)
        and all(len(text) <= _LONGEST_TEXT for text in (report.detail, report.proxy_credentials))
        and len(report.certificate_serial) <= _LONGEST_TEXT
    )


def reachable(address: str) -> bool:
    """Whether a replica's address (empty: it has none yet) can be one that other hosts reach."""
    if not address:
        return True
    try:
        found = ipaddress.IPv4Address(address)
    except ValueError:
        return False
    return not (found.is_loopback or found.is_unspecified or found.is_multicast or found.is_link_local)


def _ports(mappings: Iterable[wire.PortMapping]) -> bool:
    found = list(mappings)
    return len(found) <= _MOST_PORTS and all(0 <= item.port < 65536 and 0 <= item.local < 65536 for item in found)
