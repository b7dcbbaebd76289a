"""A host's membership in the mesh of another one: joining by a token, the host's certificate, its renewal.

Used by `app.agent_process` where `headrace agent --join` runs. What is kept (agent/host.json, mode 0600) lets the agent
come back without a token for as long as its certificate is valid.
"""

from __future__ import annotations

import asyncio
import http.client
import ipaddress
import json
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import grpc
import structlog
from cryptography import x509

from headrace.floor.clock import Clock
from headrace.floor.files import write_private
from headrace.floor.places import Places, StateError
from headrace.identity.hosts import CONTROL_PLANE_NAME, JoinToken, TokenError, pinned
from headrace.identity.issuer import IssuedCertificate
from headrace.identity.keys import PrivateKey

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
_SECONDS = 10.0
_ANSWER_LIMIT = 1 << 18
_LOOK_SECONDS = 1.0
_RETRY_SECONDS = 2.0
_KEEPALIVE: tuple[tuple[str, int | str], ...] = (
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.ssl_target_name_override", CONTROL_PLANE_NAME),
)


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a member has. `target`: ADDRESS:PORT of the agent API; `joined`: that of joining; `since`: when it got
    the certificate; times since the epoch."""

    joined: str
    target: str
    host: str
    key: str
    chain: str
    bundle: str
    since: float
    not_after: float

    def __repr__(self) -> str:
        return f"_Kept({self.host!r}, {self.target!r}, until {self.not_after:.0f})"


class Membership:
    """This host's place in the mesh."""

    def __init__(self, places: Places, kept: _Kept, clock: Clock) -> None:
        self._path = places.agent / "host.json"
        self._kept = kept
        self._clock = clock
        self._issuer = _issuer(kept.chain)
        self._signer = ""

    @property
    def host(self) -> str:
        """The host's name, as its certificate has it."""
        return self._kept.host

    def channel(self, options: Sequence[tuple[str, int | str]]) -> grpc.aio.Channel:
        """A channel to the control plane, with the newest certificate and roots."""
        kept = self._kept
        credentials = grpc.ssl_channel_credentials(kept.bundle.encode(), kept.key.encode(), kept.chain.encode())
        wanted = [item for item in options if item[0] != "grpc.default_authority"]
        return grpc.aio.secure_channel(kept.target, credentials, options=[*wanted, *_KEEPALIVE])

    def hear(self, bundle_pem: str, issuer: str) -> None:
        """What the mesh trusts now, and the CA that signs now: a change of roots asks for another certificate."""
        if bundle_pem and bundle_pem != self._kept.bundle:
            self._kept = replace(self._kept, bundle=bundle_pem)
            self.save()
        self._signer = issuer

    def _due(self) -> bool:
        half = (self._kept.since + self._kept.not_after) / 2
        return self._clock.now() >= half or bool(self._signer and self._signer != self._issuer)

    async def keep(self, sign: Callable[[bytes], Awaitable[IssuedCertificate]]) -> None:
        """Renew the certificate at half of its life; until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if not self._due():
                continue
            key = PrivateKey.generate()
            try:
                issued = await sign(key.bare_csr())
            except ConnectionError as error:
                ended = self._clock.now() >= self._kept.not_after
                remedy = "it has expired: start the agent again with a new join token" if ended else "tried again"
                _log.warning("this host's certificate is not renewed", reason=str(error), remedy=remedy)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            self._kept = replace(
                self._kept,
                key=key.reveal_pem().decode(),
                chain=issued.chain_pem,
                bundle=issued.bundle_pem,
                since=self._clock.now(),
                not_after=issued.not_after,
            )
            self._issuer = _issuer(issued.chain_pem)
            self.save()
            _log.info("this host's certificate is renewed", serial=issued.serial)

    def save(self) -> None:
        """Keep it for the next agent."""
        write_private(self._path, json.dumps(asdict(self._kept)).encode())


def member(places: Places, address: str, token: str, clock: Clock) -> Membership:
    """This host's membership: the one it has while that is good, else a new one by `token`. StateError with one line
    that says why where there is neither."""
    host, port = _address(address)
    kept = _load(places)
    if kept is not None and kept.joined == address and kept.not_after > clock.now():
        return Membership(places, kept, clock)
    if not token:
        what = "its certificate has expired" if kept is not None and kept.joined == address else "it is no member"
        raise StateError(f"this host needs a join token ({what}): `headrace token create HOST` on {host} prints one")
    try:
        parsed = JoinToken.parse(token)
    except TokenError as error:
        raise StateError(str(error)) from None
    try:
        made = Membership(places, _join(host, port, parsed, clock.now()), clock)
    except ssl.SSLCertVerificationError as error:
        raise StateError(
            f"{address} has no certificate of the root that the token pins: {error.verify_message}"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise StateError(f"no control plane lets hosts in at {address} ({why}): see --join-listen there") from None
    made.save()
    _log.info("joined", host=made.host, control_plane=made._kept.target)
    return made


def _join(host: str, port: int, token: JoinToken, now: float) -> _Kept:
    address = f"{host}:{port}"
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE  # for the public roots only: of them the pinned one counts
    status, text = _call(host, port, unverified, "GET", "/v1/roots", None)
    root = pinned(text, token.pin) if status == 200 else ""
    if not root:
        raise StateError(
            f"the control plane at {address} does not have the root that the token pins: this is another mesh, or "
            "somebody stands in between; nothing was sent to it"
        )
    key = PrivateKey.generate()
    body = json.dumps({"secret": token.secret.hex(), "csr": key.bare_csr().hex()}).encode()
    verified = ssl.create_default_context(cadata=root)
    verified.minimum_version = ssl.TLSVersion.TLSv1_3
    status, text = _call(host, port, verified, "POST", "/v1/join", body)
    try:
        answer: dict[str, Any] = json.loads(text)
        if status != 200:
            raise StateError(f"not let in by {address}: {str(answer['error'])[:300]}")
        leaf = x509.load_pem_x509_certificate(str(answer["certificate"]).encode())
        return _Kept(
            address,
            f"ipv4:{socket.gethostbyname(host)}:{int(answer['port'])}",
            str(answer["host"]),
            key.reveal_pem().decode(),
            str(answer["certificate"]),
            str(answer["bundle"]),
            now,
            leaf.not_valid_after_utc.timestamp(),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise StateError(f"the answer of {address} cannot be read ({type(error).__name__})") from None


def _call(host: str, port: int, context: ssl.SSLContext, method: str, path: str, body: bytes | None) -> tuple[int, str]:
    with (
        socket.create_connection((host, port), timeout=_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=CONTROL_PLANE_NAME) as channel,
    ):
        connection = http.client.HTTPConnection(host, port, timeout=_SECONDS)
        connection.sock = channel
        connection.request(method, path, body, {"connection": "close"})
        response = connection.getresponse()
        return response.status, response.read(_ANSWER_LIMIT).decode("utf-8", "replace")


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65535:
        raise StateError(f"--join {text[:100]!r}: use ADDRESS:PORT, as --join-listen of the control plane has it")
    return host, int(port)


def _issuer(chain_pem: str) -> str:
    """The key identifier (hex) of the CA that signed the first certificate; empty where it names none."""
    try:
        leaf = x509.load_pem_x509_certificate(chain_pem.encode())
        found = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except (ValueError, x509.ExtensionNotFound):
        return ""
    return (found or b"").hex()


def _load(places: Places) -> _Kept | None:
    try:
        return _Kept(**json.loads((places.agent / "host.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def check_addresses(text: str) -> str:
    """A range of addresses for replicas (CIDR, IPv4), or StateError."""
    try:
        found = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise StateError(f"--addresses {text[:100]!r}: {error}; use a range such as 10.80.1.0/24") from None
    if found.is_loopback or found.is_multicast or found.is_link_local or found.num_addresses > 1 << 16:
        raise StateError(f"--addresses {text}: use a range of at most 65536 addresses that other hosts reach")
    return str(found)
