"""Runs one replica's Envoy: its bootstrap, its command line, its admin interface.

Used by `agent.replica`. Envoys run with `--disable-hot-restart` instead of a `--base-id` each: we never hot-restart (a
change of configuration comes by discovery, a new Envoy gets a replica of its own), and hot restart would open a shared
memory segment and an abstract socket that any local process can reach and that two meshes could collide on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from headrace import __version__
from headrace.agent.admin import Admin
from headrace.agent.capture import ProxyDoor
from headrace.agent.engine_loads import VARIABLE
from headrace.agent.process import Child, Launch, spawn
from headrace.agent.spec import ReplicaSpec
from headrace.envoy.bootstrap import BootstrapSettings, bootstrap_json
from headrace.floor.files import write_private
from headrace.model.names import CLUSTER_DOMAIN

_DRAIN_SECONDS = 3600
"""For how long streams on a replaced listener may go on (`--drain-time-s`; Envoy's default is 600). Their clients are
asked at once to open new connections (`--drain-strategy immediate`), so only streams that really last stay."""


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """What all Envoys of this host share. `environment` tells Envoy where the native module is."""

    binary: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    log_level: str = "warning"


class Proxy:
    """One Envoy process and the way to talk to it. Needs a running event loop."""

    def __init__(self, door: ProxyDoor, log: Path, settings: ProxySettings) -> None:
        self._door = door
        self._log = log
        self._settings = settings
        self.child: Child | None = None
        self.admin = Admin(door.admin)

    def start(self, spec: ReplicaSpec, address: str, mark: str, wrap: Callable[[Launch], Launch]) -> Child:
        """Write the bootstrap and start Envoy, in the way that `wrap` says; StartFailed where that is impossible."""
        self._door.admin.unlink(missing_ok=True)
        bootstrap = self._door.bootstrap
        write_private(bootstrap, bootstrap_json(self._bootstrap(spec, address)))
        self._door.hand_over(bootstrap)
        command = (
            str(self._settings.binary),
            "--config-path",
            str(bootstrap),
            "--disable-hot-restart",
            "--concurrency",
            str(_threads(spec.proxy.concurrency)),
            "--drain-time-s",
            str(_DRAIN_SECONDS),
            "--drain-strategy",
            "immediate",
            "--log-level",
            self._settings.log_level,
        )
        environment = dict(spec.proxy.variables) | dict(self._settings.environment)
        if self._door.loads is not None:
            environment[VARIABLE] = str(self._door.loads)
        self.child = spawn(wrap(Launch(command, mark, environment, log=self._log)))
        return self.child

    async def end(self, grace: float) -> None:
        """Stop the process; its sockets and its bootstrap are removed."""
        if self.child is not None:
            await self.child.stop(grace)
        await self.close()
        self._door.admin.unlink(missing_ok=True)
        self._door.bootstrap.unlink(missing_ok=True)

    async def close(self) -> None:
        """Leave the process alone and stop talking to it."""
        await self.admin.close()

    def _bootstrap(self, spec: ReplicaSpec, address: str) -> BootstrapSettings:
        kind = "router" if spec.is_gateway else "sidecar"
        domain = f"{spec.namespace}.svc.{CLUSTER_DOMAIN}"
        return BootstrapSettings(
            node_id=f"{kind}~{address}~{spec.name}.{spec.namespace}~{domain}",
            cluster=f"{spec.workload}.{spec.namespace}",
            xds_socket=self._door.xds,
            admin_socket=self._door.admin,
            metadata={
                "NAME": spec.name,
                "NAMESPACE": spec.namespace,
                "WORKLOAD_NAME": spec.workload,
                "SERVICE_ACCOUNT": spec.identity.service_account,
                "HEADRACE_VERSION": __version__,
            },
        )


def _threads(concurrency: int | None) -> int:
    """How many threads serve: one, or what documents say (0: one for each core)."""
    return 1 if concurrency is None else concurrency or os.cpu_count() or 1
