"""Runs one replica's Envoy: its bootstrap, its command line, its admin interface.

Used by `agent.replica`. Envoys run with `--disable-hot-restart` instead of a `--base-id` each: we never hot-restart (a
change of configuration comes by discovery, a new Envoy gets a replica of its own), and hot restart would open a shared
memory segment and an abstract socket that any local process can reach and that two meshes could collide on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from headrace import __version__
from headrace.agent.admin import Admin
from headrace.agent.process import Child, Launch, spawn
from headrace.agent.spec import ReplicaSpec
from headrace.envoy.bootstrap import BootstrapSettings, bootstrap_json
from headrace.floor.files import write_private
from headrace.floor.places import Places
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

    def __init__(self, replica: str, places: Places, settings: ProxySettings) -> None:
        self._replica = replica
        self._places = places
        self._settings = settings
        self.child: Child | None = None
        self.admin = Admin(places.admin_socket(replica))

    def start(self, spec: ReplicaSpec, address: str, mark: str) -> Child:
        """Write the bootstrap and start Envoy; StartFailed where that is impossible."""
        self._places.admin_socket(self._replica).unlink(missing_ok=True)
        bootstrap = self._places.bootstrap(self._replica)
        write_private(bootstrap, bootstrap_json(self._bootstrap(spec, address)))
        command = (
            str(self._settings.binary),
            "--config-path",
            str(bootstrap),
            "--disable-hot-restart",
            "--concurrency",
            "1",
            "--drain-time-s",
            str(_DRAIN_SECONDS),
            "--drain-strategy",
            "immediate",
            "--log-level",
            self._settings.log_level,
        )
        launch = Launch(command, mark, self._settings.environment, log=self._places.proxy_log(self._replica))
        self.child = spawn(launch)
        return self.child

    async def end(self, grace: float) -> None:
        """Stop the process; its sockets and its bootstrap are removed."""
        if self.child is not None:
            await self.child.stop(grace)
        await self.close()
        self._places.admin_socket(self._replica).unlink(missing_ok=True)
        self._places.bootstrap(self._replica).unlink(missing_ok=True)

    async def close(self) -> None:
        """Leave the process alone and stop talking to it."""
        await self.admin.close()

    def _bootstrap(self, spec: ReplicaSpec, address: str) -> BootstrapSettings:
        kind = "router" if spec.is_gateway else "sidecar"
        domain = f"{spec.namespace}.svc.{CLUSTER_DOMAIN}"
        return BootstrapSettings(
            node_id=f"{kind}~{address}~{spec.name}.{spec.namespace}~{domain}",
            cluster=f"{spec.workload}.{spec.namespace}",
            xds_socket=self._places.xds_socket(spec.id),
            admin_socket=self._places.admin_socket(spec.id),
            metadata={
                "NAME": spec.name,
                "NAMESPACE": spec.namespace,
                "WORKLOAD_NAME": spec.workload,
                "SERVICE_ACCOUNT": spec.identity.service_account,
                "HEADRACE_VERSION": __version__,
            },
        )
