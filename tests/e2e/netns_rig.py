"""What tests of transparent capture share: documents, commands run as a replica's application, a look for leftovers.

Tests that cannot run here say why (`headrace.agent.netns.support`).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.running import RunningMesh

from headrace.agent.netns import links
from headrace.agent.netns.plan import RUNTIME, MeshNet, Place, known_net, mesh_id
from headrace.agent.netns.support import obstacle
from headrace.floor.processes import ProcessMark

needs_netns = pytest.mark.skipif(bool(obstacle()), reason=f"netns capture is impossible here: {obstacle()}")

ECHO = """\
import http.server, json, os, socketserver, sys
class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = json.dumps({"path": self.path, "peer": self.client_address[0], "uid": os.getuid(),
                           "headers": {k.lower(): v for k, v in self.headers.items()}}).encode()
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("", int(os.environ.get("ECHO_PORT") or os.environ["PORT"])), Echo).serve_forever()
"""
"""An HTTP server that answers with what it was sent; it listens on every address of its namespace."""
BANNER = """\
import os, socket, threading
server = socket.create_server(("", int(os.environ["PORT"])))
def serve(conn):
    conn.sendall(b"wire ready\\n")
    while data := conn.recv(4096):
        conn.sendall(data.upper())
    conn.close()
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""
"""A TCP server that speaks first and then answers in capitals."""


def workload(name: str, script: str = "", *, port: str = "", extra: str = "", annotations: str = "{}") -> str:
    """A Workload that runs a Python script (or sleeps), with a service account of its own name."""
    command = json.dumps([sys.executable, "-c", script] if script else ["sleep", "infinity"])
    ports = f"\n  ports: [{port}]" if port else ""
    return f"""\
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {{name: {name}, annotations: {annotations}}}
spec:
  command: {command}
  serviceAccountName: {name}
  labels: {{app: {name}}}{ports}
  terminationGracePeriodSeconds: 3
{extra}"""


def service(name: str, port: int, target: int, port_name: str) -> str:
    return f"""\
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: {port_name}, port: {port}, targetPort: {target}}}]
"""


DOCUMENTS = {
    "chat.yaml": service("chat", 80, 8000, "http") + "---\n" + workload("chat", ECHO, port="{name: http, port: 8000}"),
    "wire.yaml": service("wire", 7000, 7000, "tcp")
    + "---\n"
    + workload("wire", BANNER, port="{name: tcp, port: 7000}"),
    "client.yaml": workload("client"),
    "stranger.yaml": workload("stranger"),
}


def net_of(mesh: RunningMesh) -> MeshNet:
    """The addresses of a running mesh."""
    name = mesh_id(mesh.state.resolve())
    uplink = links.uplink_address(f"hr{name}")
    assert uplink is not None, "the mesh has no interface on this machine"
    return known_net(name, links.address_of(uplink).network, ipv6=links.has_ipv6())


def place_of(mesh: RunningMesh, replica: str) -> Place:
    """Where a replica lives."""
    return net_of(mesh).place(mesh.row(replica)["address"])


def as_app(mesh: RunningMesh, replica: str, *command: str, user: int | None = None, timeout: float = 30.0) -> Any:
    """Run a command as the replica's application would: in its namespaces, as its user, without any privilege."""
    row = mesh.row(replica)
    user = place_of(mesh, replica).app_user if user is None else user
    enter = ["nsenter", f"--target={row['app_pid']}", "--net", "--mount", "--ipc"]
    become = [
        "setpriv",
        f"--reuid={user}",
        f"--regid={user}",
        "--clear-groups",
        "--no-new-privs",
        "--bounding-set=-all",
    ]
    environment = {"PATH": os.environ["PATH"], "HOME": "/"}
    return subprocess.run(
        [*enter, *become, *command], capture_output=True, text=True, timeout=timeout, env=environment, cwd="/"
    )


def script(mesh: RunningMesh, replica: str, text: str, **kinds: Any) -> Any:
    """What a Python script prints (JSON) when the replica's application runs it."""
    done = as_app(mesh, replica, sys.executable, "-I", "-c", textwrap.dedent(text), **kinds)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def get(mesh: RunningMesh, replica: str, url: str, *options: str) -> tuple[int, Any]:
    """Status and JSON body (None where it is none) of a request by curl, which knows of no proxy; 0 for no answer."""
    done = as_app(mesh, replica, "curl", "-sS", "--noproxy", "*", "-m", "10", "-w", "\n%{http_code}", *options, url)
    body, _, status = done.stdout.rpartition("\n")
    try:
        return int(status or 0), json.loads(body)
    except ValueError:
        return int(status or 0), None


class Resolver:
    """A name server of 127.0.0.0/8 that knows one name, once it has an `answer`."""

    def __init__(self, address: str, name: str) -> None:
        self.asked: list[str] = []
        self.answer = ""
        self._name = name
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((address, 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                packet, client = self._socket.recvfrom(4096)
                labels, at = [], 12
                while packet[at]:
                    labels.append(packet[at + 1 : at + 1 + packet[at]].decode())
                    at += 1 + packet[at]
                name, kind, question = ".".join(labels).lower(), packet[at + 2], packet[12 : at + 5]
                self.asked.append(name)
                records = b""
                known = name == self._name and bool(self.answer)
                if known and kind == 1:
                    records = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04" + socket.inet_aton(self.answer)
                code = 0 if known else 3
                head = packet[:2] + bytes((0x81, 0x80 | code, 0, 1, 0, 1 if records else 0, 0, 0, 0, 0))
                self._socket.sendto(head + question + records, client)

    def close(self) -> None:
        self._socket.close()


def crash(mesh: RunningMesh) -> None:
    """SIGKILL to everything that could clean up; proxies and applications go on."""
    for role in ("up", "agent", "control-plane"):
        mark = mesh.role(role)
        assert isinstance(mark, ProcessMark)
        mark.send(9)
        assert mark.wait_gone(10.0)


def leftovers(state: Path) -> list[str]:
    """Whatever a mesh at this state directory has left on the machine's network."""
    name = mesh_id(state.resolve())
    found = [f"namespace {item}" for item in links.namespaces_of(name)]
    found += [f"interface hr{name}"] if Path(f"/sys/class/net/hr{name}").exists() else []
    found += [f"directory {RUNTIME / name}"] if (RUNTIME / name).exists() else []
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, timeout=20, check=True).stdout
    return found + [f"table {line}" for line in tables.splitlines() if name in line]
