"""What one Envoy talks to: its replica's own socket, which carries discovery and secrets.

Used by `agent.replica`. The socket is the identity: whoever may open it (the owner only, mode 0600) is this replica, so
nothing that Envoy says of itself is believed. Discovery is relayed byte by byte to the control plane; when that breaks,
Envoy's stream is ended too, and Envoy opens it again within a second, naming the versions it has: so nothing is kept
here, and nothing that did not change is sent again.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Protocol

from headrace.agent.sds import SecretStore
from headrace.envoy.xds.service import discovery_handler, unix_server


class Upstream(Protocol):
    """Where discovery comes from: `agent.link.ControlLink`."""

    def discover(self, replica: str, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]: ...


@contextlib.asynccontextmanager
async def replica_socket(path: Path, replica: str, upstream: Upstream, secrets: SecretStore) -> AsyncIterator[None]:
    """Serve the replica's Envoy at `path` for as long as the context lasts."""
    handler = discovery_handler(ads=partial(upstream.discover, replica), sds=partial(secrets.stream, replica))
    async with unix_server(path, [handler]):
        yield
