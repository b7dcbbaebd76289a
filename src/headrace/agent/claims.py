"""Ports that this machine's meshes have promised to somebody who does not listen yet.

Between the choice of a port and the moment at which an Envoy or an application listens on it, another mesh that starts
would find it free, and Envoys that both listen (SO_REUSEPORT) would share its connections. So whoever chooses holds a
name in the kernel's abstract socket space meanwhile: one holder a machine (a network namespace), gone with its process.
Used by `agent.capture`.
"""

from __future__ import annotations

import socket
from collections.abc import Collection


class PortClaims:
    """The claims of one process. An address that cannot be claimed is another mesh's, or somebody listens there."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, int], socket.socket] = {}

    def take(self, address: str, port: int) -> bool:
        """Claim a port that nobody listens on and nobody else has claimed; whether that went well."""
        return self._hold(address, port) and (free(address, port) or self._drop(address, port))

    def only(self, ports: Collection[int]) -> None:
        """Give back all claims but those of these ports."""
        for address, port in list(self._held):
            if port not in ports:
                self._drop(address, port)

    def _hold(self, address: str, port: int) -> bool:
        if (address, port) in self._held:
            return True
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0headrace-port-{address}:{port}")
        except OSError:
            claim.close()
            return False
        self._held[address, port] = claim
        return True

    def _drop(self, address: str, port: int) -> bool:
        self._held.pop((address, port)).close()
        return False


def free(address: str, port: int) -> bool:
    """Whether the address can be bound. Connections in TIME_WAIT are no hindrance."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True
