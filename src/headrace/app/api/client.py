"""How commands talk to a running mesh: HTTP over the control plane's Unix socket, standard library only.

Called by `headrace get|apply|delete|describe|proxy|up`. Free of heavy imports: commands should answer at once.
"""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from headrace.app.cli import CommandFailed
from headrace.floor.places import Places


class ApiUnreachable(CommandFailed):
    """No control plane answers at this state directory."""


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection whose transport is a Unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("headrace", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask_admin(socket_path: Path, path: str, timeout: float) -> Any:
    """The JSON that an Envoy's admin socket answers. Raises OSError or http.client.HTTPException where it does not
    answer, ValueError where the answer is not JSON."""
    connection = UnixConnection(socket_path, timeout)
    try:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


class ApiClient:
    """Asks the control plane of one mesh. `timeout` in seconds, for each call."""

    def __init__(self, state: Path, timeout: float = 30.0) -> None:
        self._state = state
        self._path = Places(state.resolve()).api_socket
        self._timeout = timeout

    def call(self, method: str, path: str, body: Any = None, **query: str | None) -> Any:
        """The decoded answer. ApiUnreachable where nothing listens, CommandFailed with the API's own words where it
        says no."""
        wanted = {name: value for name, value in query.items() if value}
        target = quote(path) + (f"?{urlencode(wanted)}" if wanted else "")
        connection = UnixConnection(self._path, self._timeout)
        try:
            connection.request(
                method,
                target,
                None if body is None else json.dumps(body).encode(),
                {"content-type": "application/json"},
            )
            response = connection.getresponse()
            text = response.read()
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise ApiUnreachable(
                f"no mesh runs at {self._state}: start one with `headrace up DIR`, or name its --state directory"
            ) from error
        except PermissionError as error:
            raise ApiUnreachable(f"{self._path} belongs to another user: run as the mesh's owner") from error
        except (OSError, http.client.HTTPException) as error:
            raise ApiUnreachable(
                f"the control plane at {self._state} does not answer ({error}): see its log"
            ) from error
        finally:
            connection.close()
        try:
            answer = json.loads(text)
        except ValueError as error:
            raise CommandFailed(f"the control plane's answer to {target} is not JSON: see its log") from error
        if response.status >= 400:
            raise CommandFailed(str(answer.get("error", answer)))
        return answer
