"""A real Envoy for flow tests: started with a bootstrap, asked over its admin socket, stopped whatever happens."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.envoy.binary import pinned_envoy


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass
class EnvoyProcess:
    """A running Envoy with its admin socket and everything it wrote to standard error."""

    process: subprocess.Popen[bytes]
    admin_socket: Path
    log: Path

    def admin(self, path: str, method: str = "GET") -> bytes:
        """The body of the admin interface's answer."""
        connection = _UnixConnection(self.admin_socket, 5.0)
        with contextlib.closing(connection):
            connection.request(method, path)
            return connection.getresponse().read()

    def stats(self, pattern: str) -> dict[str, int]:
        """Counters and gauges whose name matches the regular expression."""
        found = json.loads(self.admin(f"/stats?format=json&filter={pattern}"))["stats"]
        return {entry["name"]: entry["value"] for entry in found if "name" in entry}

    def listener_address(self, name: str) -> tuple[str, int]:
        """Where the listener really listens (for those with port 0)."""
        for status in json.loads(self.admin("/listeners?format=json"))["listener_statuses"]:
            if status["name"] == name:
                address = status["local_address"]["socket_address"]
                return address["address"], address["port_value"]
        raise AssertionError(f"no listener {name}: {self.log.read_text()[-2000:]}")

    def log_text(self) -> str:
        return self.log.read_text()


def wait_until(condition: Any, what: str, seconds: float = 15.0) -> Any:
    """The first true answer of `condition`, asked every 10 ms; AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            answer = condition()
            if answer:
                return answer
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds:g} s: {what}")


@contextlib.contextmanager
def running_envoy(
    bootstrap: bytes, admin_socket: Path, environment: Mapping[str, str] = {}, workers: int = 1
) -> Iterator[EnvoyProcess]:
    """Envoy with this bootstrap, from the moment its admin socket answers."""
    with tempfile.TemporaryDirectory(prefix="hr-envoy-") as directory:
        config, log = Path(directory) / "bootstrap.json", Path(directory) / "log"
        config.write_bytes(bootstrap)
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [pinned_envoy(), "-c", config, "--disable-hot-restart", "--concurrency", str(workers), "-l", "info"],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
            )
        envoy = EnvoyProcess(process, admin_socket, log)
        try:
            wait_until(lambda: _answers(envoy), "Envoy's admin socket answers")
            yield envoy
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


def _answers(envoy: EnvoyProcess) -> bytes:
    if envoy.process.poll() is not None:
        raise AssertionError(f"Envoy ended with {envoy.process.returncode}: {envoy.log_text()[-3000:]}")
    return envoy.admin("/server_info")
