"""Names, addresses and users of one mesh's network namespaces. Pure: everything follows from the state directory.

Used by `capture` and `leftovers`. The same mesh gets the same names again, so that what a crash left is found; two
meshes on one machine get different ones.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_POOL = ipaddress.IPv4Network("10.0.0.0/8")
_BLOCK_PREFIX = 20
_BLOCKS = 1 << (_BLOCK_PREFIX - _POOL.prefixlen)
_APP_USERS = 0x5A00_0000
_PROXY_USERS = 0x5B00_0000
"""Users of applications and proxies: one for each address of 10.0.0.0/8, far above those that people have."""
DNS_PORT = 15053
"""Where the agent answers for names outside the mesh, on the mesh's own address."""
RUNTIME = Path("/run/headrace")
"""Directory of what proxies need under their own user: sockets and bootstraps, in a directory for each replica."""


@dataclass(frozen=True, slots=True)
class MeshNet:
    """The addresses of one mesh on this machine. `mesh` is its id, `block` the IPv4 addresses, `unique` the IPv6 ones
    (none where this machine has no IPv6)."""

    mesh: str
    block: ipaddress.IPv4Network
    unique: ipaddress.IPv6Network | None

    @property
    def switch(self) -> str:
        """The namespace whose bridge connects all replicas and this machine."""
        return f"hr-{self.mesh}"

    @property
    def uplink(self) -> str:
        """This machine's own interface to that bridge."""
        return f"hr{self.mesh}"

    @property
    def gateway(self) -> ipaddress.IPv4Address:
        """This machine's own address in the mesh."""
        return self.block[1]

    @property
    def gateway6(self) -> ipaddress.IPv6Address | None:
        return None if self.unique is None else self.unique[1]

    def place(self, address: str) -> Place:
        """The namespace of the replica with this IPv4 address."""
        own = ipaddress.IPv4Address(address)
        if own not in self.block:
            raise ValueError(f"{address} is not one of {self.block}")
        number = int(own) - int(self.block.network_address)
        own6 = None if self.unique is None else self.unique[number]
        low = int(own) & 0xFF_FFFF
        return Place(self, number, own, own6, _APP_USERS + low, _PROXY_USERS + low)

    def addresses(self) -> Iterable[str]:
        """Every address that a replica may have, in order."""
        for number in range(2, self.block.num_addresses - 1):
            yield str(self.block[number])


@dataclass(frozen=True, slots=True)
class Place:
    """One replica's namespace: its number in the mesh, its addresses, the users of its application and its proxy."""

    net: MeshNet
    number: int
    address: ipaddress.IPv4Address
    address6: ipaddress.IPv6Address | None
    app_user: int
    proxy_user: int

    @property
    def namespace(self) -> str:
        return f"{self.net.switch}-{self.number}"

    @property
    def port(self) -> str:
        """The end of its cable at the bridge."""
        return f"p{self.number}"


def mesh_id(state: Path) -> str:
    """Eight hexadecimal digits that stand for one state directory."""
    return hashlib.blake2b(os.fsencode(state), digest_size=4).hexdigest()


def known_net(mesh: str, block: ipaddress.IPv4Network, *, ipv6: bool) -> MeshNet:
    """The addresses of a mesh that is there already, by its block."""
    number = (int(block.network_address) - int(_POOL.network_address)) >> (32 - _BLOCK_PREFIX)
    return MeshNet(mesh, block, unique_local(mesh, number) if ipv6 else None)


def mesh_net(mesh: str, taken: Iterable[str], *, ipv6: bool) -> MeshNet | None:
    """The mesh's addresses: the first block, beginning where its id says, that overlaps nothing `taken` (networks and
    addresses in use on this machine). None where no block is free."""
    used = [network for text in taken if (network := _network(text)) is not None]
    first = int(mesh, 16) % _BLOCKS
    for step in range(_BLOCKS):
        number = (first + step) % _BLOCKS
        start = int(_POOL.network_address) + (number << (32 - _BLOCK_PREFIX))
        block = ipaddress.IPv4Network((start, _BLOCK_PREFIX))
        if not any(block.overlaps(network) for network in used):
            return MeshNet(mesh, block, unique_local(mesh, number) if ipv6 else None)
    return None


def unique_local(mesh: str, number: int) -> ipaddress.IPv6Network:
    """The mesh's /64 of fd00::/8 (RFC 4193): 40 bits from its id, the subnet from its IPv4 block."""
    site = hashlib.blake2b(mesh.encode(), digest_size=5).digest()
    prefix = bytes((0xFD,)) + site + (number & 0xFFFF).to_bytes(2, "big")
    return ipaddress.IPv6Network((prefix + bytes(8), 64))


def _network(text: str) -> ipaddress.IPv4Network | None:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    return network if isinstance(network, ipaddress.IPv4Network) and network.prefixlen > _POOL.prefixlen else None
