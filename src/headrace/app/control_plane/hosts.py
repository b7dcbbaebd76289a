"""What the hosts' agents reported: which replicas run where, and through which proxies.

Held by the control plane; fed by the agent API (`agents`), read by the pipeline after each change. No I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from headrace.app.control_plane.assignments import PlannedReplica
from headrace.model.proxy import Capture, CaptureKind, Proxy, ProxyKind
from headrace.model.workload import WorkloadRole
from headrace.registry.observed import ObservedReplica, ReplicaState
from headrace.wire import agent_v1_pb2 as wire

NETNS = "netns"
"""`ReplicaReport.capture` of a replica with a network namespace of its own."""


@dataclass(slots=True)
class HostEntry:
    """One agent: its versions, whether its Envoys can load the module, and its newest report by replica id."""

    name: str
    version: str = ""
    envoy_version: str = ""
    module: bool = False
    module_problem: str = ""
    replicas: dict[str, wire.ReplicaReport] = field(default_factory=dict)
    connected: bool = False
    trust_version: str = ""


class HostBook:
    """All hosts and their replicas. Objects handed out stay the same ones until what they say changes."""

    def __init__(self) -> None:
        self.hosts: dict[str, HostEntry] = {}
        self._planned: dict[str, PlannedReplica] = {}
        self._running: dict[str, PlannedReplica] = {}
        self._withdrawn: dict[str, int | None] = {}
        """Start time of the process that was withdrawn, None while no report has named it."""
        self._observed: dict[str, ObservedReplica] = {}
        self._proxies: dict[str, tuple[tuple[object, ...], Proxy]] = {}
        self._bind = "127.0.0.1"
        self._revoked: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())

    def register(self, request: wire.RegisterRequest) -> None:
        """Note an agent's versions; its earlier reports stay until it reports again."""
        entry = self.hosts.setdefault(request.host, HostEntry(request.host))
        entry.version, entry.envoy_version = request.version, request.envoy_version
        entry.module, entry.module_problem = request.module, request.module_problem

    def planned(self, replicas: Iterable[PlannedReplica], gateway_bind: str) -> None:
        """Take note of the plan. Replicas that left it stay known for as long as a host reports them."""
        newest = {replica.id: replica for replica in replicas}
        reported = {name for host in self.hosts.values() for name in host.replicas}
        kept = {name: old for name, old in self._planned.items() if name in reported and name not in newest}
        self._planned = kept | newest
        self._bind = gateway_bind

    def report(self, report: wire.HostReport) -> bool:
        """Take over a host's whole state; True where anything changed. A withdrawn replica that starts anew (another
        spec or start time) counts again."""
        entry = self.hosts.setdefault(report.host, HostEntry(report.host))
        newest = {replica.id: replica for replica in report.replicas}
        for name, started in list(self._withdrawn.items()):
            now = newest.get(name)
            if now is None:
                if name in entry.replicas:
                    del self._withdrawn[name]
            elif started is None:
                self._withdrawn[name] = now.started_unix_ms
            elif now.started_unix_ms != started:
                del self._withdrawn[name]
        self._settle_running(newest)
        changed = newest != entry.replicas or not entry.connected
        entry.replicas, entry.connected = newest, True
        entry.trust_version = report.trust_version
        return changed

    def _settle_running(self, reports: Mapping[str, wire.ReplicaReport]) -> None:
        """What runs is the newest plan only once its agent says so (by the plan's hash): until a changed replica has
        been replaced, its endpoint keeps the labels and ports that it was started with."""
        for name, report in reports.items():
            plan = self._planned.get(name)
            before = self._running.get(name)
            if plan is not None and (before is None or report.spec_hash in ("", plan.spec_hash)):
                self._running[name] = plan
        alive = {name for host in self.hosts.values() for name in host.replicas} | reports.keys()
        for name in self._running.keys() - alive:
            del self._running[name]

    def _current(self, name: str, report: wire.ReplicaReport) -> PlannedReplica | None:
        plan = self._planned.get(name)
        if plan is not None and report.spec_hash in ("", plan.spec_hash):
            return plan
        return self._running.get(name, plan)

    def lost(self, host: str) -> None:
        """The host's agent is gone beyond its grace time: its endpoints leave the mesh."""
        entry = self.hosts.get(host)
        if entry is not None:
            entry.connected = False
            entry.replicas = {}

    def revoked(self, identities: frozenset[str], serials: frozenset[str]) -> None:
        """Replicas of these identities (SPIFFE URIs), or with these certificates, serve nobody from now on."""
        self._revoked = identities, serials

    def withdraw(self, replica: str) -> None:
        """From now on the replica takes no new requests."""
        host = self.host_of(replica)
        self._withdrawn[replica] = None if host is None else self.hosts[host].replicas[replica].started_unix_ms

    def host_of(self, replica: str) -> str | None:
        """The host that reports the replica."""
        return next((name for name, entry in self.hosts.items() if replica in entry.replicas), None)

    def address_of(self, replica: str) -> str:
        """The replica's address as proxies know it; empty where no host reports one."""
        host = self.host_of(replica)
        return "" if host is None else self.hosts[host].replicas[replica].address

    def known(self, replica: str) -> PlannedReplica | None:
        """The plan's entry of a replica, also while it drains."""
        return self._planned.get(replica)

    def _taking_part(self) -> Iterator[tuple[HostEntry, wire.ReplicaReport, PlannedReplica]]:
        """Every reported replica that has an address and a place in the plan, with its host."""
        for entry in self.hosts.values():
            for name, report in entry.replicas.items():
                plan = self._current(name, report)
                if plan is not None and report.address:
                    yield entry, report, plan

    def observed(self) -> Mapping[str, ObservedReplica]:
        """Every application replica that takes part in the mesh, by id."""
        found: dict[str, ObservedReplica] = {}
        for _, report, plan in self._taking_part():
            name = report.id
            if plan.identity.uri in self._revoked[0] or report.certificate_serial in self._revoked[1]:
                continue
            state = ReplicaState.DRAINING if name in self._withdrawn else ReplicaState(report.state)
            value = ObservedReplica(
                id=name,
                namespace=plan.namespace,
                workload=plan.workload,
                labels=tuple(sorted(plan.labels.items())),
                service_account=plan.identity.service_account,
                identity=plan.identity.uri,
                address=self._reached_at(plan, report),
                ports=plan.ports,
                state=state,
                kind=ProxyKind(plan.role.value),
                port_map=tuple((port.port, port.local) for port in report.gateway_ports),
            )
            before = self._observed.get(name)
            found[name] = before if before == value else value
        self._observed = found
        return found

    def _reached_at(self, plan: PlannedReplica, report: wire.ReplicaReport) -> str:
        """Where callers in the mesh find a replica: a gateway where it listens, all others at their own address."""
        everywhere = self._bind in ("0.0.0.0", "::")  # noqa: S104
        return self._bind if plan.role is WorkloadRole.GATEWAY and not everywhere else report.address

    @property
    def names_resolved(self) -> bool:
        """Whether any replica has a namespace of its own, where services are found by their names: they then need
        addresses."""
        return any(report.capture == NETNS for host in self.hosts.values() for report in host.replicas.values())

    def proxies(self) -> Mapping[str, Proxy]:
        """Every proxy that has an address, by replica id."""
        found: dict[str, tuple[tuple[object, ...], Proxy]] = {}
        for entry, report, plan in self._taking_part():
            name = report.id
            key = (
                plan.identity,
                tuple(sorted(plan.labels.items())),
                plan.ports,
                report.address,
                report.outbound_port,
                report.proxy_credentials,
                report.capture,
                report.address6,
                tuple((port.port, port.local) for port in report.app_ports),
                tuple((port.port, port.local) for port in report.gateway_ports),
                entry.module,
                plan.spec.topology if plan.spec else None,
            )
            before = self._proxies.get(name)
            found[name] = before if before and before[0] == key else (key, self._proxy(plan, report, entry.module))
        self._proxies = found
        return {name: proxy for name, (_, proxy) in found.items()}

    def _proxy(self, plan: PlannedReplica, report: wire.ReplicaReport, module: bool) -> Proxy:
        return Proxy(
            kind=ProxyKind(plan.role.value),
            name=plan.id.rpartition("/")[2],
            workload=plan.workload,
            identity=plan.identity,
            labels=dict(plan.labels),
            addresses=(report.address, report.address6) if report.address6 else (report.address,),
            capture=_capture(report),
            module=module,
            bind=self._bind if plan.role is WorkloadRole.GATEWAY else report.address,
            port_map=tuple((port.port, port.local) for port in report.gateway_ports),
            topology=plan.spec.topology if plan.spec else None,
        )


def _capture(report: wire.ReplicaReport) -> Capture:
    app_ports = tuple((port.port, port.local) for port in report.app_ports)
    if report.capture == NETNS:
        return Capture(CaptureKind.TRANSPARENT, app_ports=app_ports, own_namespace=True)
    return Capture(CaptureKind.LOOPBACK, report.outbound_port, report.proxy_credentials, app_ports)
