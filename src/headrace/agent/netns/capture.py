"""The capture strategy `netns`: a namespace for each replica of a workload; gateways stay on the machine's own network.

Made by `app.agent_host` where `support` finds nothing in the way. `open` builds what all replicas share and `close`
takes it away; after a crash both find what is there by the mesh's id.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

import structlog

import headrace
from headrace.agent.capture import Attachment, CaptureError, LoopbackCapture, ProxyDoor
from headrace.agent.netns import egress, enter, leftovers, links
from headrace.agent.netns.inside import in_namespace
from headrace.agent.netns.plan import RUNTIME, MeshNet, Place, known_net, mesh_id, mesh_net
from headrace.agent.netns.rules import PROXY_PORTS, ruleset
from headrace.agent.process import Launch, StartFailed
from headrace.agent.spec import ReplicaSpec
from headrace.floor.places import Places
from headrace.model.exclusions import ExclusionError, Exclusions
from headrace.model.names import CLUSTER_DOMAIN

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
_OTHER_PORTS = range(20_000, 30_000)
"""For a process that starts beside the one that has the workload's own port."""
_HOSTS_LINE = re.compile(r"^hosts:.*$", re.MULTILINE)
_NAME_CACHES = ("/run/nscd/socket", "/run/systemd/resolve/io.systemd.Resolve")
"""Sockets of this machine's name services, which would answer an application past its own resolver."""


class NetnsCapture:
    """Capture by network namespaces. `token` makes the secrets of gateways' attachments (unused, but of one form)."""

    def __init__(self, places: Places, token: Callable[[], str]) -> None:
        self._places = places
        self._edge = LoopbackCapture(places.state, token)
        self._mesh = mesh_id(places.state)
        self._runtime = RUNTIME / self._mesh
        self._net: MeshNet | None = None
        self._interfaces: frozenset[str] = frozenset()
        self._attached: dict[str, Attachment] = {}
        self._remembered: dict[str, str] = {}

    @property
    def net(self) -> MeshNet:
        """The mesh's addresses; after `open`."""
        assert self._net is not None, "not open"
        return self._net

    def open(self) -> MeshNet:
        """Build what all replicas share, or find it; CaptureError where that fails."""
        try:
            self._net = self._found() or self._made()
            for directory in (RUNTIME, self._runtime):
                directory.mkdir(mode=0o711, exist_ok=True)
                directory.chmod(0o711)
            egress.open_way_out(self._net)
            self._interfaces = links.interfaces()
        except (links.LinkError, OSError) as error:
            raise CaptureError(f"netns: {error}") from error
        return self._net

    def close(self) -> None:
        """Take everything away; the replicas are gone."""
        leftovers.remove(self._mesh)

    def _found(self) -> MeshNet | None:
        uplink = links.uplink_address(f"hr{self._mesh}")
        if uplink is None:
            return None
        net = known_net(self._mesh, links.address_of(uplink).network, ipv6=links.has_ipv6())
        if links.namespace_path(net.switch).exists():
            return net
        return None

    def _made(self) -> MeshNet:
        leftovers.remove(self._mesh)
        net = mesh_net(self._mesh, links.addresses_in_use(), ipv6=links.has_ipv6())
        if net is None:
            raise CaptureError("netns: every block of 10.0.0.0/8 is in use on this machine")
        links.build_switch(net)
        return net

    # The replicas

    def keep(self, replica: str, attachment: Attachment) -> bool:
        if not attachment.namespace:
            # A gateway's has no ports of an application; one that has them was captured by loopback.
            return not attachment.app_ports and self._edge.keep(replica, attachment)
        place = self._place(attachment.address)
        if place is None or not links.namespace_path(place.namespace).exists():
            return False
        self._note(replica, attachment)
        return True

    def settle(self, replicas: Collection[str]) -> None:
        known = {item.namespace for name, item in self._attached.items() if name in replicas} | {self.net.switch}
        for name in links.namespaces_of(self._mesh):
            if name not in known:
                _log.warning("removed the namespace of a replica that is gone", namespace=name)
                with contextlib.suppress(links.LinkError):
                    links.remove_namespace(name)

    def attach(self, spec: ReplicaSpec) -> Attachment:
        if spec.is_gateway:
            return self._edge.attach(spec)
        place = self._free_place(spec.id)
        exclusions = _exclusions(spec)
        try:
            self._open_way_out_again()
            links.build_place(place, ruleset(place, exclusions))
            self._prepare(place, spec)
        except (links.LinkError, OSError) as error:
            with contextlib.suppress(links.LinkError):
                links.remove_namespace(place.namespace)
            raise CaptureError(f"no namespace for {spec.id}: {error}") from error
        others = iter(_OTHER_PORTS)
        own = spec.port_numbers() or (0,)
        ports = tuple((port, port if port and port not in PROXY_PORTS else next(others)) for port in own)
        attachment = Attachment(
            str(place.address), app_ports=ports, namespace=place.namespace, address6=str(place.address6 or "")
        )
        self._note(spec.id, attachment)
        return attachment

    def successor(self, spec: ReplicaSpec, current: Attachment) -> Attachment:
        if not current.namespace:
            return self._edge.successor(spec, current)
        place = self._place_of(current)
        taken = {local for _, local in current.app_ports}
        chosen: list[tuple[int, int]] = []
        for port in spec.port_numbers() or (0,):
            candidates = (port, *_OTHER_PORTS) if port and port not in PROXY_PORTS else _OTHER_PORTS
            local = next(item for item in candidates if item not in taken and self._is_free(place, item))
            taken.add(local)
            chosen.append((port, local))
        try:
            links.load_rules(place.namespace, ruleset(place, _exclusions(spec)))
        except (links.LinkError, CaptureError) as error:
            _log.error("a replica keeps its rules of before", replica=spec.id, reason=str(error))
        attachment = replace(current, app_ports=tuple(chosen))
        self._note(spec.id, attachment)
        return attachment

    def release(self, replica: str) -> None:
        attachment = self._attached.pop(replica, None)
        if attachment is None:
            self._edge.release(replica)
            return
        self._places.admin_socket(replica).unlink(missing_ok=True)
        place = self._place_of(attachment)
        shutil.rmtree(self._home(place), ignore_errors=True)
        # Its known processes are gone; what hid from its supervisor still runs there, or under its user.
        leftovers.end_inside((place.namespace,), place.app_user)
        try:
            links.remove_namespace(place.namespace)
        except links.LinkError as error:
            _log.warning("a namespace is left", namespace=place.namespace, reason=str(error))

    # Its processes

    def environment(self, attachment: Attachment) -> Mapping[str, str]:
        if not attachment.namespace:
            return self._edge.environment(attachment)
        home = str(self._home(self._place_of(attachment)) / "home")
        return {"HOME": home, "HEADRACE_ADDRESS6": attachment.address6}

    def door(self, replica: str, attachment: Attachment) -> ProxyDoor:
        if not attachment.namespace:
            return self._edge.door(replica, attachment)
        place = self._place_of(attachment)
        home = self._home(place)
        return ProxyDoor(home / "x", home / "admin/a", home / "bootstrap.json", place.proxy_user)

    def application(self, attachment: Attachment, launch: Launch) -> Launch:
        if not attachment.namespace:
            return launch
        program = launch.command[0] if launch.command else ""
        found = shutil.which(program, path=launch.environment.get("PATH", os.defpath))
        if found is None and "/" in program:
            found = shutil.which(str(Path(launch.directory or ".") / program))
        if found is None:
            raise StartFailed(
                f"there is no program {program!r} (looked in its directory and on PATH): correct the command"
            )
        place = self._place_of(attachment)
        etc = self._home(place) / "etc"
        files = [(str(path), f"/etc/{path.name}") for path in sorted(etc.iterdir())]
        files += [("/dev/null", path) for path in _NAME_CACHES]
        reveal = {launch.directory or str(Path.cwd()), *program_places(Path(found)), *_installation()}
        return _entering(launch, place, place.app_user, files, reveal)

    def proxy(self, attachment: Attachment, launch: Launch) -> Launch:
        if not attachment.namespace:
            return launch
        place = self._place_of(attachment)
        files = [(str(self._home(place) / "proxy-resolv.conf"), "/etc/resolv.conf")]
        modules = launch.environment.get("ENVOY_DYNAMIC_MODULES_SEARCH_PATH", "")
        told = launch.environment.get("HEADRACE_REVOKED", "")
        reveal = {str(Path(launch.command[0]).parent), *filter(None, modules.split(":"))}
        reveal |= {str(Path(told).parent)} if told else set()
        return _entering(launch, place, place.proxy_user, files, reveal)

    def socket(self, attachment: Attachment, family: int, kind: int) -> socket.socket | None:
        if not attachment.namespace:
            return None
        return in_namespace(links.namespace_path(attachment.namespace), lambda: _plain_socket(family, kind))

    def connection_tables(self, attachment: Attachment, pid: int) -> Collection[Path] | None:
        if not attachment.namespace:
            return None
        return (Path(f"/proc/{pid}/net/tcp"), Path(f"/proc/{pid}/net/tcp6"))

    # Places

    def _note(self, replica: str, attachment: Attachment) -> None:
        self._attached[replica] = attachment
        self._remembered[replica] = attachment.address
        place = self._place_of(attachment)
        link = self._places.admin_socket(replica)
        link.unlink(missing_ok=True)
        link.symlink_to(self._home(place) / "admin/a")

    def _open_way_out_again(self) -> None:
        """Where interfaces came or went since the last time."""
        interfaces = links.interfaces()
        if interfaces != self._interfaces:
            egress.open_way_out(self.net, again=True)
            self._interfaces = interfaces

    def _free_place(self, replica: str) -> Place:
        taken = {address for name, address in self._remembered.items() if name != replica}
        known = self._remembered.get(replica)
        if known is not None:
            return self.net.place(known)
        for address in self.net.addresses():
            if address not in taken:
                return self.net.place(address)
        raise CaptureError(f"no address for {replica}: all of {self.net.block} are given out")

    def _place(self, address: str) -> Place | None:
        try:
            return self.net.place(address)
        except ValueError:
            return None

    def _place_of(self, attachment: Attachment) -> Place:
        return self.net.place(attachment.address)

    def _home(self, place: Place) -> Path:
        return self._runtime / str(place.number)

    def _is_free(self, place: Place, port: int) -> bool:
        def probe() -> bool:
            with _plain_socket(socket.AF_INET, socket.SOCK_STREAM) as found:
                found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    found.bind(("127.0.0.1", port))
                except OSError:
                    return False
                return True

        return in_namespace(links.namespace_path(place.namespace), probe)

    def _prepare(self, place: Place, spec: ReplicaSpec) -> None:
        """The replica's directory: what its proxy and its application find under their own users."""
        home = self._home(place)
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(mode=0o711)
        home.chmod(0o711)
        for name, user in (("admin", place.proxy_user), ("home", place.app_user)):
            (home / name).mkdir(mode=0o700)
            os.chown(home / name, user, user)
        etc = home / "etc"
        etc.mkdir(mode=0o700)
        _write(home / "proxy-resolv.conf", f"nameserver {self.net.gateway}\noptions ndots:1\n")
        domains = f"{spec.namespace}.svc.{CLUSTER_DOMAIN} svc.{CLUSTER_DOMAIN} {CLUSTER_DOMAIN}"
        _write(etc / "resolv.conf", f"nameserver {self.net.gateway}\nsearch {domains}\noptions ndots:1\n")
        names = f"{place.address}\t{spec.name}\n" + (f"{place.address6}\t{spec.name}\n" if place.address6 else "")
        _write(etc / "hosts", f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n{names}")
        with contextlib.suppress(OSError):
            switch = Path("/etc/nsswitch.conf").read_text(errors="replace")
            _write(etc / "nsswitch.conf", _HOSTS_LINE.sub("hosts: files dns", switch))


def _entering(
    launch: Launch, place: Place, user: int, files: Collection[tuple[str, str]], reveal: Collection[str]
) -> Launch:
    """The launch of the program that enters the namespace and becomes the launch's own command."""
    facts = {
        "namespace": str(links.namespace_path(place.namespace)),
        "user": user,
        "name": launch.environment.get("HEADRACE_REPLICA", place.namespace).rpartition("/")[2][:64],
        "files": [list(pair) for pair in files],
        "reveal": sorted(reveal),
    }
    command = (sys.executable, "-I", "-S", str(Path(enter.__file__)), json.dumps(facts), *launch.command)
    environment = {f"{enter.PREFIX}{name}": value for name, value in launch.environment.items()}
    environment[f"{enter.PREFIX}HEADRACE_SUPERVISED"] = launch.mark
    return replace(launch, command=command, environment=environment, log_owner=user)


def program_places(program: Path) -> set[str]:
    """The directories that a program needs: its own, that of what it is a link to, and of either the installation that
    it is part of (`lib` beside `bin`), as of a Python environment."""
    found = set()
    for directory in {program.parent, program.resolve().parent}:
        found.add(str(directory))
        if directory.name == "bin" and (directory.parent / "lib").is_dir():
            found.add(str(directory.parent))
    return found


def _installation() -> tuple[str, ...]:
    """Where this Python and this Headrace are, for applications that are written for them."""
    return (sys.prefix, sys.base_prefix, str(Path(headrace.__file__).parent.parent))


def _exclusions(spec: ReplicaSpec) -> Exclusions:
    try:
        return Exclusions.parse(dict(spec.annotations))
    except ExclusionError as error:
        raise CaptureError(f"{spec.id}: {error}") from None


def _plain_socket(family: int, kind: int) -> socket.socket:
    found = socket.socket(family, kind)
    found.setblocking(False)
    return found


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o644)
