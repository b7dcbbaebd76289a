"""Runs `ip` and `nft`: namespaces, cables, addresses, rules. The edge of `capture` and `leftovers`; it decides nothing.

Every command is bounded in time; LinkError tells what the tool said.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from headrace.agent.netns.plan import MeshNet, Place
from headrace.floor.processes import ProcessMark

NAMESPACES = Path("/run/netns")
"""Where ip-netns(8) keeps names of namespaces; a name keeps its namespace alive."""
_BRIDGE = "br0"
_INTERFACE = re.compile(r"[A-Za-z0-9_.-]+")
"""Names that may stand in a rule; the kernel allows nearly any character."""
_SECONDS = 20.0


class LinkError(Exception):
    """A tool failed; the message says which and how."""


def namespace_path(name: str) -> Path:
    """The file that stands for a namespace."""
    return NAMESPACES / name


def namespaces_of(mesh: str) -> tuple[str, ...]:
    """Names of all namespaces of a mesh, sorted; the switch's is among them."""
    with contextlib.suppress(FileNotFoundError):
        own = f"hr-{mesh}"
        return tuple(
            sorted(name for item in NAMESPACES.iterdir() if (name := item.name) == own or name.startswith(f"{own}-"))
        )
    return ()


def addresses_in_use() -> tuple[str, ...]:
    """Networks that this machine reaches by a route of its own, and its name servers."""
    routes = _json("ip", "-j", "-4", "route", "show", "table", "all")
    found = {str(route["dst"]) for route in routes if str(route.get("dst", "default")) != "default"}
    return tuple(sorted(found | set(name_servers())))


def name_servers(path: Path = Path("/etc/resolv.conf")) -> tuple[str, ...]:
    """The name servers of this machine, in order."""
    with contextlib.suppress(OSError):
        words = (line.split() for line in path.read_text(errors="replace").splitlines())
        return tuple(item[1] for item in words if len(item) > 1 and item[0] == "nameserver")
    return ()


def uplink_address(interface: str) -> str | None:
    """The IPv4 address of this machine in a mesh that is already there, `10.1.2.1/20`; None where there is none."""
    if not Path(f"/sys/class/net/{interface}").exists():
        return None
    for item in _json("ip", "-j", "-4", "addr", "show", "dev", interface):
        for address in item.get("addr_info", ()):
            return f"{address['local']}/{address['prefixlen']}"
    return None


def has_ipv6() -> bool:
    """Whether this machine has IPv6 at all."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").read_text().strip() == "0"
    return False


def build_switch(net: MeshNet) -> None:
    """The mesh's bridge in a namespace of its own, where no rule of this machine meets what replicas say to each other,
    and this machine's cable to it."""
    _run("ip", "netns", "add", net.switch)
    commands = [
        "link set lo up",
        f"link add {_BRIDGE} type bridge stp_state 0 forward_delay 0",
        f"link set {_BRIDGE} addrgenmode none up",
        f"link add host type veth peer name {net.uplink} netns {os.getpid()}",
        f"link set host master {_BRIDGE} up",
    ]
    _batch(net.switch, commands)
    own = [f"addr add {net.gateway}/{net.block.prefixlen} dev {net.uplink}"]
    if net.gateway6 is not None and net.unique is not None:
        own.append(f"addr add {net.gateway6}/{net.unique.prefixlen} dev {net.uplink} nodad")
    _batch(None, [*own, f"link set {net.uplink} up"])


def build_place(place: Place, rules: str) -> None:
    """A replica's namespace with its address and its rules, connected to the bridge; what was half made is made anew.
    Nothing runs in it yet, so that its parts may come at the same time."""
    net = place.net
    remove_namespace(place.namespace)
    cable = f"link add {place.port} netns {net.switch} type veth peer name eth0 netns {place.namespace}"
    _batch(None, [f"netns add {place.namespace}", cable])
    inside = ["link set lo up", f"addr add {place.address}/{net.block.prefixlen} dev eth0"]
    if place.address6 is not None and net.unique is not None:
        inside += [f"addr add {place.address6}/{net.unique.prefixlen} dev eth0 nodad", "addr add ::6/128 dev lo nodad"]
    inside += ["link set eth0 up", f"route add default via {net.gateway}"]
    if place.address6 is not None:
        inside.append(f"route add default via {net.gateway6}")
    plug = f"link set {place.port} addrgenmode none master {_BRIDGE} up\n"
    _run_together(
        (("ip", "-n", net.switch, "-batch", "-"), plug),
        (("ip", "-n", place.namespace, "-batch", "-"), "".join(f"{command}\n" for command in inside)),
        ((*_entering(place.namespace), "nft", "-f", "-"), rules),
    )


def load_rules(namespace: str | None, rules: str) -> None:
    """Load rules for nft into a namespace (None: this machine's own)."""
    _run(*(() if namespace is None else _entering(namespace)), "nft", "-f", "-", text=rules)


def remove_namespace(name: str) -> None:
    """Take a namespace's name away: with its last process its cable, addresses and rules are gone too."""
    if namespace_path(name).exists():
        _run("ip", "netns", "delete", name)


def inside(names: Iterable[str]) -> dict[int, str]:
    """Every process that runs in one of these namespaces, with its namespace's name."""
    known = {}
    for name in names:
        with contextlib.suppress(OSError):
            found = namespace_path(name).stat()
            known[(found.st_dev, found.st_ino)] = name
    processes = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                found = (entry / "ns/net").stat()
                namespace = known.get((found.st_dev, found.st_ino))
                if namespace is not None and ProcessMark.of(int(entry.name)):
                    processes[int(entry.name)] = namespace
    return processes


def processes_of(user: int) -> set[int]:
    """Every running process of a user; a zombie counts as none."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if entry.stat().st_uid == user and ProcessMark.of(int(entry.name)):
                    found.add(int(entry.name))
    return found


def _batch(namespace: str | None, commands: Iterable[str]) -> None:
    where = () if namespace is None else ("-n", namespace)
    _run("ip", *where, "-batch", "-", text="".join(f"{command}\n" for command in commands))


def _entering(namespace: str) -> tuple[str, ...]:
    return ("nsenter", f"--net={namespace_path(namespace)}")


def _run_together(*commands: tuple[tuple[str, ...], str]) -> None:
    """Run commands, each with its input, at the same time."""
    with ThreadPoolExecutor(len(commands)) as pool:
        for done in [pool.submit(_run, *command, text=text) for command, text in commands]:
            done.result()


def _json(*command: str) -> list[dict[str, Any]]:
    found = json.loads(_run(*command) or "[]")
    return [item for item in found if isinstance(item, dict)]


def _run(*command: str, text: str = "") -> str:
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LinkError(f"{' '.join(command)}: {error}") from error
    if done.returncode != 0:
        raise LinkError(f"{' '.join(command)}: {done.stderr.strip()[:400] or f'exit {done.returncode}'}")
    return done.stdout


def address_of(text: str) -> ipaddress.IPv4Interface:
    """An address with its network, as `uplink_address` gives it."""
    return ipaddress.IPv4Interface(text)


def interfaces() -> frozenset[str]:
    """Names of this machine's interfaces."""
    return frozenset(item.name for item in Path("/sys/class/net").iterdir())


def outward_interfaces(family: str) -> tuple[str, ...]:
    """Interfaces that this machine's routes use; `family` is ipv4 or ipv6. Those with routes that a router announced do
    not count: with forwarding switched on, the interface would stop listening to its router."""
    routes = _json("ip", "-j", "-4" if family == "ipv4" else "-6", "route", "show")
    announced = {route.get("dev") for route in routes if route.get("protocol") == "ra"}
    found = {str(route["dev"]) for route in routes if "dev" in route} - announced - {"lo"}
    return tuple(sorted(name for name in found if _INTERFACE.fullmatch(name)))
