"""The secrets of this host's Envoys: each replica's certificate with its key, and the roots that it trusts.

Filled by `agent.replica` after every renewal, served on the replica's socket by `agent.relay`. Keys exist here and in
Envoy's memory only. A replica without a certificate yet is sent nothing, so an Envoy that outlived an agent keeps what
it has until the new one has a certificate.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from headrace.envoy.bootstrap import DEFAULT_SECRET, ROOT_SECRET
from headrace.envoy.resources import ResourceSet
from headrace.envoy.secrets import validation_secret, workload_secret
from headrace.envoy.xds.hub import Hub
from headrace.floor.clock import Clock
from headrace.identity.rotation import WorkloadCertificate


class SecretStore:
    """All secrets of one agent, by replica."""

    def __init__(self, clock: Clock) -> None:
        self._sets: dict[str, ResourceSet] = {}
        self._hub = Hub(self, clock)

    def resources_for(self, proxy: str) -> ResourceSet | None:
        """What the replica's Envoy should have; None where there is no certificate yet."""
        return self._sets.get(proxy)

    def put(self, replica: str, certificate: WorkloadCertificate) -> None:
        """Hand a new certificate to the replica's Envoy."""
        pair = workload_secret(DEFAULT_SECRET, certificate.chain_pem, certificate.key.reveal_pem())
        roots = validation_secret(ROOT_SECRET, certificate.bundle_pem)
        self._sets[replica] = ResourceSet.collect((pair, roots))
        self._hub.publish({replica: self._sets[replica]})

    def forget(self, replica: str) -> None:
        """The replica is gone, its key with it."""
        self._sets.pop(replica, None)

    def stream(self, replica: str, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Serve one of Envoy's secret streams."""
        return self._hub.stream(replica, requests)
