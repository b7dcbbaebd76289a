"""`headrace describe KIND NAME` from a snapshot, whoever made it: a running control plane, or documents alone.

Called by `control_plane.mesh` and by `app.cli.describe`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headrace.app.control_plane import describe, describe_route, describe_workload
from headrace.registry.snapshot import MeshSnapshot

KINDS = ("service", "workload", "route")


def described(
    snapshot: MeshSnapshot, kind: str, namespace: str, name: str, proxies: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """What applies to one of KINDS; `proxies` are rows of running ones. Refused where there is none of that name."""
    if kind == "service":
        return describe.service(snapshot, namespace, name)
    if kind == "route":
        return describe_route.route(snapshot, namespace, name)
    return describe_workload.workload(snapshot, namespace, name, proxies)
