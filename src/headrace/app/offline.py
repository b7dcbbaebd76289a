"""One proxy's resources from documents alone: no mesh, no agent, no state.

Called by `headrace translate` and by the golden tests. Reads nothing but the given paths; the same documents always
give the same resources.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headrace.app.control_plane.assignments import PlannedReplica, plan
from headrace.app.notional import running
from headrace.config.documents import read_paths
from headrace.config.mesh_config import read_mesh_config
from headrace.config.store import ConfigStore
from headrace.envoy import readable
from headrace.envoy.binary import EnvoyError
from headrace.envoy.bootstrap import BootstrapSettings, bootstrap_json
from headrace.envoy.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE, ResourceSet
from headrace.envoy.scopes import Scopes, view_of
from headrace.envoy.translate import Translator
from headrace.envoy.validation import refusal
from headrace.model.identity import Identity
from headrace.model.locality import LOCALITY
from headrace.model.problem import Problem, Severity
from headrace.model.proxy import Capture, CaptureKind, Proxy, ProxyKind
from headrace.model.workload import StaticWorkload, Workload, WorkloadRole
from headrace.registry.build import build_snapshot
from headrace.registry.inbound import fronting_ports, services_before
from headrace.registry.snapshot import MeshSnapshot

UNKNOWN_ADDRESS = "127.0.0.1"
"""Address of a proxy whose document has none (a Workload gets its address when it runs)."""
SAMPLE_CREDENTIALS = "user:{SHA}0DPiKuNIrrVmD8IUCuw1hQxNqZc="
"""What stands for a replica's own credentials in an offline translation (contract: nothing secret is printed)."""
SECTIONS = (("listeners", LISTENER), ("routes", ROUTE), ("clusters", CLUSTER), ("endpoints", ENDPOINT))
"""Keys of the answer and their resource types (contract.md); secrets are never printed."""


class OfflineError(Exception):
    """The question cannot be answered; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class ProxyName:
    """`KIND/NAMESPACE/NAME`, as the command line names a proxy."""

    kind: ProxyKind
    namespace: str
    name: str

    @classmethod
    def parse(cls, text: str) -> ProxyName:
        """OfflineError where the text has another form."""
        parts = text.split("/")
        kinds = {kind.value: kind for kind in ProxyKind}
        if len(parts) != 3 or parts[0] not in kinds or not parts[1] or not parts[2]:
            raise OfflineError(
                f"{text[:200]!r} names no proxy: write sidecar/NAMESPACE/NAME or gateway/NAMESPACE/NAME, "
                "where NAMESPACE/NAME is a Pod, WorkloadEntry, Deployment (or another controller) or Workload document"
            )
        return cls(kinds[parts[0]], parts[1], parts[2])


@dataclass(frozen=True, slots=True, eq=False)
class Offline:
    """What documents say: the snapshot of the mesh, and the problems found on the way (bad documents are left out)."""

    snapshot: MeshSnapshot
    problems: tuple[Problem, ...]


def load(paths: Sequence[Path], mesh_config: Path | None = None, *, as_running: bool = False) -> Offline:
    """The mesh that the documents below `paths` describe. OfflineError where a path or MeshConfig cannot be read.
    `as_running`: with an address for every workload that has none before it runs (`app.notional`)."""
    for path in (*paths, *([mesh_config] if mesh_config else [])):
        if not path.exists():
            raise OfflineError(f"{path}: no such file or directory: name files or directories of YAML documents")
    store = ConfigStore()
    if mesh_config is not None:
        _bring_mesh(store, mesh_config)
    revision = store.replace_source("paths", read_paths(paths, "paths"))
    problems = tuple(problem for problem in revision.problems if problem.severity is Severity.ERROR)
    if as_running:
        assumed = running(revision)
        return Offline(build_snapshot(assumed.revision, assumed.observed), problems)
    return Offline(build_snapshot(revision, {}), problems)


def _bring_mesh(store: ConfigStore, path: Path) -> None:
    """Bring a MeshConfig file into force; OfflineError where it is wrong (defaults must not stand in silently)."""
    revision = store.replace_source("mesh config", read_mesh_config(path, "mesh config"))
    errors = [problem for problem in revision.findings if problem.severity is Severity.ERROR]
    if errors:
        raise OfflineError(f"the MeshConfig is wrong: {errors[0].as_line()}")


def find_proxy(snapshot: MeshSnapshot, name: ProxyName, capture: Capture = Capture()) -> Proxy:
    """The proxy of a described workload; OfflineError where no document describes it, or as another kind."""
    if name.kind is ProxyKind.WAYPOINT:
        raise OfflineError("waypoint proxies are not supported yet: name a sidecar or a gateway")
    for workload in snapshot.workloads:
        if (workload.meta.namespace, workload.meta.name) == (name.namespace, name.name):
            return _of_workload(workload, name, snapshot.mesh.trust_domain, capture)
    for static in snapshot.static_workloads:
        if (static.meta.namespace, static.meta.name) == (name.namespace, name.name):
            proxy = _of_static(static, name, snapshot.mesh.trust_domain, capture)
            return _behind_services(proxy, snapshot) if name.kind is ProxyKind.GATEWAY else proxy
    for planned in plan(snapshot.workloads, snapshot.gateways, snapshot.mesh):
        if planned.spec is None and (planned.namespace, planned.workload) == (name.namespace, name.name):
            return _of_derived(planned, name)
    described = [item.meta for item in snapshot.workloads] + [item.meta for item in snapshot.static_workloads]
    known = sorted(f"{meta.namespace}/{meta.name}" for meta in described)
    hint = f"described here: {', '.join(known[:10])}" if known else "the documents describe no workload at all"
    raise OfflineError(
        f"no Pod, WorkloadEntry, Deployment or Workload is called {name.namespace}/{name.name} ({hint}): "
        "add its document to PATH or correct the name"
    )


def _of_workload(workload: Workload, name: ProxyName, trust_domain: str, capture: Capture) -> Proxy:
    wanted = ProxyKind.GATEWAY if workload.role is WorkloadRole.GATEWAY else ProxyKind.SIDECAR
    if wanted is not name.kind:
        raise OfflineError(
            f"Workload {name.namespace}/{name.name} has role {workload.role}: "
            f"ask for {wanted}/{name.namespace}/{name.name}"
        )
    return Proxy(
        kind=name.kind,
        name=workload.meta.name,
        workload=workload.meta.name,
        identity=Identity(trust_domain, name.namespace, workload.service_account),
        labels=workload.labels or {},
        addresses=(UNKNOWN_ADDRESS,),
        capture=capture,
        topology=workload.topology,
    )


def _of_static(static: StaticWorkload, name: ProxyName, trust_domain: str, capture: Capture) -> Proxy:
    return Proxy(
        kind=name.kind,
        name=static.meta.name,
        workload=static.meta.name,
        identity=Identity(trust_domain, name.namespace, static.service_account or "default"),
        labels=_located(static),
        addresses=(static.address or UNKNOWN_ADDRESS,),
        capture=capture,
        topology=static.topology,
    )


def _behind_services(proxy: Proxy, snapshot: MeshSnapshot) -> Proxy:
    """The gateway, listening where the Services in front of it lead to (Istio's rule for Gateway ports)."""
    before = services_before(snapshot, proxy)
    behind = tuple(((service.namespace, service.host), ports) for service, ports in before)
    return replace(proxy, port_map=fronting_ports(before), behind=behind)


def _of_derived(planned: PlannedReplica, name: ProxyName) -> Proxy:
    """The gateway that `up` starts by itself for a Gateway document that no described workload serves."""
    if name.kind is not ProxyKind.GATEWAY:
        raise OfflineError(f"{name.namespace}/{name.name} is a gateway: ask for gateway/{name.namespace}/{name.name}")
    return Proxy(
        kind=name.kind,
        name=name.name,
        workload=name.name,
        identity=planned.identity,
        labels=planned.labels,
        addresses=(UNKNOWN_ADDRESS,),
    )


def _located(static: StaticWorkload) -> dict[str, str]:
    """Its labels, with its locality as one of them where it is written as a field (WorkloadEntry.locality)."""
    labels = dict(static.labels)
    if static.locality:
        labels[LOCALITY[0]] = static.locality
    return labels


def capture_of(text: str) -> Capture:
    """The capture that a word names; loopback with sample credentials, which open nothing anywhere."""
    if text == CaptureKind.TRANSPARENT:
        return Capture()
    if text == CaptureKind.LOOPBACK:
        return Capture(CaptureKind.LOOPBACK, credentials=SAMPLE_CREDENTIALS)
    raise OfflineError(f"{text[:50]!r} is no capture: use transparent or loopback")


def translate(offline: Offline, proxy: Proxy) -> ResourceSet:
    """All that the proxy would be sent."""
    return Translator().resources(view_of(offline.snapshot, proxy, Scopes()))


def judge(resources: ResourceSet) -> None:
    """Ask the real Envoy; OfflineError with its words where it refuses."""
    try:
        message = refusal({"": resources})
    except EnvoyError as error:
        raise OfflineError(str(error)) from error
    if message is not None:
        raise OfflineError(f"Envoy refuses the result: {message}")


def as_data(resources: ResourceSet) -> dict[str, list[dict[str, Any]]]:
    """The resources as `headrace translate -o json` prints them (contract.md), with the bootstrap's own cluster, from
    which secrets come: so every name that something refers to is there."""
    data = {
        section: [readable.as_data(resource) for _, resource in sorted(resources.of_type(type_url).items())]
        for section, type_url in SECTIONS
    }
    data["clusters"] = sorted([*data["clusters"], *_bootstrap_clusters()], key=lambda cluster: cluster["name"])
    return data


def _bootstrap_clusters() -> list[dict[str, Any]]:
    """The clusters that an Envoy has from its start; the socket's path is that of no real mesh."""
    settings = BootstrapSettings("", "", Path("/run/headrace/xds.sock"), Path("/run/headrace/admin.sock"))
    clusters: list[dict[str, Any]] = json.loads(bootstrap_json(settings))["static_resources"]["clusters"]
    return clusters
