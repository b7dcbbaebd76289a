"""When a certificate is renewed, and the loop that does it.

`Rotation` is a state machine without I/O; `Renewer` drives it, one for each replica, inside the agent. Every renewal
makes a new key.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from headrace.floor.backoff import Backoff
from headrace.floor.clock import Clock, SystemClock
from headrace.identity.issuer import IssuedCertificate
from headrace.identity.keys import PrivateKey
from headrace.model.identity import Identity

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
_LONGEST_SLEEP = 30.0
"""Seconds after which the wall clock is looked at again: a laptop that slept renews soon after it wakes."""
_EXPIRED_RETRY = 5.0
"""Longest wait between tries, in seconds, once there is no valid certificate any more."""


@dataclass(frozen=True, slots=True)
class RotationRules:
    """When to renew. Times in seconds.

    A certificate is renewed when `fraction` of its life has passed, moved by up to `jitter` of its life either way, so
    that certificates issued together are not renewed together. `margin` before its end (but at most a tenth of its
    life) is the last moment to which a retry may be put off; from then on they come the faster the less is left. One
    try may take `attempt`.
    """

    fraction: float = 0.5
    jitter: float = 0.05
    margin: float = 300.0
    retry_first: float = 0.5
    retry_limit: float = 60.0
    attempt: float = 10.0

    def __post_init__(self) -> None:
        if not (0.0 < self.fraction < 0.9 and 0.0 <= self.jitter < min(self.fraction, 0.9 - self.fraction)):
            raise ValueError(f"renewal at {self.fraction} ± {self.jitter} of the life: keep it between 0 and 0.9")
        if not (self.margin >= 0 and 0 < self.retry_first <= self.retry_limit and self.attempt > 0):
            raise ValueError("margin, retry_first, retry_limit and attempt are positive, retry_first the smaller one")


class RotationState(StrEnum):
    """WAITING: no certificate yet. FRESH: renewal is due later. RETRYING: renewal failed, the certificate is good.
    ENDANGERED: the same, and less than the margin is left. EXPIRED: there is no valid certificate any more."""

    WAITING = "waiting"
    FRESH = "fresh"
    RETRYING = "retrying"
    ENDANGERED = "endangered"
    EXPIRED = "expired"


class Rotation:
    """The schedule of one replica's certificate: told what happened and when, says when to try next. No I/O.

    Deterministic for a given random source. All times are seconds since the epoch.
    """

    def __init__(self, rules: RotationRules | None = None, source: random.Random | None = None) -> None:
        self._rules = rules or RotationRules()
        # Spreads load in time, hides nothing: no cryptographic source needed.
        self._source = source or random.Random()  # noqa: S311
        self._backoff = Backoff(self._rules.retry_first, self._rules.retry_limit, source=self._source)
        self._next = 0.0
        self._latest: float | None = None
        self._not_after: float | None = None
        self._failures = 0

    @property
    def rules(self) -> RotationRules:
        return self._rules

    @property
    def next_try(self) -> float:
        """When to ask for a certificate next (a time long past: at once)."""
        return self._next

    @property
    def failures(self) -> int:
        """Failed tries since the last certificate."""
        return self._failures

    def obtained(self, now: float, not_after: float) -> None:
        """A certificate came that is valid until `not_after`. Its life counts from now, not from the backdated
        not_before. ValueError where it is over already."""
        life = not_after - now
        if life <= 0:
            raise ValueError(f"the certificate ended {-life:.0f} s ago by this machine's clock")
        rules = self._rules
        self._next = now + life * (rules.fraction + rules.jitter * (2.0 * self._source.random() - 1.0))
        self._latest = not_after - min(rules.margin, life / 10.0)
        self._not_after = not_after
        self._failures = 0
        self._backoff.reset()

    def failed(self, now: float) -> None:
        """A try failed: the next one comes after a back-off, but not later than the margin before the end."""
        self._failures += 1
        wait = self._backoff.next()
        if self._latest is None or self._not_after is None or now + wait < self._latest:
            self._next = now + wait
            return
        left = self._not_after - now
        urgent = max(self._rules.retry_first, left / 10.0 if left > 0 else _EXPIRED_RETRY)
        self._next = max(self._latest, now + min(wait, urgent))

    def renew_now(self) -> None:
        """Ask for a new certificate at once, whatever the schedule (the operator, or a changed root, wants it)."""
        self._next = 0.0

    def state(self, now: float) -> RotationState:
        """Where the certificate stands at `now`."""
        if self._not_after is None or self._latest is None:
            return RotationState.WAITING
        if now >= self._not_after:
            return RotationState.EXPIRED
        if now >= self._latest:
            return RotationState.ENDANGERED
        return RotationState.RETRYING if self._failures else RotationState.FRESH


@dataclass(frozen=True, slots=True)
class WorkloadCertificate:
    """What a replica's Envoy needs: key, chain (leaf first) and trusted roots. The key hides itself in text forms."""

    identity: Identity
    key: PrivateKey
    chain_pem: str
    bundle_pem: str
    not_before: float
    not_after: float
    serial: str


class Sign(Protocol):
    """Asks the control plane to sign; any exception counts as a failed try."""

    async def __call__(self, csr_der: bytes) -> IssuedCertificate: ...


class Time(Clock, Protocol):
    """A clock that can also be waited for."""

    async def sleep(self, seconds: float) -> None: ...


class SystemTime(SystemClock):
    """The machine's clock and asyncio's sleep."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class MismatchError(Exception):
    """What came back does not belong to what was asked for; it is not used."""


def accept(key: PrivateKey, identity: Identity, issued: IssuedCertificate) -> WorkloadCertificate:
    """The issued certificate with its key, checked to be of that key and identity; MismatchError where it is not.

    Envoy would refuse a pair that does not match, or worse, serve under another name.
    """
    try:
        leaf = x509.load_pem_x509_certificates(issued.chain_pem.encode())[0]
        names = list(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        spki = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        roots = x509.load_pem_x509_certificates(issued.bundle_pem.encode())
    except Exception as error:  # any failure of the parser: the answer is unusable
        raise MismatchError(f"the answer cannot be read ({type(error).__name__})") from None
    if spki != key.public_der():
        raise MismatchError("the certificate is of another key")
    if names != [x509.UniformResourceIdentifier(identity.uri)]:
        raise MismatchError(f"the certificate is not (only) for {identity.uri!r}")
    not_after = min(issued.not_after, leaf.not_valid_after_utc.timestamp())
    if not roots:
        raise MismatchError("the trust bundle is empty")
    return WorkloadCertificate(
        identity, key, issued.chain_pem, issued.bundle_pem, issued.not_before, not_after, issued.serial
    )


def is_outdated(certificate: WorkloadCertificate, issuer: str, revoked: Collection[str]) -> bool:
    """Whether a certificate should be renewed at once: another CA than `issuer` (key identifier in hex; empty: any)
    signed it, or its SHA-256 (hex) is among `revoked`."""
    leaf = x509.load_pem_x509_certificates(certificate.chain_pem.encode())[0]
    if leaf.fingerprint(hashes.SHA256()).hex() in revoked:
        return True
    try:
        named = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        return False
    return bool(issuer) and named is not None and named.hex() != issuer


@dataclass(slots=True)
class Renewer:
    """Keeps one replica's certificate valid: `run` obtains one at once and renews it until cancelled.

    `on_certificate` is called with every new certificate, on the event loop. Failures are logged and retried; the
    last certificate stays in use. `last_error` says why the last try failed (empty: it did not).
    """

    identity: Identity
    sign: Sign
    on_certificate: Callable[[WorkloadCertificate], None]
    rotation: Rotation = field(default_factory=Rotation)
    time: Time = field(default_factory=SystemTime)
    last_error: str = field(default="", init=False)
    _woken: asyncio.Event = field(default_factory=asyncio.Event, init=False, repr=False)

    @property
    def state(self) -> RotationState:
        """Where the certificate stands now."""
        return self.rotation.state(self.time.now())

    def renew_now(self) -> None:
        """Make `run` ask for a new certificate at once. Call it on the event loop."""
        self.rotation.renew_now()
        self._woken.set()

    async def run(self) -> None:
        """Obtain and renew for ever; ends by cancellation only (or an exception of `on_certificate`)."""
        while True:
            await self._wait_for_turn()
            certificate = await self._try()
            if certificate is not None:
                self.on_certificate(certificate)

    async def _wait_for_turn(self) -> None:
        while (wait := self.rotation.next_try - self.time.now()) > 0:
            self._woken.clear()
            sleeping = asyncio.ensure_future(self.time.sleep(min(wait, _LONGEST_SLEEP)))
            waking = asyncio.ensure_future(self._woken.wait())
            try:
                await asyncio.wait((sleeping, waking), return_when=asyncio.FIRST_COMPLETED)
            finally:
                sleeping.cancel()
                waking.cancel()

    async def _try(self) -> WorkloadCertificate | None:
        """One try: a new key, a CSR, the control plane's answer, checked. None where it failed."""
        key = PrivateKey.generate()
        try:
            async with asyncio.timeout(self.rotation.rules.attempt):
                issued = await self.sign(key.csr(self.identity))
            certificate = accept(key, self.identity, issued)
            self.rotation.obtained(self.time.now(), certificate.not_after)
        except Exception as error:  # whatever went wrong, the last certificate stays and the next try comes
            now = self.time.now()
            self.rotation.failed(now)
            self.last_error = str(error)[:500] or type(error).__name__
            _log.warning(
                "certificate not renewed",
                identity=self.identity.uri,
                state=self.rotation.state(now).value,
                failures=self.rotation.failures,
                retry_in_seconds=round(max(0.0, self.rotation.next_try - now), 3),
                error=self.last_error,
            )
            return None
        self.last_error = ""
        return certificate
