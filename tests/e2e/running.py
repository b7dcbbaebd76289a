"""A whole mesh for tests: `headrace up` of a temporary directory, real processes, and all that a test may look at.

Started by the fixtures of conftest.py, which also take it down and look for what it left behind.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace.agent.process import MARK
from headrace.app.api.client import ApiClient, ApiUnreachable, UnixConnection
from headrace.floor.places import Places
from headrace.floor.processes import ProcessMark, read_mark

READY_SECONDS = 45.0
_LISTEN = "0A"  # state of a listening socket in /proc/net/tcp


def until(check: Callable[[], Any], what: str, seconds: float = 20.0, pause: float = 0.02) -> Any:
    """The first true value of `check`; fails with `what` (and its last value) after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what} (last: {found!r})"
        time.sleep(pause)


@dataclass(frozen=True, slots=True)
class Done:
    """What a command answered."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


@dataclass(slots=True)
class RunningMesh:
    """One mesh and its handles. `documents` is the directory it follows, `state` where its state is."""

    root: Path
    addresses: set[str] = field(default_factory=set)
    """Every address that a proxy of this mesh was seen to have."""

    @classmethod
    def make(cls, files: Mapping[str, str]) -> RunningMesh:
        """The directories of a mesh that does not run yet."""
        mesh = cls(Path(tempfile.mkdtemp(prefix="hr-e2e-")))
        mesh.documents.mkdir()
        for name, text in files.items():
            mesh.write(name, text)
        return mesh

    @property
    def documents(self) -> Path:
        return self.root / "documents"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def places(self) -> Places:
        return Places(self.state.resolve())

    def write(self, name: str, text: str) -> None:
        """Replace a file atomically, as an editor does; applications may read it, whoever they run as."""
        path = self.documents / name
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        new.write_text(text)
        new.chmod(0o644)
        new.replace(path)

    def run(self, *arguments: str, timeout: float = 60.0, state: bool = True) -> Done:
        """One `headrace` command against this mesh."""
        command = [sys.executable, "-m", "headrace", *arguments, *(["--state", str(self.state)] if state else [])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=self.root)
        return Done(done.returncode, done.stdout, done.stderr)

    def up(self, *options: str) -> Done:
        """Start it in the background and wait until it is ready; with loopback capture where nothing else is said."""
        if "--capture" not in options:
            options = (*options, "--capture", "loopback")
        done = self.run(
            "up", str(self.documents), "--wait", "--detach", "--timeout", f"{READY_SECONDS:g}", *options, timeout=120.0
        )
        assert done.code == 0, f"{done.err}\n{self.logs()}"
        self.proxies()
        return done

    @property
    def api(self) -> ApiClient:
        return ApiClient(self.state, timeout=10.0)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.api.call("GET", "/v1/status")
        return found

    def proxies(self) -> dict[str, dict[str, Any]]:
        """The rows of `proxy status` by replica."""
        rows = {str(row["proxy"]): row for row in self.api.call("GET", "/v1/proxies")}
        self.addresses |= {str(row["address"]) for row in rows.values() if row["address"]}
        return rows

    def row(self, replica: str) -> dict[str, Any]:
        """One replica's row; a control plane that was just started is told of replicas a moment later."""
        found: dict[str, Any] = until(lambda: self.proxies().get(replica), f"the control plane was told of {replica}")
        return found

    def ready(self) -> bool:
        """Whether the control plane answers and says so."""
        with contextlib.suppress(ApiUnreachable):
            return bool(self.status()["ready"])
        return False

    def wait_ready(self, seconds: float = 30.0) -> None:
        until(self.ready, "the mesh is ready", seconds)

    def replicas(self, workload: str) -> list[str]:
        """Ids of the replicas of a workload of namespace default that exist now, sorted."""
        return sorted(name for name in self.proxies() if re.fullmatch(rf"default/{re.escape(workload)}-\d+", name))

    def gateway(self) -> str:
        """The first URL of the first gateway."""
        return str(self.status()["gateways"][0]["urls"][0])

    def role(self, name: str) -> ProcessMark:
        """The process of a role: up, agent, control-plane."""
        found = until(lambda: read_mark(self.places.pid_file(name)), f"a process of role {name}")
        assert isinstance(found, ProcessMark)
        return found

    def kill(self, role: str) -> ProcessMark:
        """SIGKILL to a role's process; its mark."""
        mark = self.role(role)
        assert mark.send(signal.SIGKILL)
        until(lambda: not mark.alive(), f"{role} is dead")
        return mark

    def environment(self, replica: str) -> dict[str, str]:
        """The environment of a replica's application, as the system shows it to its owner."""
        pairs = Path(f"/proc/{self.row(replica)['app_pid']}/environ").read_bytes().decode().split("\0")
        return dict(pair.split("=", 1) for pair in pairs if "=" in pair)

    def proxy_url(self, replica: str) -> str:
        """HTTP_PROXY of a replica's application, credentials included: who has it speaks as this replica."""
        return self.environment(replica)["HTTP_PROXY"]

    def secret(self, replica: str) -> str:
        """The password in it."""
        return urllib.parse.urlsplit(self.proxy_url(replica)).password or ""

    def admin(self, replica: str, path: str) -> bytes:
        """The answer of a replica's Envoy on its admin socket."""
        connection = UnixConnection(self.places.admin_socket(replica), 5.0)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def stats(self, replica: str, prefix: str) -> dict[str, int]:
        """Counters and gauges of a replica's Envoy whose names start with `prefix`."""
        answer = json.loads(self.admin(replica, f"/stats?format=json&filter=^{re.escape(prefix)}"))
        return {item["name"]: item["value"] for item in answer["stats"] if isinstance(item.get("value"), int)}

    def ask_app(self, replica: str, method: str, path: str, body: Any = None) -> bytes:
        """Talk to a replica's application directly, past every proxy."""
        port = next(iter(self.row(replica)["app_ports"].values()))
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5.0)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status == 200, (answer.status, text)
            return text
        finally:
            connection.close()

    def served(self, replica: str) -> int:
        """Answers that a simulated server has finished."""
        text = self.ask_app(replica, "GET", "/metrics").decode()
        found = re.search(r"^vllm:request_success_total\{.*\} (\d+)", text, re.MULTILINE)
        assert found, text
        return int(found[1])

    def logs(self, lines: int = 12) -> str:
        """The ends of all logs, for a failed assertion."""
        parts = []
        for path in sorted(self.places.logs.glob("*.log")):
            tail = path.read_text(errors="replace").splitlines()[-lines:]
            parts.append(f"== {path.name}\n" + "\n".join(tail))
        return "\n".join(parts)

    def down(self) -> None:
        """Stop it, whatever state it is in, and fail where anything is left."""
        if any(read_mark(self.places.pid_file(role)) for role in ("up", "agent", "control-plane")):
            with contextlib.suppress(ApiUnreachable):
                self.proxies()
            done = self.run("down", timeout=120.0)
            assert done.code == 0, done.err
        left = self.leftovers()
        for line in left:
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(line.split()[1]), signal.SIGKILL) if line.startswith("process ") else None
        assert not left, "\n".join(left)

    def remove(self) -> None:
        """Delete its directories."""
        shutil.rmtree(self.root, ignore_errors=True)

    def processes(self) -> list[str]:
        """`process PID NAME` of everything that names this mesh's directories in its command line or environment, other
        than this process."""
        needle = os.fsencode(self.root)
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes()
                environment = (entry / "environ").read_bytes()
                ours = needle in command or (needle in environment and f"{MARK}=".encode() in environment)
                if ours and ProcessMark.of(int(entry.name)):
                    found.append(f"process {entry.name} {command.replace(bytes(1), b' ').decode(errors='replace')}")
        return sorted(found)

    def leftovers(self) -> list[str]:
        """Processes, Unix sockets and listening addresses of this mesh that are still there."""
        found = self.processes()
        found += [f"socket {path}" for path in sorted(self.places.sockets.glob("*")) if path.is_socket()]
        names = Path("/proc/net/unix").read_text()
        if str(self.places.sockets) in names:
            found.append(f"bound socket below {self.places.sockets}")
        found += [f"listener {address}:{port}" for address, port in listeners() if address in self.addresses - _SHARED]
        return found


_SHARED = {"127.0.0.1", "0.0.0.0"}


def listeners() -> list[tuple[str, int]]:
    """Addresses and ports of all listening TCP sockets of IPv4."""
    found = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == _LISTEN:
            address, port = fields[1].split(":")
            octets = bytes.fromhex(address)[::-1]
            found.append((".".join(map(str, octets)), int(port, 16)))
    return sorted(found)
