"""The door for other hosts: TLS on two TCP ports, beside the owner-only socket of this machine's own agent.

Opened by the control plane's process where `--join-listen` asks for it. On PORT a host that has a join token gets its
certificate (HTTPS; the server proves itself by the root that the token pins before the host says anything). On PORT+1
is the agent API, over mutual TLS: who calls is what the certificate says (`identity.hosts`), never what a message says.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import json
import secrets
import ssl
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import structlog
from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from headrace.app.control_plane.answers import Refused
from headrace.app.control_plane.join_tokens import JoinTokens
from headrace.app.control_plane.trust_words import date
from headrace.envoy.xds.service import SERVER_OPTIONS
from headrace.floor.clock import Clock
from headrace.floor.files import write_private
from headrace.floor.places import StateError
from headrace.identity.attest import IssueRefused, check_request
from headrace.identity.authority import Leaf
from headrace.identity.hosts import (
    CONTROL_PLANE_NAME,
    JoinToken,
    agent_identity,
    check_host,
    control_plane_identity,
    pin_of,
)
from headrace.identity.issuer import IssuedCertificate
from headrace.identity.keys import PrivateKey
from headrace.identity.ledger import Entry, Ledger, LedgerError
from headrace.identity.trust import Trust

_log = structlog.get_logger()
_BODY_LIMIT = 16 << 10
_LOOK_SECONDS = 1.0
_JOIN_SECONDS = 10.0
_JOINING_AT_ONCE = 8
_KEEPALIVE: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 400),
    ("grpc.http2.max_ping_strikes", 0),
)
"""A host that vanishes without a word is noticed within three seconds."""


@dataclass(frozen=True, slots=True)
class _Served:
    """What the server proves itself with."""

    key: bytes
    leaf: Leaf
    bundle: str
    since: float


class HostsDoor:
    """One control plane's door. `lifetime` of certificates in seconds."""

    def __init__(self, trust: Trust, ledger: Ledger, trust_domain: str, clock: Clock, lifetime: float) -> None:
        self._trust = trust
        self._ledger = ledger
        self._trust_domain = trust_domain
        self._clock = clock
        self.lifetime = lifetime
        self._served: _Served | None = None
        self._joining = asyncio.Semaphore(_JOINING_AT_ONCE)

    # Certificates of hosts

    def issue(self, host: str, csr_der: bytes) -> IssuedCertificate:
        """A certificate for the agent of `host` (an authenticated name), or IssueRefused."""
        identity = agent_identity(self._trust_domain, host)
        block = self._ledger.block_of(identity.uri)
        if block is not None:
            raise Refused(403, f"host {host} is revoked ({block.reason})")
        key = check_request(csr_der, identity)
        spki = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
        if self._ledger.key_revoked(spki):
            raise Refused(403, "the key is that of a revoked certificate: make a new one")
        leaf = self._trust.sign(key, identity, self.lifetime)
        entry = Entry(
            serial=leaf.serial,
            identity=identity.uri,
            replica=f"host/{host}",
            host=host,
            not_before=leaf.not_before,
            not_after=leaf.not_after,
            issued_at=self._clock.now(),
            spki_sha256=spki,
            issuer=leaf.issuer,
            fingerprint=leaf.fingerprint,
        )
        try:
            self._ledger.record(entry)
        except LedgerError as error:
            raise Refused(503, f"the certificate cannot be recorded: {error}") from error
        return IssuedCertificate(leaf.chain_pem, self._trust.bundle_pem, leaf.not_before, leaf.not_after, leaf.serial)

    # The server's own certificate

    def renew(self) -> _Served:
        """What the server proves itself with now: signed anew at half of its life, and by a new root."""
        served, now = self._served, self._clock.now()
        bundle, issuer = self._trust.bundle_pem, self._trust.state.issuer
        old = served is None or now > (served.since + served.leaf.not_after) / 2 or served.leaf.issuer != issuer
        if served is None or old or served.bundle != bundle:
            key = PrivateKey.generate()
            identity = control_plane_identity(self._trust_domain)
            public = check_request(key.bare_csr(), identity)
            leaf = self._trust.sign(public, identity, self.lifetime, CONTROL_PLANE_NAME)
            served = self._served = _Served(key.reveal_pem(), leaf, bundle, now)
        return served

    def pin(self) -> str:
        """The root that join tokens pin now."""
        return pin_of(self._trust.roots.signer.root)

    # The two ports

    async def open(
        self, stack: AsyncExitStack, listen: str, tokens: JoinTokens, handlers: Sequence[Any], directory: Path
    ) -> None:
        """Serve on `listen` (IP:PORT) and the next port until the stack closes; StateError where that is impossible."""
        address, port = parse_listen(listen)
        server = grpc.aio.server(options=[*SERVER_OPTIONS, *_KEEPALIVE])
        server.add_generic_rpc_handlers(tuple(handlers))
        credentials = grpc.dynamic_ssl_server_credentials(
            self._configuration(), lambda: self._configuration(), require_client_authentication=True
        )
        try:
            server.add_secure_port(f"{address}:{port + 1}", credentials)
        except RuntimeError as error:
            raise StateError(
                f"--join-listen {listen}: cannot listen on port {port + 1} (the port after it): {error}"
            ) from error
        await server.start()
        stack.push_async_callback(server.stop, 0.2)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._load(context, directory / "join-server.pem")
        runner = web.AppRunner(self._application(tokens, port + 1), access_log=None, handle_signals=False)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        try:
            await web.TCPSite(runner, address, port, ssl_context=context).start()
        except OSError as error:
            raise StateError(f"--join-listen {listen}: {error.strerror or error}") from error
        renewing = asyncio.create_task(self._keep_fresh(context, directory / "join-server.pem"), name="hosts' door")
        stack.callback(renewing.cancel)
        _log.info("other hosts may join", address=listen)

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        served = self._served or self.renew()
        chain = [(served.key, served.leaf.chain_pem.encode())]
        return grpc.ssl_server_certificate_configuration(chain, root_certificates=served.bundle.encode())

    def _load(self, context: ssl.SSLContext, path: Path) -> None:
        served = self.renew()
        write_private(path, served.key + served.leaf.chain_pem.encode(), durable=False)
        try:
            context.load_cert_chain(path)
        finally:
            path.unlink()

    async def _keep_fresh(self, context: ssl.SSLContext, path: Path) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            before = self._served
            try:
                if self.renew() is not before:
                    self._load(context, path)
            except (IssueRefused, OSError) as error:
                _log.error("the certificate for other hosts is not renewed", reason=str(error))

    def _application(self, tokens: JoinTokens, agents_port: int) -> web.Application:
        app = web.Application(client_max_size=_BODY_LIMIT)

        async def roots(request: web.Request) -> web.Response:
            return web.Response(text=self._trust.bundle_pem)

        async def join(request: web.Request) -> web.Response:
            try:
                async with asyncio.timeout(_JOIN_SECONDS), self._joining:
                    body = await request.read()
                    return web.json_response(self._join(body, tokens) | {"port": agents_port})
            except Refused as refusal:
                _log.warning("host not let in", peer=request.remote, reason=str(refusal))
                return web.json_response({"error": str(refusal)}, status=refusal.status)
            except IssueRefused as refusal:
                _log.warning("host not let in", peer=request.remote, reason=str(refusal))
                return web.json_response({"error": str(refusal)}, status=400)

        app.router.add_get("/v1/roots", roots)
        app.router.add_post("/v1/join", join)
        return app

    def _join(self, body: bytes, tokens: JoinTokens) -> dict[str, Any]:
        try:
            found = json.loads(body)
            secret, csr = bytes.fromhex(found["secret"]), bytes.fromhex(found["csr"])
        except (ValueError, TypeError, KeyError, RecursionError):
            raise Refused(400, 'the body is {"secret": hex, "csr": hex}') from None
        host = tokens.use(secret)
        issued = self.issue(host, csr)
        _log.info("host joined", host=host, serial=issued.serial)
        return {
            "host": host,
            "trust_domain": self._trust_domain,
            "certificate": issued.chain_pem,
            "bundle": issued.bundle_pem,
        }


@dataclass(frozen=True, slots=True)
class TokenDesk:
    """What people ask about join tokens. `door` None: this mesh lets no hosts in."""

    door: HostsDoor | None
    tokens: JoinTokens
    listen: str
    own_host: str

    def create(self, host: str, life: float) -> dict[str, Any]:
        """A new token; its text is in the answer and nowhere else."""
        if self.door is None:
            raise Refused(
                409,
                "this mesh lets no other hosts in: start it with `headrace up --join-listen IP:PORT --addresses CIDR`",
            )
        try:
            check_host(host)
        except ValueError as error:
            raise Refused(400, str(error)) from None
        if host == self.own_host:
            raise Refused(409, f"{host!r} is the name of the control plane's own host: choose another")
        secret, token = self.tokens.create(host, life)
        text = JoinToken(secret, self.door.pin()).text()
        return {"token": text, "id": token.id, "host": host, "until": date(token.until), "address": self.listen}

    def listing(self) -> list[dict[str, Any]]:
        """The tokens without their secrets."""
        return [
            {"id": item.id, "host": item.host, "until": date(item.until), "used": date(item.used) if item.used else ""}
            for item in self.tokens.listing()
        ]


def parse_listen(text: str, option: str = "--join-listen") -> tuple[str, int]:
    """`IP:PORT` of an option; StateError for anything else. --join-listen takes the port after it too."""
    address, _, port = text.rpartition(":")
    try:
        ipaddress.IPv4Address(address)
        number = int(port)
        if not 1 <= number < 65535:
            raise ValueError
    except ValueError:
        raise StateError(
            f"{option} {text[:100]!r}: use IP:PORT, such as 192.0.2.1:15012, with a port below 65535"
        ) from None
    return address, number


def new_tokens(directory: Path, clock: Clock) -> JoinTokens:
    """The tokens kept in `directory`."""
    return JoinTokens(directory / "join-tokens.json", clock.now, secrets.token_bytes)
