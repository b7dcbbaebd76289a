"""How one mesh runs: what `headrace up` was told, kept in the state directory so that a restarted role finds it again.

Written by `headrace up`, read by the control plane and the agent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from headrace.floor.files import write_private
from headrace.floor.places import Places, StateError

_FILE = "settings.json"


class MeshSettings(BaseModel):
    """What `up` fixes for the life of a mesh. Times in seconds.

    `documents`: directories or files that are followed; `mesh_config`: a MeshConfig file; `gateway_bind`: the address
    of gateway listeners; `certificate_lifetime`: life of workload certificates (rotated at half of it);
    `capture`: how traffic reaches the proxies of this machine (`loopback` or `netns`);
    `strict_mtls`: add a root PeerAuthentication STRICT where the documents bring none; `ca_directory`: a plugged-in
    root (ca-cert.pem, ca-key.pem, cert-chain.pem, root-cert.pem). `join_listen`: IP:PORT where other hosts join (they
    may not where it is None); `addresses`: the range that this machine's replicas take their addresses from.
    `metrics_listen`: IP:PORT of the control plane's metrics (always served on the management API's socket too).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    documents: tuple[str, ...] = ()
    mesh_config: str | None = None
    host: str = "local"
    gateway_bind: str = "127.0.0.1"
    certificate_lifetime: float = Field(default=86400.0, gt=0)
    strict_mtls: bool = True
    capture: Literal["loopback", "netns"] = "loopback"
    ca_directory: str | None = None
    join_listen: str | None = None
    addresses: str | None = None
    metrics_listen: str | None = None

    def save(self, places: Places) -> None:
        """Keep the settings in the state directory (mode 0600)."""
        write_private(places.state / _FILE, self.model_dump_json(indent=2).encode())

    @classmethod
    def load(cls, places: Places) -> MeshSettings:
        """The settings of the mesh at `places`; StateError where there are none or they cannot be read."""
        path: Path = places.state / _FILE
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise StateError(
                f"{places.state} is not the state of a mesh: start one with `headrace up DIR --state {places.state}`"
            ) from None
        except ValidationError as error:
            raise StateError(
                f"{path}: {error.error_count()} unreadable settings: remove it and run `headrace up` again"
            ) from error
