"""The secrets of this host's Envoys: each replica's certificate with its key, and by what its peers are judged.

Filled by `agent.replica` after every renewal and by `agent.link` with what the control plane says of the whole mesh
(roots, revocation lists, who is revoked); served on the replica's socket by `agent.relay`. Keys exist here and in
Envoy's memory only. A replica without a certificate yet is sent nothing, so an Envoy that outlived an agent keeps what
it has until the new one has a certificate; nor is anything sent before the control plane said who is revoked, so that
no Envoy loses a revocation list when its agent is replaced.

Who is revoked also goes into one file for all Envoys of the host, which the native module's guard reads
(native/envoy-module/src/guard.rs) and which is replaced whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import structlog

from headrace.envoy.bootstrap import DEFAULT_SECRET, ROOT_SECRET
from headrace.envoy.resources import ResourceSet
from headrace.envoy.secrets import validation_secret, workload_secret
from headrace.envoy.xds.hub import Hub
from headrace.floor.clock import Clock
from headrace.floor.files import write_private
from headrace.identity.rotation import WorkloadCertificate, is_outdated
from headrace.wire import agent_v1_pb2 as wire

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
_POLL_SECONDS = 0.1
_REVOKED_HEAD = "headrace-revoked 1"
REVOKED_VARIABLE = "HEADRACE_REVOKED"
"""Environment variable that names the guard's file to Envoy."""


def revoked_text(identities: Iterable[str], certificates: Iterable[str]) -> bytes:
    """The guard's file: these identities (SPIFFE URIs) and certificates (hex SHA-256 of the DER) are revoked."""
    lines = [_REVOKED_HEAD, *(f"identity {name}" for name in sorted(identities))]
    lines += [f"certificate {digest}" for digest in sorted(certificates)]
    return "".join(f"{line}\n" for line in lines).encode()


@dataclass(frozen=True, slots=True)
class RevokedFile:
    """Where the guard's file is kept. `shared`: proxies run as other users, so that they may read it (it holds no
    secret, and the state directory keeps others out)."""

    path: Path
    shared: bool = False

    def write(self, text: bytes) -> None:
        """Replace it whole."""
        self.path.parent.mkdir(mode=0o700, exist_ok=True)
        new = self.path.with_suffix(".new")
        write_private(new, text)
        if self.shared:
            self.path.parent.chmod(0o755)
            new.chmod(0o644)
        new.replace(self.path)


class SecretStore:
    """All secrets of one agent, by replica. `revoked_file`: where the guard's file is kept; None: nowhere."""

    def __init__(self, clock: Clock, revoked_file: RevokedFile | None = None) -> None:
        self._certificates: dict[str, WorkloadCertificate] = {}
        self._sets: dict[str, ResourceSet] = {}
        self._hub = Hub(self, clock)
        self._file = revoked_file
        if revoked_file is not None and not revoked_file.path.exists():
            revoked_file.write(revoked_text((), ()))
        self._trust: wire.TrustState | None = None
        self._untold = False
        self._changed = asyncio.Event()
        self.acknowledged_version = ""
        """The newest version of trust that every Envoy here has acknowledged."""

    def resources_for(self, proxy: str) -> ResourceSet | None:
        """What the replica's Envoy should have; None where there is no certificate yet."""
        return self._sets.get(proxy)

    def put(self, replica: str, certificate: WorkloadCertificate) -> None:
        """Hand a new certificate to the replica's Envoy."""
        self._certificates[replica] = certificate
        if self._trust is not None or self._untold:
            self._sets[replica] = self._set_of(certificate)
            self._hub.publish({replica: self._sets[replica]})

    def forget(self, replica: str) -> None:
        """The replica is gone, its key with it."""
        self._certificates.pop(replica, None)
        self._sets.pop(replica, None)

    def trust(self, state: wire.TrustState) -> None:
        """What the control plane says of the mesh: for the guards first, then for every Envoy's handshakes."""
        if self._trust is not None and state.version == self._trust.version:
            return
        self._trust = state
        if self._file is not None:
            self._file.write(revoked_text(state.revoked_identities, state.revoked_certificates))
        self._sets = {name: self._set_of(certificate) for name, certificate in self._certificates.items()}
        self._hub.publish(self._sets)
        self._changed.set()
        revoked = len(state.revoked_identities) + len(state.revoked_certificates)
        _log.info("trust", version=state.version, revoked=revoked)

    def untold(self) -> None:
        """The control plane is an older one and knows no revocation: the roots come with the certificates."""
        self._untold = True
        for replica, certificate in self._certificates.items():
            self.put(replica, certificate)

    def is_outdated(self, certificate: WorkloadCertificate) -> bool:
        """Whether a certificate should be renewed before its time: it was revoked, or another CA signs now."""
        state = self._trust
        return state is not None and is_outdated(certificate, state.issuer, state.revoked_certificates)

    def stream(self, replica: str, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Serve one of Envoy's secret streams."""
        return self._hub.stream(replica, requests)

    async def follow(self, told: Callable[[], None]) -> None:
        """Call `told` whenever `acknowledged_version` changed; runs until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            while not self._acknowledged():  # noqa: ASYNC110 - acknowledgements come stream by stream, without an event
                await asyncio.sleep(_POLL_SECONDS)
            version = self._trust.version if self._trust is not None else ""
            if version != self.acknowledged_version:
                self.acknowledged_version = version
                told()

    def _acknowledged(self) -> bool:
        """Whether every Envoy that has a certificate is connected and has all that was sent."""
        for replica in self._sets:
            status = self._hub.status(replica)
            if status is None or not status.in_sync:
                return False
        return True

    def _set_of(self, certificate: WorkloadCertificate) -> ResourceSet:
        pair = workload_secret(DEFAULT_SECRET, certificate.chain_pem, certificate.key.reveal_pem())
        bundle, lists = certificate.bundle_pem, ""
        if self._trust is not None:
            bundle, lists = self._trust.trust_bundle_pem, self._trust.revocation_lists_pem
        return ResourceSet.collect((pair, validation_secret(ROOT_SECRET, bundle, lists)))
