"""What documents ask for and loopback capture cannot do, in a line each, for `headrace up` and `status`.

Called by `mesh`. Loopback capture has one listener on an application's way out, its HTTP proxy, and one for each port
on the way in: nothing else can be listened for.
"""

from __future__ import annotations

from collections.abc import Iterable

from headrace.model.names import MESH_GATEWAY
from headrace.model.resource import Metadata
from headrace.model.sidecar import Sidecar
from headrace.registry.snapshot import MeshSnapshot

_MOST_NAMES = 5


def loopback_notes(snapshot: MeshSnapshot) -> list[str]:
    """The lines for one snapshot, none where documents ask for nothing of the kind."""
    sidecars = [item.meta for item in snapshot.sidecars if _listens(item)]
    rules = [
        item.meta for item in snapshot.virtual_services if MESH_GATEWAY in item.gateways and (item.tls or item.tcp)
    ]
    found = []
    if sidecars:
        what = "listeners with an address or a socket of their own (bind, captureMode NONE) are not there"
        found.append(f"loopback capture: {what}: Sidecar {_names(sidecars)}")
    if rules:
        found.append(f"loopback capture: tls and tcp rules have no effect for sidecars: VirtualService {_names(rules)}")
    return found


def _listens(sidecar: Sidecar) -> bool:
    """Whether it asks for listeners that only transparent capture has."""
    outside = any(item.bind or not item.captured for item in sidecar.egress)
    return outside or any(item.bind or not item.captured for item in sidecar.ingress)


def _names(metas: Iterable[Metadata]) -> str:
    names = [f"{meta.namespace}/{meta.name}" for meta in metas]
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more
