"""A translated gateway in a real Envoy, beyond HTTP: TCP, TLS that ends at it by every mode, TLS that it passes on by
SNI, several certificates, revoked clients, sockets. One Envoy for all of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography import x509
from tests.flows.certificates import Pair, client_context, made, revoking, secret
from tests.flows.translated_rig import Mesh, free_port, mesh

from headrace.model.identity import Identity

pytestmark = pytest.mark.asyncio(loop_scope="module")

GATEWAY, SERVER = "127.0.85.1", "127.0.85.2"
PORTS = {"tcp": 5432, "tls": 443, "guarded": 5434}
DOCUMENTS = """
apiVersion: v1
kind: Pod
metadata: {name: door, namespace: istio-system, labels: {istio: ingressgateway}}
spec: {serviceAccountName: door, containers: [{name: proxy}]}
status: {podIP: 127.0.85.1}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: door}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 5432, name: tcp, protocol: TCP}
    hosts: ["*"]
  - port: {number: 5434, name: guarded, protocol: TCP}
    hosts: ["*"]
  - port: {number: 443, name: both, protocol: TLS}
    hosts: [both.example.com]
    tls: {mode: SIMPLE, credentialNames: [rsa, ecdsa], maxProtocolVersion: TLSV1_2}
  - port: {number: 443, name: partners, protocol: TLS}
    hosts: [partners.example.com]
    tls: {mode: MUTUAL, credentialName: wild, caCertCredentialName: partners}
  - port: {number: 443, name: files, protocol: TLS}
    hosts: [files.example.com]
    tls:
      mode: MUTUAL
      tlsCertificates: [{serverCertificate: %DIR%/server.pem, privateKey: %DIR%/server.pem}]
      caCertificates: %DIR%/partners.pem
      caCrl: %DIR%/revoked.pem
  - port: {number: 443, name: maybe, protocol: TLS}
    hosts: [maybe.example.com]
    tls: {mode: OPTIONAL_MUTUAL, credentialName: wild, caCertCredentialName: partners}
  - port: {number: 443, name: anybody, protocol: TLS}
    hosts: [anybody.example.com]
    tls: {mode: MUTUAL, credentialName: wild, caCertCredentialName: partners, insecureSkipVerify: true}
  - port: {number: 443, name: mesh, protocol: TLS}
    hosts: [mesh.example.com]
    tls: {mode: ISTIO_MUTUAL}
  - port: {number: 443, name: through, protocol: TLS}
    hosts: ["*.through.example.com"]
    tls: {mode: PASSTHROUGH}
  - port: {number: 443, name: auto, protocol: TLS}
    hosts: ["*.local"]
    tls: {mode: AUTO_PASSTHROUGH}
  - port: {number: 0, name: socket, protocol: HTTP}
    bind: unix://%DIR%/door.sock
    hosts: ["*"]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: store}
spec:
  hosts: ["*.example.com"]
  gateways: [door]
  tcp: [{route: [{destination: {host: store.example, port: {number: 5432}}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: through}
spec:
  hosts: ["*.through.example.com"]
  gateways: [door]
  tls:
  - match: [{sniHosts: [a.through.example.com]}]
    route: [{destination: {host: secure.example, port: {number: 443}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec:
  hosts: [web.example.com]
  gateways: [door]
  http: [{directResponse: {status: 200, body: {string: by the socket}}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: store}
spec:
  hosts: [store.example]
  resolution: STATIC
  ports: [{number: 5432, name: tcp, protocol: TCP, targetPort: %ECHO%}]
  endpoints: [{address: 127.0.85.2}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: secure}
spec:
  hosts: [secure.example]
  resolution: STATIC
  ports: [{number: 443, name: tls, protocol: TLS, targetPort: %SECURE%}]
  endpoints: [{address: 127.0.85.2}]
---
apiVersion: v1
kind: Service
metadata: {name: inside}
spec: {selector: {app: inside}, ports: [{name: tcp, port: 7000, targetPort: %INSIDE%}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: inside}
spec: {address: 127.0.85.2, labels: {app: inside}, serviceAccount: inside}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: guarded, namespace: istio-system}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  action: DENY
  rules: [{to: [{operation: {ports: ["%GUARDED%"]}}], from: [{source: {ipBlocks: [127.0.0.0/8]}}]}]
"""


@dataclass
class Door:
    """The gateway under test: where its ports are, who there is, and what clients trust."""

    directory: Path
    ports: dict[str, int]
    running: Mesh
    root: Pair
    partners: Pair
    friend: Pair
    revoked: Pair
    stranger: Pair

    def context(self, pair: Pair | None = None) -> ssl.SSLContext:
        return client_context(self.root, self.directory, pair)

    def of_the_mesh(self) -> ssl.SSLContext:
        """A client with a certificate of the mesh, which knows its server by the mesh's root."""
        pair = self.running.trust.pair(Identity("cluster.local", "default", "caller"))
        path = self.directory / "caller.pem"
        path.write_text(pair.chain_pem + pair.key.reveal_pem().decode())
        context = ssl.create_default_context(cadata=pair.bundle_pem)
        context.check_hostname = False
        context.load_cert_chain(path)
        return context


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        while data := await reader.read(4096):
            writer.write(b"echo " + data)
            await writer.drain()
    writer.close()


async def said(
    host: str, port: int, context: ssl.SSLContext | None = None, name: str = ""
) -> tuple[bytes, x509.Certificate | None]:
    """What comes back for `hello`, and the certificate that the server showed; ConnectionError where nothing does."""
    async with asyncio.timeout(30):
        try:
            reader, writer = await asyncio.open_connection(
                host, port, ssl=context, server_hostname=name if context else None
            )
            writer.write(b"hello")
            answer = await reader.read(100)
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError) as error:
            raise ConnectionError(str(error)) from error
        shown = None
        if context is not None:
            shown = x509.load_der_x509_certificate(writer.get_extra_info("ssl_object").getpeercert(True))
        writer.close()
    if not answer:
        raise ConnectionError("closed without an answer")
    return answer, shown


async def refused(port: int, context: ssl.SSLContext, name: str) -> bool:
    try:
        await said(GATEWAY, port, context, name)
    except ConnectionError:
        return True
    return False


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    directory = tmp_path_factory.mktemp("door")
    root, partners = made("root.example.com"), made("partners.example.org")
    friend, revoked = made("friend", partners), made("revoked", partners)
    rsa, ecdsa = made("both.example.com", root, by_rsa=True), made("both.example.com", root)
    wild = made("*.example.com", root)
    crl = revoking(partners, revoked)
    made("files.example.com", root).write(directory).rename(directory / "server.pem")
    (directory / "partners.pem").write_text(partners.certificate_pem)
    (directory / "revoked.pem").write_text(crl)
    secrets = (
        secret("rsa", tls_crt=rsa.certificate_pem, tls_key=rsa.key_pem)
        + secret("ecdsa", cert=ecdsa.certificate_pem, key=ecdsa.key_pem)
        + secret("wild", tls_crt=wild.certificate_pem, tls_key=wild.key_pem)
        + secret("partners", ca_crt=partners.certificate_pem, ca_crl=crl)
    )
    async with contextlib.AsyncExitStack() as stack:
        own = made("a.through.example.com", root).write(directory)
        secure = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        secure.load_cert_chain(own)
        ports = {name: free_port(GATEWAY) for name in PORTS}
        backends = {"ECHO": None, "SECURE": secure, "INSIDE": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)}
        text = DOCUMENTS.replace("%DIR%", str(directory)).replace("%GUARDED%", str(ports["guarded"]))
        for name, context in backends.items():
            server = await asyncio.start_server(_echo, SERVER, 0, ssl=context)
            stack.callback(server.close)
            text = text.replace(f"%{name}%", str(server.sockets[0].getsockname()[1]))
        running = await stack.enter_async_context(mesh(text + secrets))
        inside = running.trust.pair(Identity("cluster.local", "default", "inside"))
        path = directory / "inside.pem"
        path.write_text(inside.chain_pem + inside.key.reveal_pem().decode())
        accepting = backends["INSIDE"]
        assert accepting is not None
        accepting.load_cert_chain(path)
        accepting.load_verify_locations(cadata=inside.bundle_pem)
        accepting.verify_mode = ssl.CERT_REQUIRED
        accepting.set_alpn_protocols(["istio"])
        mapped = tuple((PORTS[name], ports[name]) for name in PORTS)
        await running.run(replace(running.described("gateway/istio-system/door"), bind=GATEWAY, port_map=mapped))
        yield Door(directory, ports, running, root, partners, friend, revoked, made("stranger"))


async def test_tcp_goes_on_as_it_is(door: Door) -> None:
    assert (await said(GATEWAY, door.ports["tcp"]))[0] == b"echo hello"


async def test_policies_hold_for_tcp(door: Door) -> None:
    with pytest.raises(ConnectionError):
        await said(GATEWAY, door.ports["guarded"])


async def test_two_certificates_of_one_server(door: Door) -> None:
    shown = {}
    for kind in ("RSA", "ECDSA"):
        context = door.context()
        context.set_ciphers(f"ECDHE-{kind}-AES128-GCM-SHA256")
        answer, certificate = await said(GATEWAY, door.ports["tls"], context, "both.example.com")
        assert answer == b"echo hello" and certificate is not None
        shown[kind] = type(certificate.public_key()).__name__
    assert shown["RSA"].startswith("RSA") and shown["ECDSA"].startswith(("EC", "Elliptic"))


async def test_versions_of_tls_are_the_servers_own(door: Door) -> None:
    context = door.context()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    assert await refused(door.ports["tls"], context, "both.example.com")
    assert (await said(GATEWAY, door.ports["tls"], context, "maybe.example.com"))[0] == b"echo hello"


@pytest.mark.parametrize("name", ["partners.example.com", "files.example.com"])
async def test_clients_are_verified_and_revoked_ones_are_not_let_in(door: Door, name: str) -> None:
    port = door.ports["tls"]
    assert (await said(GATEWAY, port, door.context(door.friend), name))[0] == b"echo hello"
    assert await refused(port, door.context(door.revoked), name)
    assert await refused(port, door.context(door.stranger), name)
    assert await refused(port, door.context(), name)


async def test_optional_certificates_must_be_good_where_they_are_shown(door: Door) -> None:
    port = door.ports["tls"]
    assert (await said(GATEWAY, port, door.context(), "maybe.example.com"))[0] == b"echo hello"
    assert (await said(GATEWAY, port, door.context(door.friend), "maybe.example.com"))[0] == b"echo hello"
    assert await refused(port, door.context(door.stranger), "maybe.example.com")


async def test_any_certificate_where_none_is_verified(door: Door) -> None:
    port = door.ports["tls"]
    assert (await said(GATEWAY, port, door.context(door.stranger), "anybody.example.com"))[0] == b"echo hello"
    assert await refused(port, door.context(), "anybody.example.com")


async def test_mutual_tls_of_the_mesh(door: Door) -> None:
    port = door.ports["tls"]
    answer, shown = await said(GATEWAY, port, door.of_the_mesh(), "mesh.example.com")
    assert answer == b"echo hello" and shown is not None
    names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
        "spiffe://cluster.local/ns/istio-system/sa/door"
    ]
    assert await refused(port, door.context(door.friend), "mesh.example.com")


async def test_tls_is_passed_on_by_its_name(door: Door) -> None:
    answer, shown = await said(GATEWAY, door.ports["tls"], door.context(), "a.through.example.com")
    assert answer == b"echo hello" and shown is not None
    names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["a.through.example.com"], "the server's own certificate"
    assert await refused(door.ports["tls"], door.context(), "b.through.example.com")
    assert await refused(door.ports["tls"], door.context(), "nobody.example.com")


async def test_mutual_tls_is_passed_on_to_the_service_that_its_name_says(door: Door) -> None:
    name = "outbound_.7000_._.inside.default.svc.cluster.local"
    context = door.of_the_mesh()
    assert await refused(door.ports["tls"], context, name), "callers that do not offer the mesh's protocol"
    context.set_alpn_protocols(["istio"])
    answer, shown = await said(GATEWAY, door.ports["tls"], context, name)
    assert answer == b"echo hello" and shown is not None
    names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://cluster.local/ns/default/sa/inside"]
    assert await refused(door.ports["tls"], context, "outbound_.7001_._.inside.default.svc.cluster.local")


async def test_a_socket_is_for_its_owner(door: Door) -> None:
    path = door.directory / "door.sock"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"GET / HTTP/1.1\r\nhost: web.example.com\r\nconnection: close\r\n\r\n")
    async with asyncio.timeout(30):
        answer = await reader.read()
    writer.close()
    assert answer.endswith(b"by the socket")
