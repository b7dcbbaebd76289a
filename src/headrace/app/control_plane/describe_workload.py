"""`headrace describe workload`: what a workload's proxy demands, accepts and does beside routing, from which document.

Reads a snapshot only; called through `described`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from headrace.app.control_plane.answers import Refused
from headrace.app.control_plane.describe import place
from headrace.envoy.imports import SidecarTable
from headrace.model.authorization import Action, AuthorizationPolicy
from headrace.model.request_authentication import RequestAuthentication
from headrace.model.resource import Labels, Metadata, selects
from headrace.model.security import PeerAuthentication
from headrace.model.workload import StaticWorkload, Workload
from headrace.registry.extensions import Extensions
from headrace.registry.mtls import deciding, settle
from headrace.registry.policies import PolicyTable
from headrace.registry.snapshot import MeshSnapshot

_REPLICA = ("proxy", "state", "address", "certificate_until", "restarts", "engine_metrics")

_ASKED = (Action.CUSTOM, Action.AUDIT, Action.DENY, Action.ALLOW)
"""The order in which a proxy asks the policies."""


def workload(snapshot: MeshSnapshot, namespace: str, name: str, proxies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What applies to a workload: services in front, mutual TLS it accepts, the policies and extensions that are for it
    in their order; of a running one, its replicas with their state."""
    one = _found(snapshot, namespace, name)
    labels: Labels = one.labels or {}
    policy = settle(snapshot.peer_authentications, snapshot.mesh.root_namespace, namespace, labels)
    services = [
        item.host
        for items in snapshot.services.values()
        for item in items
        if item.namespace == namespace and item.selector and selects(item.selector, labels)
    ]
    prefix = f"{namespace}/{name}-"
    replicas = [
        row for row in proxies if str(row["proxy"]).startswith(prefix) and str(row["proxy"])[len(prefix) :].isdigit()
    ]
    return {
        "workload": f"{namespace}/{name}",
        "document": place(one.meta),
        "identity": f"spiffe://{snapshot.mesh.trust_domain}/ns/{namespace}/sa/{one.service_account or 'default'}",
        "engine": one.engine.value if isinstance(one, Workload) and one.engine else "none named",
        "labels": ", ".join(f"{key}={value}" for key, value in sorted(labels.items())) or "none",
        "services": services,
        "mutual tls": policy.mode.value + "".join(f", port {port}: {mode.value}" for port, mode in policy.ports),
        "peer authentications": list(_peer_authentications(snapshot, namespace, labels)),
        "request authentications": [
            f"{item.meta.namespace}/{item.meta.name} (issuers {_issuers(item)}) {place(item.meta)}"
            for item in PolicyTable(snapshot.request_authentications, snapshot.mesh.root_namespace).of(
                namespace, labels
            )
        ],
        "authorization policies": _authorization(snapshot, namespace, labels),
        **_extensions(snapshot, namespace, labels),
        "replicas": [{key: row[key] for key in _REPLICA if key in row} for row in replicas],
    }


def _demands(item: PeerAuthentication, root: str, namespace: str, labels: Labels) -> bool:
    """Whether a PeerAuthentication is for a workload: the mesh's, its namespace's, or its own."""
    if item.meta.namespace == root:
        return not item.selector
    return item.meta.namespace == namespace and selects(item.selector, labels)


def _found(snapshot: MeshSnapshot, namespace: str, name: str) -> Workload | StaticWorkload:
    items: list[Workload | StaticWorkload] = [*snapshot.workloads, *snapshot.static_workloads]
    for item in items:
        if (item.meta.namespace, item.meta.name) == (namespace, name):
            return item
    known = sorted(f"{item.meta.namespace}/{item.meta.name}" for item in items)
    raise Refused(404, f"no workload {name!r} in namespace {namespace!r}; there are: {', '.join(known) or 'none'}")


def _peer_authentications(snapshot: MeshSnapshot, namespace: str, labels: Labels) -> Iterator[str]:
    """All that are for the workload; the one that settles its mode is said to."""
    root = snapshot.mesh.root_namespace
    first = deciding(snapshot.peer_authentications, root, namespace, labels, 0)
    for item in snapshot.peer_authentications:
        if _demands(item, root, namespace, labels):
            counts = "in force" if item is first else "shadowed by a nearer or older one"
            ports = "".join(f", port {port}: {mode.value}" for port, mode in item.port_modes)
            yield f"{_name(item.meta)} ({item.mode.value}{ports}) {counts} {place(item.meta)}"


def _extensions(snapshot: MeshSnapshot, namespace: str, labels: Labels) -> dict[str, list[str]]:
    """Sidecar, EnvoyFilters, WasmPlugins and Telemetries for the workload, in their order; only those that it has."""
    root = snapshot.mesh.root_namespace
    known = Extensions(snapshot)
    sidecar = SidecarTable(snapshot.sidecars, root).of(namespace, labels)
    rows = {
        "sidecar": [] if sidecar is None else [sidecar.meta],
        "envoy filters": [item.meta for item in known.filters(namespace, labels)],
        "extensions": [item.meta for item in known.code(namespace, labels)],
        "telemetries": [item.meta for item in known.telemetries(namespace, labels)],
    }
    return {label: [f"{_name(meta)} {place(meta)}" for meta in metas] for label, metas in rows.items() if metas}


def _name(meta: Metadata) -> str:
    return f"{meta.namespace}/{meta.name}"


def _issuers(item: RequestAuthentication) -> str:
    return ", ".join(rule.issuer or "any" for rule in item.rules) or "none"


def _authorization(snapshot: MeshSnapshot, namespace: str, labels: Labels) -> list[str]:
    """The AuthorizationPolicies of a workload in the order in which their actions are asked, and what their absence or
    presence means for the rest."""
    found = PolicyTable(snapshot.authorization_policies, snapshot.mesh.root_namespace).of(namespace, labels)
    ordered = sorted(found, key=lambda item: _ASKED.index(item.action))
    lines = [
        f"{item.action} {item.meta.namespace}/{item.meta.name} ({_rules(item)}) {place(item.meta)}" for item in ordered
    ]
    if found:
        allows = any(item.action is Action.ALLOW and not item.dry_run for item in found)
        lines.append("everything else is refused" if allows else "everything else is allowed")
    return lines


def _rules(item: AuthorizationPolicy) -> str:
    text = f"{len(item.rules)} rule{'' if len(item.rules) == 1 else 's'}" if item.rules else "matches nothing"
    text += f", asks {item.provider}" if item.provider else ""
    return text + (", dry run" if item.dry_run else "")
