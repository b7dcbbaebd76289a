"""How an application's traffic reaches its proxy: one strategy, chosen once, known nowhere else in the agent.

`agent.replica` attaches a replica before it starts anything and releases it at the end. `LoopbackCapture` needs no
privileges: every replica has an address of its own in 127.0.0.0/8, its Envoy listens there on the workload's ports, the
process listens on other ports of 127.0.0.1 ($PORT), and its outbound HTTP requests come by HTTP_PROXY with a password.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import os
import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from headrace.agent.claims import PortClaims, free
from headrace.agent.process import Launch
from headrace.agent.spec import ReplicaSpec
from headrace.floor.places import Places

OUTBOUND_PORT = 15001
"""Where HTTP_PROXY points on the replica's own address (Istio's number of the outbound listener)."""
APP_ADDRESS = "127.0.0.1"
_APP_PORTS = range(20_000, 30_000)
"""Below the kernel's range for outgoing connections, so that none takes a port while its application restarts."""
_BLOCK_BITS = 12
_BLOCKS = (256 << 16 >> _BLOCK_BITS) - 16  # of 127.0.0.0/8, without 127.0.0.0/16, which people use by hand
_ADDRESS_TRIES = 32
_PRIVILEGED_END = 1024
_PRIVILEGED_SHIFT = 8000
_GATEWAY_TRIES = 100
_NO_PROXY = "localhost,127.0.0.1,::1"


class CaptureError(Exception):
    """No address or port can be had; the message says what is in the way."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """What a replica was given. `app_ports` and `gateway_ports` are (port of the document, port really listened on);
    `secret` is the password in the application's HTTP_PROXY and never reported. `namespace` is the network namespace of
    a replica that has one (with `address6`, where there is IPv6)."""

    address: str
    outbound_port: int = OUTBOUND_PORT
    user: str = ""
    secret: str = field(default="", repr=False)
    app_ports: tuple[tuple[int, int], ...] = ()
    gateway_ports: tuple[tuple[int, int], ...] = ()
    namespace: str = ""
    address6: str = ""

    def credentials(self) -> str:
        """The htpasswd line that the outbound listener checks against: user and SHA-1 of the secret, which is random
        and 32 bytes long, so that the old hash costs nothing."""
        if not self.secret:
            return ""
        digest = hashlib.sha1(self.secret.encode(), usedforsecurity=False).digest()
        return f"{self.user}:{{SHA}}{base64.b64encode(digest).decode()}"

    def local_port(self, port: int) -> int:
        """The port on 127.0.0.1 for a port of the workload. 0 stands for the first; one that is not the workload's is
        the process's own business and stays as it is."""
        if not port:
            return self.app_ports[0][1] if self.app_ports else 0
        return dict(self.app_ports).get(port, port)

    def as_json(self) -> dict[str, Any]:
        return {
            "address": self.address,
            "outbound_port": self.outbound_port,
            "user": self.user,
            "secret": self.secret,
            "app_ports": [list(pair) for pair in self.app_ports],
            "gateway_ports": [list(pair) for pair in self.gateway_ports],
            "namespace": self.namespace,
            "address6": self.address6,
        }

    @classmethod
    def parse(cls, data: Any) -> Attachment:
        return cls(
            address=str(data["address"]),
            outbound_port=int(data["outbound_port"]),
            user=str(data["user"]),
            secret=str(data["secret"]),
            app_ports=tuple((int(port), int(local)) for port, local in data["app_ports"]),
            gateway_ports=tuple((int(port), int(local)) for port, local in data["gateway_ports"]),
            namespace=str(data.get("namespace", "")),
            address6=str(data.get("address6", "")),
        )


@dataclass(frozen=True, slots=True)
class ProxyDoor:
    """Where one proxy finds what it needs: its discovery socket, its admin socket, its bootstrap. `owner` is the user
    to whom they belong (None: the agent's own)."""

    xds: Path
    admin: Path
    bootstrap: Path
    owner: int | None = None

    @property
    def loads(self) -> Path | None:
        """Where it finds a copy of its own of what model servers say of their load; None where it may read the
        agent's."""
        return None if self.owner is None else self.bootstrap.with_name("engine-loads")

    def hand_over(self, path: Path) -> None:
        """Make a file of the agent's the proxy's own."""
        if self.owner is not None:
            os.chown(path, self.owner, self.owner, follow_symlinks=False)


class CaptureStrategy(Protocol):
    """A way to bring traffic to proxies. Methods may touch the system, none waits."""

    def keep(self, replica: str, attachment: Attachment) -> bool:
        """Note what an earlier agent gave out and its replica still uses; False where this strategy cannot go on with
        it, so that the replica is started anew."""
        ...

    def settle(self, replicas: Collection[str]) -> None:
        """All that earlier agents left has been adopted by these replicas: what belongs to others goes."""
        ...

    def attach(self, spec: ReplicaSpec) -> Attachment:
        """Give a replica what it needs; CaptureError where that is impossible."""
        ...

    def successor(self, spec: ReplicaSpec, current: Attachment) -> Attachment:
        """The attachment for a new version of a running replica: same address and credentials, application ports that
        do not collide with those in use."""
        ...

    def environment(self, attachment: Attachment) -> Mapping[str, str]:
        """Variables that bring the application's own requests to its proxy."""
        ...

    def door(self, replica: str, attachment: Attachment) -> ProxyDoor:
        """Where the replica's proxy finds what it needs."""
        ...

    def application(self, attachment: Attachment, launch: Launch) -> Launch:
        """How a process of the application (or a probe's command) is started; StartFailed where it cannot be."""
        ...

    def proxy(self, attachment: Attachment, launch: Launch) -> Launch:
        """How the replica's proxy is started."""
        ...

    def socket(self, attachment: Attachment, family: int, kind: int) -> socket.socket | None:
        """A socket that sees the application's 127.0.0.1; None where the agent's own do."""
        ...

    def connection_tables(self, attachment: Attachment, pid: int) -> Collection[Path] | None:
        """The kernel's lists of the application's connections; None for the agent's own."""
        ...

    def release(self, replica: str) -> None:
        """Take back what the replica was given; its address is not given to another one soon."""
        ...


class LoopbackCapture:
    """Capture by addresses of 127.0.0.0/8 and HTTP_PROXY. It gives every replica a door of its own; it does not
    isolate processes of one machine from each other."""

    def __init__(self, state: Path, token: Callable[[], str], addresses: str | None = None) -> None:
        """`token` makes random secrets (32 bytes, URL-safe). `addresses`: the range (CIDR) of this host that other
        hosts reach; without one they are of the loopback interface, from a block that follows from the state directory:
        the same mesh gets the same addresses, two meshes most likely different ones, and both are checked."""
        digest = hashlib.blake2b(str(state).encode(), digest_size=8).digest()
        self._block = (127 << 24) + ((16 + int.from_bytes(digest[:4], "big") % _BLOCKS) << _BLOCK_BITS)
        self._port_offset = int.from_bytes(digest[4:], "big") % len(_APP_PORTS)
        self._token = token
        self._range = ipaddress.IPv4Network(addresses) if addresses else None
        self._places = Places(state)
        self._attached: dict[str, Attachment] = {}
        self._remembered: dict[str, str] = {}
        self._extra: dict[str, set[int]] = {}
        self._claims = PortClaims()

    def keep(self, replica: str, attachment: Attachment) -> bool:
        if attachment.namespace or not self._in_range(attachment.address):
            return False
        self._attached[replica] = attachment
        self._remembered[replica] = attachment.address
        return True

    def settle(self, replicas: Collection[str]) -> None:
        """Nothing of loopback capture outlives its processes."""

    def attach(self, spec: ReplicaSpec) -> Attachment:
        ports = spec.port_numbers()
        outbound = OUTBOUND_PORT
        while outbound in ports:
            outbound += 1
        if spec.is_gateway:
            mapping = self._gateway_ports(spec, ())
            attachment = Attachment(self._address(spec.id, ()), outbound, gateway_ports=mapping)
        else:
            address = self._address(spec.id, (outbound, *ports))
            attachment = Attachment(address, outbound, spec.name, self._token(), self._app_ports(spec.id, ports))
        self.keep(spec.id, attachment)
        return attachment

    def successor(self, spec: ReplicaSpec, current: Attachment) -> Attachment:
        if spec.is_gateway:
            attachment = replace(current, gateway_ports=self._gateway_ports(spec, current.gateway_ports))
        else:
            # The process that serves keeps its ports until it is drained; they stay taken while it listens.
            self._extra[spec.id] = {local for _, local in current.app_ports}
            attachment = replace(current, app_ports=self._app_ports(spec.id, spec.port_numbers()))
        self.keep(spec.id, attachment)
        return attachment

    def environment(self, attachment: Attachment) -> Mapping[str, str]:
        proxy = f"http://{attachment.user}:{attachment.secret}@{attachment.address}:{attachment.outbound_port}"
        return {"HTTP_PROXY": proxy, "http_proxy": proxy, "NO_PROXY": _NO_PROXY, "no_proxy": _NO_PROXY}

    def door(self, replica: str, attachment: Attachment) -> ProxyDoor:
        places = self._places
        return ProxyDoor(places.xds_socket(replica), places.admin_socket(replica), places.bootstrap(replica))

    def application(self, attachment: Attachment, launch: Launch) -> Launch:
        return launch

    def proxy(self, attachment: Attachment, launch: Launch) -> Launch:
        return launch

    def socket(self, attachment: Attachment, family: int, kind: int) -> socket.socket | None:
        return None

    def connection_tables(self, attachment: Attachment, pid: int) -> Collection[Path] | None:
        return None

    def release(self, replica: str) -> None:
        self._attached.pop(replica, None)
        self._extra.pop(replica, None)
        given = {local for item in self._attached.values() for _, local in (*item.app_ports, *item.gateway_ports)}
        self._claims.only(given.union(*self._extra.values()))

    def _address(self, replica: str, ports: Iterable[int]) -> str:
        taken = {attachment.address for attachment in self._attached.values()}
        taken |= {address for name, address in self._remembered.items() if name != replica}
        refused: list[str] = []
        for address in self._candidates(replica):
            if address in taken:
                continue
            busy = next((port for port in ports if not free(address, port)), None)
            if busy is None:
                return address
            refused.append(f"{address}:{busy}")
            if len(refused) >= _ADDRESS_TRIES:
                break
        if self._range is not None:
            raise CaptureError(
                f"no address for {replica} in {self._range}: {', '.join(refused[:3]) or 'all are given out'}; take a "
                f"larger range, or make it local to this host: `ip route add local {self._range} dev lo`"
            )
        raise CaptureError(
            f"no address for {replica}: {', '.join(refused[:3])} ... are taken by other processes; "
            "a server that listens on 0.0.0.0 takes its port on every address: stop it, or change the Workload's port"
        )

    def _candidates(self, replica: str) -> Iterator[str]:
        if replica in self._remembered:
            yield self._remembered[replica]
        if self._range is not None:
            yield from map(str, self._range.hosts())
            return
        for offset in range(1, (1 << _BLOCK_BITS) - 1):
            if offset & 0xFF not in (0, 0xFF):
                yield socket.inet_ntoa((self._block + offset).to_bytes(4, "big"))

    def _in_range(self, address: str) -> bool:
        if self._range is None:
            return ipaddress.ip_address(address).is_loopback
        return ipaddress.ip_address(address) in self._range

    def _app_ports(self, replica: str, ports: Iterable[int]) -> tuple[tuple[int, int], ...]:
        taken = {local for name, item in self._attached.items() if name != replica for _, local in item.app_ports}
        taken |= {local for locals_ in self._extra.values() for local in locals_}
        chosen: list[tuple[int, int]] = []
        candidates = (_APP_PORTS[(self._port_offset + step) % len(_APP_PORTS)] for step in range(len(_APP_PORTS)))
        for port in ports or (0,):
            local = next(
                (found for found in candidates if found not in taken and self._claims.take(APP_ADDRESS, found)), None
            )
            if local is None:
                raise CaptureError(f"no port of {_APP_PORTS.start}-{_APP_PORTS.stop - 1} is free on {APP_ADDRESS}")
            chosen.append((port, local))
        return tuple(chosen)

    def _gateway_ports(self, spec: ReplicaSpec, current: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
        """Each port itself where it can be bound, else the next free one after it; of privileged ones, after +8000."""
        known = dict(current)
        others = {local for name, item in self._attached.items() if name != spec.id for _, local in item.gateway_ports}
        chosen = {port: known[port] for port in spec.port_numbers() if port in known}
        for port in spec.port_numbers():
            if port in chosen:
                continue
            taken = others | set(chosen.values())
            first = port + (_PRIVILEGED_SHIFT if port < _PRIVILEGED_END else 1)
            candidates = (port, *range(first, min(first + _GATEWAY_TRIES, 65536)))
            usable = (found for found in candidates if found not in taken and self._claims.take(spec.bind, found))
            chosen[port] = next(usable, 0)
            if not chosen[port]:
                raise CaptureError(
                    f"neither port {port} of the Gateway nor one of {first}-{candidates[-1]} can be bound on "
                    f"{spec.bind}: name another address, or stop what listens there"
                )
        return tuple(chosen.items())
