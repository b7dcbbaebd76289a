"""Where one mesh keeps its things on a machine: every path below the state directory has its name here.

A Unix socket's path may be 107 bytes long, so where the state directory lies too deep, the sockets go to a short
owner-only directory in the temporary folder instead (found again by the hash of the state directory's path).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from headrace.floor.files import make_private_directory, write_private

SCHEMA = 1
"""Number of the state directory's layout; another number is refused with a remedy."""
_SOCKET_PATH_LIMIT = 107
_LONGEST_SOCKET_NAME = 48


class StateError(Exception):
    """The state directory cannot be used; the message says why and what to do."""


def _slug(name: str) -> str:
    """A short file name for a replica id: readable, unique by hash, no separators."""
    digest = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
    readable = "".join(char if char.isalnum() or char in "-." else "-" for char in name)[-24:].lstrip(".-")
    return f"{readable}-{digest}"


@dataclass(frozen=True, slots=True)
class Places:
    """Paths of one mesh. `open` makes and checks the directory; the properties make nothing."""

    state: Path

    @classmethod
    def open(cls, state: Path) -> Places:
        """The places of the mesh at `state`, directories made (mode 0700); StateError where its schema is another."""
        places = cls(state.resolve())
        make_private_directory(places.state)
        mark = places.state / "schema"
        if mark.exists():
            found = mark.read_text().strip()
            if found != str(SCHEMA):
                raise StateError(
                    f"{places.state}: written by a Headrace with state schema {found[:20]!r}, this one has {SCHEMA}: "
                    "use that version, or another --state directory"
                )
        else:
            write_private(mark, f"{SCHEMA}\n".encode())
        for directory in (places.sockets, places.logs, places.ca, places.agent, places.proxies):
            make_private_directory(directory)
        return places

    @property
    def sockets(self) -> Path:
        """Directory of the sockets, short enough for sockaddr_un."""
        inside = self.state / "run"
        if len(os.fsencode(inside)) + _LONGEST_SOCKET_NAME <= _SOCKET_PATH_LIMIT:
            return inside
        digest = hashlib.blake2b(os.fsencode(self.state), digest_size=8).hexdigest()
        return Path(tempfile.gettempdir()) / f"headrace-{os.getuid()}-{digest}"

    @property
    def api_socket(self) -> Path:
        """HTTP API of the control plane, for the CLI."""
        return self.sockets / "api.sock"

    @property
    def agent_socket(self) -> Path:
        """gRPC API of the control plane, for the agent on this machine."""
        return self.sockets / "agent.sock"

    def xds_socket(self, replica: str) -> Path:
        """The agent's discovery socket for one replica's Envoy: the socket is the identity."""
        return self.sockets / f"{_slug(replica)}.x"

    def admin_socket(self, replica: str) -> Path:
        """Envoy's admin interface of one replica."""
        return self.sockets / f"{_slug(replica)}.a"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    def workload_log(self, replica: str) -> Path:
        return self.logs / f"{replica.replace('/', '.')}.log"

    def proxy_log(self, replica: str) -> Path:
        return self.logs / f"{replica.replace('/', '.')}.proxy.log"

    @property
    def ca(self) -> Path:
        """Root and signing keys and the ledger (ledger.sqlite)."""
        return self.state / "ca"

    @property
    def agent(self) -> Path:
        """What the agent must find again after a crash (children.json)."""
        return self.state / "agent"

    @property
    def engine_loads(self) -> Path:
        """What model servers say of their load, for this host's Envoys."""
        return self.agent / "engine-loads"

    @property
    def revoked(self) -> Path:
        """Who is revoked, for the guards in this host's Envoys. In a directory of its own, which alone is shown to
        proxies that run as another user."""
        return self.state / "told" / "revoked"

    @property
    def proxies(self) -> Path:
        return self.state / "proxies"

    def bootstrap(self, replica: str) -> Path:
        """Envoy's bootstrap file of one replica."""
        return self.proxies / f"{_slug(replica)}.json"

    @property
    def documents(self) -> Path:
        """Database of documents applied by the API and of last good revisions."""
        return self.state / "documents.sqlite"

    def pid_file(self, role: str) -> Path:
        """`pid starttime` of a role's process: up, agent, control-plane."""
        return self.state / f"{role}.pid"
