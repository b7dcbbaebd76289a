"""The running mesh as people ask about it: status, proxies, documents, descriptions. Plain data in and out.

Called by the management API (`api.server`); reads the control plane's parts, changes only documents.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace import __version__
from headrace.app.control_plane import answers
from headrace.app.control_plane.assignments import PlannedReplica
from headrace.app.control_plane.capture_notes import loopback_notes
from headrace.app.control_plane.described import described
from headrace.app.control_plane.documents import LiveDocuments
from headrace.app.control_plane.engine_loads import EngineLoadBook
from headrace.app.control_plane.gateway_status import StatusBook, as_served
from headrace.app.control_plane.hosts import HostBook, HostEntry
from headrace.app.control_plane.pipeline import Pipeline
from headrace.app.control_plane.trust import TrustKeeper
from headrace.app.gateway_problems import gateway_problems
from headrace.app.settings import MeshSettings
from headrace.config.store import Stored
from headrace.envoy.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE
from headrace.envoy.xds.hub import Hub
from headrace.envoy.xds.status import ProxyStatus
from headrace.floor.cell import LatestValue
from headrace.model.gateway import UNIX, Server
from headrace.model.gateway_api import api_kind
from headrace.model.policy import GATEWAY_NAME_LABEL
from headrace.model.resource import ResourceKey
from headrace.model.workload import WorkloadRole
from headrace.wire import agent_v1_pb2 as wire

LOOPBACK_NOTE = (
    "loopback capture: traffic is captured by HTTP_PROXY, local processes of this user are not isolated from each other"
)
NETNS_NOTE = "netns capture: every replica has a network namespace and a user of its own; all its TCP goes by its proxy"
_COLUMNS = {"clusters": CLUSTER, "endpoints": ENDPOINT, "listeners": LISTENER, "routes": ROUTE}


@dataclass(slots=True)
class Mesh:
    """Answers about one running mesh."""

    documents: LiveDocuments
    hosts: HostBook
    hub: Hub
    pipeline: Pipeline
    plan: LatestValue[tuple[PlannedReplica, ...]]
    settings: MeshSettings
    trust: TrustKeeper | None = None
    loads: EngineLoadBook | None = None
    statuses: StatusBook = field(default_factory=StatusBook)

    def status(self) -> dict[str, Any]:
        """How far the mesh is: ready when every planned replica is, and its proxy has acknowledged everything."""
        waiting = []
        reports = self._reports()
        for replica in self.plan.value:
            problem = self._not_ready(replica, reports.get(replica.id))
            if problem is not None:
                waiting.append({"id": replica.id, "state": problem[0], "detail": problem[1]})
        revision = self.documents.store.revision()
        statuses = self.pipeline.snapshot.statuses if self.pipeline.snapshot is not None else {}
        total = len(self.plan.value)
        return {
            "version": __version__,
            "revision": revision.number,
            "ready": self.pipeline.open and not waiting,
            "replicas": total,
            "ready_replicas": total - len(waiting),
            "waiting": waiting,
            "gateways": self._gateways(reports),
            "problems": [problem.as_line() for problem in (*revision.problems, *gateway_problems(revision, statuses))],
            "notes": self._notes() + self._unread(),
            "translation_failures": dict(self.pipeline.failures),
            "trust": self.trust.authority() if self.trust else None,
            "last_translation_ms": round(self.pipeline.last_seconds * 1000, 3),
        }

    def _notes(self) -> list[str]:
        notes = [LOOPBACK_NOTE if self.settings.capture == "loopback" else NETNS_NOTE]
        if self.settings.capture == "loopback" and self.pipeline.snapshot is not None:
            notes += loopback_notes(self.pipeline.snapshot)
        if not self.plan.value:
            notes.append(f"nothing to run: no Workload and no Gateway in {', '.join(self.settings.documents)}")
        notes += [f"certificates: {line}" for line in (self.trust.problems() if self.trust else [])]
        return notes + [
            f"{host.name}: no native module, balancing by least_request ({host.module_problem})"
            for host in self.hosts.hosts.values()
            if not host.module
        ]

    def _engines(self) -> Mapping[str, dict[str, Any]]:
        """What model servers say of their load, by replica."""
        return {} if self.loads is None else self.loads.rows()

    def _unread(self) -> list[str]:
        """Model servers that cannot be asked for their load."""
        return [
            f"{replica}: engine metrics not read, the mesh goes by its own books ({row['problem']})"
            for replica, row in sorted(self._engines().items())
            if row["problem"]
        ]

    def _reports(self) -> Mapping[str, wire.ReplicaReport]:
        return {name: report for host in self.hosts.hosts.values() for name, report in host.replicas.items()}

    def _not_ready(self, replica: PlannedReplica, report: wire.ReplicaReport | None) -> tuple[str, str] | None:
        if report is None:
            host = self.hosts.hosts.get(replica.host)
            away = replica.host not in ("", self.settings.host) and (host is None or not host.connected)
            return ("pending", f"host {replica.host} is not connected" if away else "not started yet")
        if report.state != "ready":
            return (report.state, report.detail)
        stream = self.hub.status(replica.id)
        if stream is None:
            return ("connecting", "its proxy has not asked for configuration yet")
        if not stream.in_sync:
            nacks = stream.nacks
            return ("syncing", f"refused: {nacks[0].message}" if nacks else "its proxy has not acknowledged everything")
        return None

    def _gateways(self, reports: Mapping[str, wire.ReplicaReport]) -> list[dict[str, Any]]:
        """Each gateway replica and the addresses that clients outside use."""
        gateways = self.pipeline.snapshot.gateways if self.pipeline.snapshot is not None else ()
        found = []
        for replica in self.plan.value:
            report = reports.get(replica.id)
            if replica.role is not WorkloadRole.GATEWAY or report is None:
                continue
            local = {port.port: port.local for port in report.gateway_ports}
            address = self._gateway_address()
            urls = sorted(
                {
                    _url(server, address, local.get(server.port, server.port))
                    for gateway in gateways
                    if gateway.takes(replica.namespace, replica.labels, ())
                    for server in gateway.servers
                }
            )
            found.append({"name": replica.id, "urls": urls})
        return found

    def get(self, kind: str, namespace: str | None, name: str | None) -> list[dict[str, Any]]:
        """Documents in force (`answers.documents`); those of the Gateway API with their statuses."""
        return answers.documents(self.documents, kind, namespace, name, self._status_of)

    def _status_of(self, stored: Stored) -> dict[str, Any] | None:
        """The status of a document: None where it has none."""
        snapshot = self.pipeline.snapshot
        status = snapshot.statuses.get(stored.key) if snapshot is not None else None
        if status is None:
            return None
        if stored.key.kind == api_kind("Gateway"):
            status = as_served(status, self._waiting(stored.key), self._addresses(stored.key))
        written = stored.document.data.get("metadata", {}).get("generation")
        return self.statuses.stamped(stored.key, status, written if isinstance(written, int) else stored.version)

    def _own_proxies(self, key: ResourceKey) -> list[PlannedReplica]:
        """The proxies that a Gateway of the Gateway API has for itself."""
        return [
            replica
            for replica in self.plan.value
            if replica.role is WorkloadRole.GATEWAY
            and replica.namespace == key.namespace
            and replica.labels.get(GATEWAY_NAME_LABEL) == key.name
        ]

    def _waiting(self, key: ResourceKey) -> list[str] | None:
        own, reports = self._own_proxies(key), self._reports()
        problems = [self._not_ready(replica, reports.get(replica.id)) for replica in own]
        return [f"{state}, {detail}" if detail else state for state, detail in filter(None, problems)] if own else None

    def _addresses(self, key: ResourceKey) -> list[str]:
        return [self._gateway_address()] if self._own_proxies(key) else []

    def _gateway_address(self) -> str:
        """Where clients on this machine find the gateways."""
        return "127.0.0.1" if self.settings.gateway_bind in ("0.0.0.0", "::") else self.settings.gateway_bind  # noqa: S104

    def apply(self, sources: list[tuple[str, object]]) -> dict[str, Any]:
        """Bring documents (`answers.apply`)."""
        return answers.apply(self.documents, sources)

    def delete(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        """Take one document out of force (`answers.delete`)."""
        return answers.delete(self.documents, kind, namespace, name)

    def describe(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        """What applies to a service, workload or route (`described`)."""
        snapshot = self.pipeline.snapshot
        if snapshot is None:
            raise answers.Refused(503, "the control plane is still starting: ask again in a moment")
        return described(snapshot, kind, namespace, name, self.proxies())

    def proxies(self) -> list[dict[str, Any]]:
        """One row for each proxy that an agent reports, whether it is connected or not."""
        rows = []
        for host in self.hosts.hosts.values():
            for name, report in host.replicas.items():
                rows.append(self._proxy_row(host, name, report))
        return sorted(rows, key=lambda row: str(row["proxy"]))

    def _proxy_row(self, host: HostEntry, name: str, report: wire.ReplicaReport) -> dict[str, Any]:
        stream = self.hub.status(name)
        row: dict[str, Any] = {
            "proxy": name,
            "host": host.name,
            "state": report.state,
            "detail": report.detail,
            "address": report.address,
            "address6": report.address6 or None,
            "capture": report.capture or (None if report.gateway_ports else "loopback"),
            "app_pid": report.app_pid or None,
            "proxy_pid": report.proxy_pid or None,
            "restarts": report.restarts,
            "outbound_port": report.outbound_port or None,
            "app_ports": {str(port.port): port.local for port in report.app_ports},
            "gateway_ports": {str(port.port): port.local for port in report.gateway_ports},
            "certificate_until": _date(report.certificate_not_after_unix_ms),
            "certificate_serial": report.certificate_serial,
            "connected": stream is not None,
            "push_ms": None if stream is None or stream.push_ms is None else round(stream.push_ms, 2),
            "problem": self._problem(name, stream, report.certificate_serial),
        }
        engine = self._engines().get(name)
        if engine is not None:
            row["engine_metrics"] = engine
        for column, type_url in _COLUMNS.items():
            row[column] = _acknowledged(stream, type_url)
        return row

    def _problem(self, name: str, stream: ProxyStatus | None, serial: str) -> str | None:
        trouble = self.trust.problem_of(name, serial) if self.trust else None
        if trouble is not None:
            return trouble
        if name in self.pipeline.failures:
            return f"not translated: {self.pipeline.failures[name]}"
        if stream is None:
            return "not connected"
        return "; ".join(f"refused {', '.join(nack.resources)}: {nack.message}" for nack in stream.nacks) or None


def _acknowledged(stream: ProxyStatus | None, type_url: str) -> str | None:
    """The acknowledged version of one type, marked with * while a newer one is on its way."""
    if stream is None:
        return None
    for kind in stream.types:
        if kind.type_url == type_url:
            return f"{kind.acknowledged[:8]}{'' if kind.in_sync else '*'}"
    return None


def _url(server: Server, address: str, port: int) -> str:
    """Where clients of a gateway's server connect to; `address` where the server names none."""
    if server.bind.startswith(UNIX):
        return server.bind
    host = server.bind or address
    return f"{_scheme(server.protocol)}://{f'[{host}]' if ':' in host else host}:{port}"


def _scheme(protocol: str) -> str:
    if protocol.upper() in ("HTTPS", "TLS"):
        return protocol.lower()
    return "http" if protocol.upper() in ("HTTP", "HTTP2", "GRPC", "GRPC-WEB") else "tcp"


def _date(unix_ms: int) -> str | None:
    if not unix_ms:
        return None
    return datetime.datetime.fromtimestamp(unix_ms / 1000, datetime.UTC).isoformat(timespec="seconds")
