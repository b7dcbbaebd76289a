"""Two Envoys with the mesh's mutual TLS and the module's guards, before a server that can stream for long.

Clients speak to the front (the client's Envoy), whose guard watches the server's side; the server's Envoy has the guard
that closes connections of revoked clients. Both read who is revoked from one file.
"""

from __future__ import annotations

import contextlib
import datetime
import http.client
import json
import shutil
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.json_format import MessageToDict
from tests.flows.envoy_process import EnvoyProcess, running_envoy, wait_until
from tests.flows.identity_rig import (
    CLIENT,
    SERVER,
    SecretServer,
    Trust,
    assignment,
    bootstrap,
    http_filter,
    upstream,
)
from tests.flows.module_rig import module_directory

from headrace.agent.sds import REVOKED_VARIABLE, revoked_text
from headrace.envoy import module as native
from headrace.envoy.module_filter import guard_filter, guard_network_filter
from headrace.envoy.secrets import validation_secret
from headrace.envoy.translate.tls import mesh_downstream
from headrace.floor.files import write_private
from headrace.identity.keys import PrivateKey
from headrace.identity.material import key_usage
from headrace.identity.rotation import WorkloadCertificate
from headrace.model.mesh import MeshConfig

_TCP = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
_TCP_TO = {"stat_prefix": "tcp", "cluster": "right"}


def _has_guard() -> bool:
    file = module_directory() / native.FILE_NAME
    return file.is_file() and b"HEADRACE_REVOKED" in file.read_bytes()


needs_guard = pytest.mark.skipif(
    not _has_guard(), reason=f"the native module in {module_directory()} is not built, or has no guard"
)


class _Backend(BaseHTTPRequestHandler):
    """`/stream` says a line every 20 ms until the connection breaks, anything else answers at once."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if not self.path.endswith("/stream"):
            self.send_response(200)
            self.send_header("content-length", "7")
            self.end_headers()
            self.wfile.write(b"through")
            return
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        with contextlib.suppress(OSError):
            while not self.server.over.is_set():  # type: ignore[attr-defined]
                self.wfile.write(b"2\r\n.\n\r\n")
                self.wfile.flush()
                time.sleep(0.02)
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def _backend() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Backend)
    server.daemon_threads = True
    server.over = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.over.set()  # type: ignore[attr-defined]
        server.shutdown()
        server.server_close()


def _plain(name: str, port: int) -> dict[str, Any]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {"name": name, "connect_timeout": "2s", "load_assignment": assignment(name, address)}


def _long_routes(clusters: list[str]) -> dict[str, Any]:
    routes = [{"match": {"prefix": f"/{name}"}, "route": {"cluster": name, "timeout": "0s"}} for name in clusters]
    return {"routes": [*routes, {"match": {"prefix": "/"}, "route": {"cluster": clusters[0], "timeout": "0s"}}]}


@dataclass
class GuardRig:
    """The rig. `certificates` are what the two Envoys hold now."""

    work: Path
    trust: Trust
    secrets: dict[str, SecretServer]
    client: EnvoyProcess
    server: EnvoyProcess
    server_port: int
    front_port: int
    certificates: dict[str, WorkloadCertificate] = field(default_factory=dict)

    def tell(self, *, identities: Sequence[str] = (), certificates: Sequence[str] = ()) -> None:
        """Write who is revoked, as the agent does."""
        write_private(self.work / "revoked", revoked_text(identities, certificates))

    def lists(self, pem: str) -> None:
        """Give both sides these revocation lists."""
        for server in self.secrets.values():
            server.put(validation_secret("ROOTCA", self.trust.authority.bundle_pem, pem))

    def in_force(self, envoy: EnvoyProcess, name: str) -> str:
        """The version of a secret that an Envoy uses."""
        dump = json.loads(envoy.admin("/config_dump?resource=dynamic_active_secrets"))
        return str({item["name"]: item["version_info"] for item in dump.get("configs", [])}.get(name, ""))

    def ask(self) -> int:
        """The status of one request through both Envoys."""
        connection = http.client.HTTPConnection("127.0.0.1", self.front_port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", "/right")
            response = connection.getresponse()
            response.read()
            return response.status

    def context(self, certificate: WorkloadCertificate) -> ssl.SSLContext:
        """Python's own TLS client with a certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=self.trust.authority.bundle_pem)
        with tempfile.NamedTemporaryFile(dir=self.work) as file:
            file.write(certificate.key.reveal_pem() + certificate.chain_pem.encode())
            file.flush()
            context.load_cert_chain(file.name)
        return context

    def stream_as(self, certificate: WorkloadCertificate) -> Stream:
        """A stream straight to the server's Envoy, with a certificate of the test's own."""
        plain = socket.create_connection(("127.0.0.1", self.server_port), 10)
        return Stream(self.context(certificate).wrap_socket(plain))

    def stream_through(self) -> Stream:
        """A stream through both Envoys."""
        return Stream(socket.create_connection(("127.0.0.1", self.front_port), 10), "/right/stream")


class Stream:
    """One request that is answered without end, read in a thread of its own."""

    def __init__(self, connection: socket.socket, path: str = "/stream") -> None:
        self._connection = connection
        self.received = 0
        self.ended_at: float | None = None
        connection.settimeout(60)
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: server\r\n\r\n".encode())
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while chunk := self._connection.recv(4096):
                self.received += chunk.count(b".\n")
                if b"0\r\n\r\n" in chunk:
                    break
        self.ended_at = time.monotonic()

    def flows(self) -> None:
        """Wait until more comes; AssertionError where nothing does."""
        before = self.received
        wait_until(lambda: self.received > before + 2, "the stream flows", 30.0)

    def ended(self) -> float:
        """When it ended (monotonic seconds)."""
        wait_until(lambda: self.ended_at is not None, "the stream ended", 30.0)
        assert self.ended_at is not None
        return self.ended_at

    def close(self) -> None:
        self._connection.close()
        self._thread.join(10)


@contextlib.contextmanager
def guard_rig(make_trust: Callable[[Path], Trust] = Trust, *, tcp: bool = False) -> Iterator[GuardRig]:
    """The rig, everything in place and live, nobody revoked. `tcp`: the front forwards bytes, not requests."""
    work = Path(tempfile.mkdtemp(prefix="hr-guard-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        trust = make_trust(work / "ca")
        stack.callback(trust.ledger.close)
        secrets, pairs = {}, {}
        for name, identity in (("client", CLIENT), ("server", SERVER)):
            secrets[name] = SecretServer(work / f"{name}.sds")
            stack.callback(secrets[name].stop)
            pairs[name] = trust.pair(identity)
            secrets[name].put_pair("default", pairs[name])
            secrets[name].put(validation_secret("ROOTCA", trust.authority.bundle_pem))
        write_private(work / "revoked", revoked_text([], []))
        environment = {native.SEARCH_PATH: str(module_directory()), REVOKED_VARIABLE: str(work / "revoked")}
        app = stack.enter_context(_backend())
        chain = {
            "filters": [_dict(guard_network_filter()), http_filter(_long_routes(["app"]))],
            "transport_socket": _dict(mesh_downstream(MeshConfig())),
        }
        text = bootstrap(work, "server", chain, [_plain("app", app)])
        server = stack.enter_context(running_envoy(text, work / "server.adm", environment))
        port = wait_until(lambda: server.listener_address("door")[1], "the server's listener is up")
        manager = http_filter(_long_routes(["right"]))
        manager["typed_config"]["http_filters"].insert(0, _dict(guard_filter()))
        opaque = [_dict(guard_network_filter()), {"name": "tcp", "typed_config": {"@type": _TCP, **_TCP_TO}}]
        front_chain = {"filters": opaque if tcp else [manager]}
        text = bootstrap(work, "client", front_chain, [upstream("right", port, SERVER)])
        client = stack.enter_context(running_envoy(text, work / "client.adm", environment))
        front = wait_until(lambda: client.listener_address("door")[1], "the client's listener is up")
        rig = GuardRig(work, trust, secrets, client, server, port, front, pairs)
        wait_until(lambda: rig.ask() == 200, "both Envoys have their secrets", 30.0)
        yield rig


def with_intermediate(directory: Path) -> Trust:
    """An authority as an organisation plugs it in: root, intermediate that signs, no list of the root."""
    directory.mkdir(mode=0o700)
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    end = start + datetime.timedelta(days=100)

    def certificate(name: str, key: ec.EllipticCurvePrivateKey, issuer: str, by: ec.EllipticCurvePrivateKey) -> bytes:
        subject, above = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)]) for text in (name, issuer))
        signed = (
            x509.CertificateBuilder(above, subject, key.public_key(), x509.random_serial_number(), start, end)
            .add_extension(x509.BasicConstraints(True, None), True)
            .add_extension(key_usage(signs_certificates=True), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), False)
            .sign(by, hashes.SHA256())
        )
        return signed.public_bytes(Encoding.PEM)

    root, middle = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    top = certificate("root", root, "root", root)
    below = certificate("intermediate", middle, "root", root)
    files = {"root-cert": top, "ca-cert": below, "cert-chain": below + top, "ca-key": PrivateKey(middle).reveal_pem()}
    for name, data in files.items():
        (directory / f"{name}.pem").write_bytes(data)
        (directory / f"{name}.pem").chmod(0o600)
    return Trust(directory)


def _dict(message: Any) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True)
