"""Makes an agent's host out of its parts and runs it: the half of `app.agent_process` that takes long to load.

Called by it once the control plane, which takes as long, has been started beside.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from headrace.agent.capture import CaptureStrategy, LoopbackCapture
from headrace.agent.context import HostContext
from headrace.agent.engine_loads import VARIABLE, EngineLoads
from headrace.agent.guardian import Guardian
from headrace.agent.host import Host, HostLimits
from headrace.agent.link import ControlLink, HostFacts
from headrace.agent.netns.capture import NetnsCapture
from headrace.agent.netns.names import names_forwarder
from headrace.agent.prober import probe_session
from headrace.agent.proxy import ProxySettings
from headrace.agent.sds import REVOKED_VARIABLE, RevokedFile, SecretStore
from headrace.app.membership import Membership
from headrace.envoy.binary import PINNED_VERSION
from headrace.envoy.module import check_module
from headrace.floor.backoff import Backoff
from headrace.floor.clock import SystemClock
from headrace.floor.places import Places
from headrace.wire import agent_v1_pb2 as wire

_RECONNECT_FIRST = 0.05
_RECONNECT_LIMIT = 1.0
_ENVOY_ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "LANG", "TZ")


@dataclass(frozen=True, slots=True)
class HostStart:
    """What is there when a host is made. `name`: the host's; `mesh_mark` starts the mark of every process of this mesh,
    `mark(role, replica)` makes a new one; `log_bytes`: size beyond which a log is rotated;
    `capture`: how traffic reaches proxies (`loopback` or `netns`); `addresses`: the range of replicas' addresses;
    `membership`: where this host joined the mesh of another one."""

    places: Places
    name: str
    envoy: Path
    guardian: Guardian | None
    mesh_mark: str
    mark: Callable[[str, str], str]
    log_bytes: int
    capture: str = "loopback"
    addresses: str | None = None
    membership: Membership | None = None


async def run_host(start: HostStart, stop: asyncio.Event, hurry: asyncio.Event) -> None:
    """Run until `stop`, then end everything gracefully (`hurry`: without waiting for requests in flight)."""
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(probe_session())
        capture: CaptureStrategy = LoopbackCapture(start.places.state, _token, start.addresses)
        if start.capture == "netns":
            capture = netns = NetnsCapture(start.places, _token)
            net = netns.open()
            await stack.enter_async_context(names_forwarder(str(net.gateway)))
        host, link = _host(start, session, capture)
        renewing = None
        if start.membership is not None:
            link.trusted = _told(start.membership, link.trusted)
            renewing = asyncio.create_task(start.membership.keep(link.sign_host), name="host certificate")
        try:
            await host.run(stop, hurry)
        finally:
            if renewing is not None:
                renewing.cancel()
        if start.capture == "netns":
            netns.close()


def _told(membership: Membership, proxies: Callable[[wire.TrustState], None]) -> Callable[[wire.TrustState], None]:
    """Tell the host's own certificate of a change of trust, and the proxies."""

    def trusted(state: wire.TrustState) -> None:
        membership.hear(state.trust_bundle_pem, state.issuer)
        proxies(state)

    return trusted


def _token() -> str:
    return secrets.token_urlsafe(32)


def _host(start: HostStart, session: aiohttp.ClientSession, capture: CaptureStrategy) -> tuple[Host, ControlLink]:
    clock, source = SystemClock(), random.Random()  # noqa: S311 - spreads load in time, hides nothing
    module = check_module(start.places.agent / "module-check.json")
    facts = HostFacts(start.name, PINNED_VERSION, module.usable, module.problem)
    reconnect = Backoff(_RECONNECT_FIRST, _RECONNECT_LIMIT, source=source)
    loads = EngineLoads()
    target = f"unix:{start.places.agent_socket}" if start.membership is None else start.membership.channel
    link = ControlLink(target, facts, reconnect, clock, loads)
    environment = {name: value for name in _ENVOY_ENVIRONMENT if (value := os.environ.get(name)) is not None}
    environment |= {**module.environment(), VARIABLE: str(start.places.engine_loads)}
    environment[REVOKED_VARIABLE] = str(start.places.revoked)
    context = HostContext(
        places=start.places,
        clock=clock,
        source=source,
        capture=capture,
        control=link,
        secrets=SecretStore(clock, RevokedFile(start.places.revoked, shared=start.capture == "netns")),
        session=session,
        proxy=ProxySettings(start.envoy, environment),
        mark=start.mark,
        changed=lambda: host.changed(),
        inherited=dict(os.environ),
        loads=loads,
    )
    host = Host(context, link, start.guardian, start.mesh_mark, HostLimits(start.log_bytes))
    if start.guardian is not None:
        start.guardian.changed = host.changed
    return host, link
