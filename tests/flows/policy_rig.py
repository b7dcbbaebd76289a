"""A workload behind a real Envoy that enforces the policies of a text, and callers of any identity before it.

Callers write their requests byte by byte over mutual TLS with certificates of the mesh's authority (or in clear text),
so that no client library tidies a path or a header away.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from tests.flows.envoy_process import EnvoyProcess
from tests.flows.identity_rig import Trust
from tests.flows.translated_rig import Mesh, echo, free_port, loopback, mesh

from headrace.model.identity import Identity

ADDRESS = "127.0.85.1"
DOCUMENTS = """
apiVersion: headrace.dev/v1alpha1
kind: MeshConfig
metadata: {{name: mesh}}
spec:
  accessLogFile: /dev/stderr
  accessLogFormat: "LOGGED %REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS%\\n"
  trustDomainAliases: [old.local]
{settings}
---
apiVersion: v1
kind: Service
metadata: {{name: chat}}
spec:
  selector: {{app: chat}}
  ports: [{{name: http, port: 80, targetPort: {http}}}, {{name: tcp, port: 90, targetPort: {tcp}}}]
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: chat}}
spec: {{address: 127.0.85.1, labels: {{app: chat}}, serviceAccount: chat}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: istio-system}}
spec: {{mtls: {{mode: {mode}}}}}
---
"""


@dataclass
class Answer:
    """What came back; status 0 where the connection was closed without an answer."""

    status: int
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def seen(self) -> Any:
        """What the application saw."""
        return json.loads(self.body)


@dataclass
class Guarded:
    """The workload: its ports, its Envoy, and the authority that its callers' certificates come from."""

    running: Mesh
    http: int
    tcp: int
    envoy: EnvoyProcess
    contexts: dict[str, ssl.SSLContext] = field(default_factory=dict)

    async def ask(
        self,
        path: str = "/",
        caller: str = "ns/default/sa/web",
        *,
        method: str = "GET",
        host: str = "chat",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One request; an empty `caller` speaks clear text."""
        lines = [f"{method} {path} HTTP/1.1", f"host: {host}", "connection: close"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        sent = ("\r\n".join(lines) + "\r\n\r\n").encode()
        context = self._context(f"cluster.local/{caller}") if caller else None
        return _parsed(await asyncio.to_thread(self._exchange, self.http, sent, context))

    async def connect(self, caller: str = "ns/default/sa/web") -> bytes:
        """What the TCP port answers to `hello`: empty where the connection was refused."""
        context = self._context(f"cluster.local/{caller}") if caller else None
        return await asyncio.to_thread(self._exchange, self.tcp, b"hello", context)

    def _context(self, caller: str) -> ssl.SSLContext:
        if caller not in self.contexts:
            self.contexts[caller] = _context(self.running.trust, caller)
        return self.contexts[caller]

    def _exchange(self, port: int, sent: bytes, context: ssl.SSLContext | None) -> bytes:
        with socket.create_connection((ADDRESS, port), 10) as plain:
            plain.settimeout(10)
            received = b""
            with contextlib.suppress(ConnectionResetError, BrokenPipeError, ssl.SSLError):
                stream = context.wrap_socket(plain) if context else plain
                stream.sendall(sent)
                while chunk := stream.recv(65536):
                    received += chunk
                    if port == self.tcp:
                        break
            return received

    def log(self) -> list[str]:
        """The access log's lines so far, without their mark."""
        self.envoy.admin("/reopen_logs", "POST")
        return [line.removeprefix("LOGGED ") for line in self.envoy.log_text().splitlines() if "LOGGED" in line]


def _context(trust: Trust, caller: str) -> ssl.SSLContext:
    domain, _, rest = caller.partition("/")
    _, namespace, _, account = rest.split("/")
    pair = trust.pair(Identity(domain, namespace, account))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["istio"])
    with tempfile.NamedTemporaryFile() as file:
        file.write(pair.chain_pem.encode() + pair.key.reveal_pem())
        file.flush()
        context.load_cert_chain(file.name)
    return context


def _parsed(received: bytes) -> Answer:
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    if not lines[0].startswith("HTTP/"):
        return Answer(0)
    pairs = (line.partition(":") for line in lines[1:])
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    if headers.get("transfer-encoding") == "chunked":
        body = b"".join(body.split(b"\r\n")[1::2])
    return Answer(int(lines[0].split()[1]), body.decode(), headers)


@contextlib.asynccontextmanager
async def guarded(policies: str, *, mode: str = "STRICT", settings: str = "") -> AsyncIterator[Guarded]:
    """The workload under these policies, which may name its ports as %HTTP% and %TCP%. `settings` are further lines of
    MeshConfig's spec."""
    async with echo() as app, _tcp_echo() as tcp_app:
        http, tcp = free_port(ADDRESS), free_port(ADDRESS)
        policies = policies.replace("%HTTP%", str(http)).replace("%TCP%", str(tcp))
        documents = DOCUMENTS.format(http=http, tcp=tcp, mode=mode, settings=settings) + policies
        async with mesh(documents) as running:
            proxy = loopback(running.described("sidecar/default/chat"), ADDRESS, ((http, app), (tcp, tcp_app)))
            yield Guarded(running, http, tcp, await running.run(proxy))


@contextlib.asynccontextmanager
async def _tcp_echo() -> AsyncIterator[int]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"tcp:" + await reader.read(1000))
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
