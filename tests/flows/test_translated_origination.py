"""TLS that a sidecar originates: files and credentials, and whom it refuses."""

from __future__ import annotations

import base64
import contextlib
import datetime
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.flows.translated_rig import PASSWORD, USER, free_port, loopback, mesh

CLIENT = "127.0.85.2"
DOCUMENTS = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: api}}
spec:
  hosts: [api.example]
  ports: [{{name: http, number: 80, protocol: HTTP}}]
  resolution: STATIC
  endpoints: [{{address: 127.0.0.1, ports: {{http: {port}}}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: api}}
spec: {{host: api.example, trafficPolicy: {{tls: {{{tls}}}}}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: up}}
type: Opaque
data: {{{secret}}}
---
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {{name: client}}
spec: {{command: [run], serviceAccountName: client}}
"""


@dataclass
class Authority:
    """A CA of the test's own; `issue` writes NAME.pem and NAME.key into the directory."""

    directory: Path
    name: str

    def __post_init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._sign(self.name, self.key.public_key(), authority=True)
        self.path = self.directory / f"{self.name}.pem"
        self.path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, host: str) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        chain, private = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        chain.write_bytes(self._sign(host, key.public_key()).public_bytes(serialization.Encoding.PEM))
        no_password = serialization.NoEncryption()
        form = serialization.PrivateFormat.PKCS8
        private.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, no_password))
        return chain, private

    def _sign(self, host: str, key: ec.EllipticCurvePublicKey, *, authority: bool = False) -> x509.Certificate:
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)]))
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
        )
        if not authority:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        return builder.sign(self.key, hashes.SHA256())


@contextlib.asynccontextmanager
async def https(chain: Path, key: Path, clients: Path | None = None) -> AsyncIterator[int]:
    """An HTTPS server that says which client certificate it saw; with `clients` it demands one of that CA."""

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        peer = request.transport.get_extra_info("peercert") or {}
        subject = dict(part[0] for part in peer.get("subject", ()))
        return web.Response(text=subject.get("commonName", "nobody"))

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, key)
    if clients is not None:
        context.load_verify_locations(clients)
        context.verify_mode = ssl.CERT_REQUIRED
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
    try:
        yield port
    finally:
        await runner.cleanup()


async def ask(port: int, tls: str, secret: str = "") -> tuple[int, str]:
    """What the client's application gets from http://api.example/ under this `tls`."""
    async with mesh(DOCUMENTS.format(port=port, tls=tls, secret=secret)) as running:
        client = loopback(running.described("sidecar/default/client"), CLIENT)
        await running.run(client)
        proxy = f"http://{USER}:{PASSWORD}@{CLIENT}:{client.capture.outbound_port}"
        timeout = aiohttp.ClientTimeout(10)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get("http://api.example/", proxy=proxy) as answer,
        ):
            return answer.status, await answer.text()


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


async def test_the_server_must_be_who_was_asked_for(tmp_path: Path) -> None:
    ca, other = Authority(tmp_path, "ca"), Authority(tmp_path, "other")
    async with https(*ca.issue("server", "api.example")) as port:
        assert await ask(port, f"mode: SIMPLE, caCertificates: {ca.path}") == (200, "nobody")
        assert (await ask(port, f"mode: SIMPLE, caCertificates: {other.path}"))[0] == 503
        assert (await ask(port, "mode: SIMPLE, insecureSkipVerify: true"))[0] == 200
        secret = f"cacert: {encoded(ca.path)}"
        assert (await ask(port, "mode: SIMPLE, credentialName: up", secret))[0] == 200
    async with https(*ca.issue("stranger", "stranger.example")) as port:
        assert (await ask(port, f"mode: SIMPLE, caCertificates: {ca.path}"))[0] == 503
        named = f"mode: SIMPLE, caCertificates: {ca.path}, sni: x.example, subjectAltNames: [stranger.example]"
        assert (await ask(port, named))[0] == 200


async def test_the_client_shows_its_certificate(tmp_path: Path) -> None:
    ca = Authority(tmp_path, "ca")
    chain, key = ca.issue("me", "me.example")
    async with https(*ca.issue("server", "api.example"), clients=ca.path) as port:
        files = f"mode: MUTUAL, clientCertificate: {chain}, privateKey: {key}, caCertificates: {ca.path}"
        assert await ask(port, files) == (200, "me.example")
        secret = f"cert: {encoded(chain)}, key: {encoded(key)}, cacert: {encoded(ca.path)}"
        assert await ask(port, "mode: MUTUAL, credentialName: up", secret) == (200, "me.example")
