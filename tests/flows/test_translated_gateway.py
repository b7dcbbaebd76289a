"""A translated gateway in a real Envoy: HTTPS with certificates from Secret documents, clients' certificates demanded
where the Gateway says so, and a redirect from HTTP."""

from __future__ import annotations

import asyncio
import datetime
import json
import ssl
import textwrap
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.flows.translated_rig import echo, free_port, loopback, mesh

GATEWAY, SERVER = "127.0.84.1", "127.0.84.2"
DOCUMENTS = """
apiVersion: v1
kind: Pod
metadata: {{name: door, namespace: istio-system, labels: {{istio: ingressgateway}}}}
spec: {{serviceAccountName: door, containers: [{{name: proxy}}]}}
status: {{podIP: 127.0.84.1}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: door}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - port: {{number: 80, name: http, protocol: HTTP}}
    hosts: ["*"]
    tls: {{httpsRedirect: true}}
  - port: {{number: 443, name: public, protocol: HTTPS}}
    hosts: [public.example.com]
    tls: {{mode: SIMPLE, credentialName: public}}
  - port: {{number: 443, name: partners, protocol: HTTPS}}
    hosts: [partners.example.com]
    tls: {{mode: MUTUAL, credentialName: partners}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: chat}}
spec:
  hosts: ["*.example.com"]
  gateways: [door]
  http: [{{route: [{{destination: {{host: chat}}}}]}}]
---
apiVersion: v1
kind: Service
metadata: {{name: chat}}
spec: {{selector: {{app: chat}}, ports: [{{name: http, port: 80, targetPort: {port}}}]}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: chat}}
spec: {{address: 127.0.84.2, labels: {{app: chat}}, serviceAccount: chat}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: istio-system}}
spec: {{mtls: {{mode: STRICT}}}}
"""


def made(name: str, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None) -> tuple:
    """A certificate with its key: signed by `issuer`, or a CA of its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    )
    return builder.sign(issuer[1] if issuer else key, hashes.SHA256()), key


def pem(item: object) -> str:
    if isinstance(item, x509.Certificate):
        return item.public_bytes(serialization.Encoding.PEM).decode()
    assert isinstance(item, ec.EllipticCurvePrivateKey)
    kind = serialization.PrivateFormat.PKCS8
    return item.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption()).decode()


def secret(name: str, **values: str) -> str:
    text = "".join(f"  {key.replace('_', '.')}: |\n{textwrap.indent(value, '    ')}" for key, value in values.items())
    return (
        f"---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: istio-system}}\nstringData:\n{text}"
    )


def client_context(root: x509.Certificate, directory: Path, pair: tuple | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=pem(root))
    if pair is not None:
        path = directory / "client.pem"
        path.write_text(pem(pair[0]) + pem(pair[1]))
        context.load_cert_chain(path)
    return context


class _Here(aiohttp.abc.AbstractResolver):
    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list:
        return [{"hostname": host, "host": GATEWAY, "port": port, "family": 2, "proto": 0, "flags": 0}]

    async def close(self) -> None:
        pass


async def ask(url: str, context: ssl.SSLContext | bool = True) -> tuple[int, str, str]:
    connector = aiohttp.TCPConnector(resolver=_Here(), ssl=context)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(10)) as session,
        session.get(url, allow_redirects=False) as answer,
    ):
        return answer.status, answer.headers.get("location", ""), await answer.text()


async def test_https_gateway_with_credentials_of_its_namespace(tmp_path: Path) -> None:
    root, other = made("root.example.com"), made("other.example.com")
    public, partners = made("public.example.com", root), made("partners.example.com", root)
    friend, stranger = made("friend", root), made("stranger", other)
    secrets = secret("public", tls_crt=pem(public[0]), tls_key=pem(public[1])) + secret(
        "partners", cert=pem(partners[0]), key=pem(partners[1]), cacert=pem(root[0])
    )
    async with echo() as app:
        port, http, https = free_port(SERVER), free_port(GATEWAY), free_port(GATEWAY)
        async with mesh(DOCUMENTS.format(port=port) + secrets) as running:
            server = loopback(running.described("sidecar/default/chat"), SERVER, ((port, app),))
            door = replace(
                running.described("gateway/istio-system/door"), bind=GATEWAY, port_map=((80, http), (443, https))
            )
            await asyncio.gather(running.run(server), running.run(door))
            plain = client_context(root[0], tmp_path)

            status, _, body = await ask(f"https://public.example.com:{https}/v1/chat", plain)
            seen = json.loads(body)
            assert (status, seen["path"]) == (200, "/v1/chat")
            assert "sa/door" in seen["headers"]["x-forwarded-client-cert"], "the gateway's own identity inside the mesh"

            status, location, _ = await ask(f"http://public.example.com:{http}/x")
            assert (status, location) == (301, f"https://public.example.com:{https}/x")

            known = client_context(root[0], tmp_path, friend)
            assert (await ask(f"https://partners.example.com:{https}/", known))[0] == 200
            refused = (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)
            with pytest.raises(refused):
                await ask(f"https://partners.example.com:{https}/", plain)
            with pytest.raises(refused):
                await ask(f"https://partners.example.com:{https}/", client_context(root[0], tmp_path, stranger))
            with pytest.raises(refused):
                await ask(f"https://unknown.example.com:{https}/", plain)
