"""A whole mesh for a benchmark: `headrace up` of documents in a temporary directory, taken down in every case."""

from __future__ import annotations

import base64
import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from headrace.app.api.client import ApiClient
from headrace.floor.places import Places

READY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Sidecar:
    """Where a sidecar takes requests, and the `Proxy-Authorization` that it wants."""

    address: tuple[str, int]
    credentials: str = field(repr=False)

    @classmethod
    def of(cls, proxy: str) -> Sidecar:
        """From the value of HTTP_PROXY."""
        found = urlsplit(proxy)
        secret = base64.b64encode(f"{found.username}:{found.password}".encode()).decode()
        return cls((found.hostname or "", found.port or 0), f"Basic {secret}")


@dataclass(frozen=True, slots=True)
class Mesh:
    """A mesh that runs. `documents` is the directory that it follows, `state` where its state is."""

    root: Path

    @property
    def documents(self) -> Path:
        return self.root / "documents"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def places(self) -> Places:
        return Places(self.state.resolve())

    @property
    def api(self) -> ApiClient:
        return ApiClient(self.state, timeout=10.0)

    def proxies(self) -> dict[str, dict[str, Any]]:
        """The rows of `headrace proxy status` by replica."""
        return {str(row["proxy"]): row for row in self.api.call("GET", "/v1/proxies")}

    def environment(self, replica: str) -> dict[str, str]:
        """The environment of a replica's application, which its owner may read."""
        pid = self.proxies()[replica]["app_pid"]
        pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        return dict(pair.split("=", 1) for pair in pairs if "=" in pair)

    def gateway(self) -> str:
        """The URL of the first gateway's port 80."""
        ports = next(row["gateway_ports"] for row in self.proxies().values() if row["gateway_ports"])
        return f"http://127.0.0.1:{ports['80']}"

    def sidecar(self, replica: str) -> Sidecar:
        """How a replica's application reaches its sidecar, with loopback capture."""
        return Sidecar.of(self.environment(replica)["HTTP_PROXY"])


def headrace(*arguments: str, timeout: float = 120.0) -> str:
    """What one command prints; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "headrace", *arguments], capture_output=True, text=True, timeout=timeout
    )
    if done.returncode != 0:
        raise SystemExit(f"headrace {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


@contextlib.contextmanager
def running_mesh(files: Mapping[str, str], options: Sequence[str] = ()) -> Iterator[Mesh]:
    """A ready mesh of these documents (file name → YAML), with further options of `headrace up`."""
    mesh = Mesh(Path(tempfile.mkdtemp(prefix="hr-bench-")))
    try:
        mesh.documents.mkdir()
        for name, text in files.items():
            (mesh.documents / name).write_text(text)
        headrace(
            "up",
            str(mesh.documents),
            "--state",
            str(mesh.state),
            "--wait",
            "--detach",
            "--timeout",
            f"{READY_SECONDS:g}",
            *(() if "--capture" in options else ("--capture", "loopback")),
            *options,
        )
        yield mesh
    except SystemExit:
        for log in sorted(mesh.places.logs.glob("*.log")):
            print(f"== {log.name}\n{log.read_text(errors='replace')[-1500:]}", file=sys.stderr)
        raise
    finally:
        down(mesh)
        shutil.rmtree(mesh.root, ignore_errors=True)


def down(mesh: Mesh) -> None:
    """Stop the mesh, whatever state it is in."""
    if mesh.state.exists():
        subprocess.run(
            [sys.executable, "-m", "headrace", "down", "--state", str(mesh.state)], capture_output=True, timeout=120.0
        )


def until(check: Any, what: str, seconds: float = 20.0, pause: float = 0.001) -> Any:
    """The first true value of `check`; ends the benchmark with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {seconds:g} s: {what}")
        time.sleep(pause)
    return found
