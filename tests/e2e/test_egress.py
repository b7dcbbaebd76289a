"""Egress of a running mesh (docs/guides/egress.md): closed but for what is named, one way out that has the key."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import aiohttp
import pytest
from tests.e2e.running import RunningMesh, until
from tests.flows.test_translated_egress import DOCUMENTS
from tests.flows.test_translated_origination import Authority

OLD, NEW = "sk-old-4f1c9a7be2", "sk-new-93d05b16fc"
DOOR = """
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {name: way-out, namespace: egress}
spec: {role: gateway, labels: {istio: egressgateway}, serviceAccountName: way-out}
"""
CLOSED = "outboundTrafficPolicy: {mode: REGISTRY_ONLY}\n"


class Provider(BaseHTTPRequestHandler):
    """A model API outside the mesh; it remembers what it was authorized with."""

    seen: list[str | None]

    def do_GET(self) -> None:
        self.seen.append(self.headers.get("authorization"))
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def provider(directory: Path) -> Iterator[tuple[int, list[str | None]]]:
    chain, key = Authority(directory, "ca").issue("server", "api.example")
    seen: list[str | None] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Provider,), {"seen": seen}))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1], seen
    finally:
        server.shutdown()
        server.server_close()


def documents(port: int, ca: Path, key: str) -> str:
    """The flow test's documents, with a gateway that the mesh runs in place of the Pod."""
    token = base64.b64encode(key.encode()).decode()
    parts = DOCUMENTS.format(port=port, ca=ca, token=token, gateway=443).split("\n---\n")
    return "\n---\n".join([DOOR, *parts[1:]]).replace("command: [run]", "command: [sleep, infinity]")


@pytest.fixture
def egress(tmp_path: Path) -> Iterator[tuple[RunningMesh, Path, int, list[str | None]]]:
    with provider(tmp_path) as (port, seen):
        mesh = RunningMesh.make({"all.yaml": documents(port, tmp_path / "ca.pem", OLD)})
        (mesh.root / "mesh.yaml").write_text(CLOSED)
        try:
            mesh.up("--capture", "loopback", "--mesh-config", str(mesh.root / "mesh.yaml"))
            yield mesh, tmp_path / "ca.pem", port, seen
        finally:
            mesh.down()
            mesh.remove()


def ask(mesh: RunningMesh, replica: str, url: str = "http://api.example/v1/models") -> int:
    """The status that a replica's application gets, with a key of its own."""

    async def one() -> int:
        timeout = aiohttp.ClientTimeout(10)
        mine = {"authorization": "Bearer of-the-application"}
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url, proxy=mesh.proxy_url(replica), headers=mine) as answer,
        ):
            return answer.status

    return asyncio.run(one())


def test_one_way_out_that_has_the_key(egress: tuple[RunningMesh, Path, int, list[str | None]]) -> None:
    mesh, ca, port, seen = egress
    until(lambda: ask(mesh, "default/client-0") == 200, "the gateway lets the client out", 30.0, 0.2)
    assert ask(mesh, "default/stranger-0") == 403
    assert ask(mesh, "default/client-0", "http://elsewhere.example/") == 502
    assert set(seen) == {f"Bearer {OLD}"}

    mesh.write("all.yaml", documents(port, ca, NEW))
    until(lambda: ask(mesh, "default/client-0") == 200 and seen[-1] == f"Bearer {NEW}", "the new key", 30.0, 0.05)
    assert set(seen) == {f"Bearer {OLD}", f"Bearer {NEW}"}

    shown = mesh.run("get", "all", "-o", "json").out + mesh.logs(100_000)
    shown += "".join(mesh.admin(name, "/config_dump").decode() for name in mesh.proxies())
    for key in (OLD, NEW):
        assert key not in shown
        assert base64.b64encode(key.encode()).decode() not in shown
        assert base64.b64encode(f"Bearer {key}".encode()).decode() not in shown
