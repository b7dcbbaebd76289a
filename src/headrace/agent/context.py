"""What every replica of this host shares. Made once by `agent.host`, handed to each `agent.replica`."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import aiohttp

from headrace.agent.capture import CaptureStrategy
from headrace.agent.engine_loads import EngineLoads
from headrace.agent.proxy import ProxySettings
from headrace.agent.sds import SecretStore
from headrace.agent.supervision import RestartPolicy
from headrace.floor.clock import Clock
from headrace.floor.places import Places
from headrace.identity.issuer import IssuedCertificate


class ControlPlane(Protocol):
    """What a replica asks of the control plane (`agent.link.ControlLink`)."""

    async def sign(self, replica: str, csr_der: bytes) -> IssuedCertificate: ...

    async def withdraw(self, replica: str, timeout: float) -> bool: ...

    def discover(self, replica: str, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class HostContext:
    """`inherited` is the agent's own environment; `mark(role, replica)` names one start of a process; `changed` is
    called whenever a replica's report or record may differ; `loads` is what model servers say of themselves."""

    places: Places
    clock: Clock
    source: random.Random
    capture: CaptureStrategy
    control: ControlPlane
    secrets: SecretStore
    session: aiohttp.ClientSession
    proxy: ProxySettings
    mark: Callable[[str, str], str]
    changed: Callable[[], None]
    inherited: Mapping[str, str] = field(repr=False)
    restarts: RestartPolicy = field(default_factory=RestartPolicy)
    proxy_restarts: RestartPolicy = field(default_factory=lambda: RestartPolicy(first=0.1, limit=10.0))
    loads: EngineLoads = field(default_factory=EngineLoads)
