"""A real agent process under a scripted control plane, for the flow tests of the agent.

The control plane's side is real gRPC over a Unix socket, with the real discovery hub and the real certificate issuer;
only what it wants is scripted. Proxies get one inbound listener for each port (mutual TLS optional) and a gateway's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401 - known to ParseDict by its import
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2,  # noqa: F401
)
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from google.protobuf.json_format import ParseDict

from headrace.agent.process import marked
from headrace.envoy.resources import CLUSTER, LISTENER, ResourceSet, XdsResource
from headrace.envoy.translate.tls import agent_secret
from headrace.envoy.xds.hub import Hub
from headrace.floor.clock import SystemClock
from headrace.floor.places import Places
from headrace.identity.attest import Assigned
from headrace.identity.authority import Authority
from headrace.identity.issuer import Issuer, IssueRefused
from headrace.identity.ledger import Ledger
from headrace.model.identity import Identity
from headrace.wire import agent_v1_pb2 as wire
from headrace.wire import agent_v1_pb2_grpc

HOST = "here"
TYPE = "type.googleapis.com/"
SERVER = Path(__file__).parent / "agent_server.py"
"""The application: a small HTTP server (see its own words)."""


async def until(check: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    """The first true value of `check`; fails with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.02)


def replica(name: str = "chat-0", *options: str, **fields: Any) -> wire.Replica:
    """An assignment of the small HTTP server with one port, 8000."""
    found = wire.Replica(
        id=f"default/{name}",
        namespace="default",
        workload=name.rpartition("-")[0],
        role="sidecar",
        service_account="default",
        spec_hash="1",
        command=[sys.executable, str(SERVER), *options],
        ports=[wire.Port(number=8000, name="http", protocol="HTTP")],
        grace_period_ms=5000,
        identity="spiffe://cluster.local/ns/default/sa/default",
    )
    for field_name, value in fields.items():
        if isinstance(value, (str, int)):
            setattr(found, field_name, value)
        else:
            found.ClearField(field_name)  # type: ignore[arg-type]
            target = getattr(found, field_name)
            target.extend(value) if isinstance(value, list) else target.CopyFrom(value)
    return found


class ScriptedControlPlane(agent_v1_pb2_grpc.ControlPlaneServicer):
    """Does what the test says: `assign`, and then looks at `reports`, `withdrawn`, `registered`, `signed`."""

    def __init__(self, places: Places, ca: Path, *, tls: bool = False) -> None:
        self.socket = places.agent_socket
        self.tls = tls
        self.wanted = wire.Assignment(revision="0")
        self.reports: dict[str, wire.ReplicaReport] = {}
        self.history: list[tuple[str, str, str]] = []
        self.registered: list[wire.RegisterRequest] = []
        self.withdrawn: list[str] = []
        self.signed: list[str] = []
        self.streams: list[str] = []
        self.refuse_signing = False
        self.loads: dict[str, wire.EngineLoad] = {}
        self.other_loads = wire.MeshEngineLoads()
        self._assigned = asyncio.Event()
        self._sets: dict[str, ResourceSet] = {}
        self.hub = Hub(self, SystemClock())
        clock = SystemClock()
        self._issuer = Issuer(
            self, Authority.open(ca, "cluster.local", clock), Ledger.open(ca / "ledger.sqlite"), clock, lifetime=3600.0
        )
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        self._server = grpc.aio.server()
        agent_v1_pb2_grpc.add_ControlPlaneServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"unix:{self.socket}")
        await self._server.start()

    async def stop(self, grace: float | None = None) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.stop(grace)

    def assign(self, *replicas: wire.Replica) -> None:
        revision = str(int(self.wanted.revision) + 1)
        self.wanted = wire.Assignment(revision=revision, replicas=list(replicas))
        event, self._assigned = self._assigned, asyncio.Event()
        event.set()

    def report(self, name: str = "default/chat-0") -> wire.ReplicaReport:
        """The newest report of a replica, an empty one where there is none."""
        return self.reports.get(name) or wire.ReplicaReport()

    def state(self, name: str = "default/chat-0") -> str:
        return self.report(name).state

    async def ready(self, name: str = "default/chat-0", spec: str = "") -> wire.ReplicaReport:
        """The report of a replica as soon as it is ready (and runs the spec of that hash)."""

        def check() -> wire.ReplicaReport | None:
            found = self.reports.get(name)
            return found if found and found.state == "ready" and spec in ("", found.spec_hash) else None

        found: wire.ReplicaReport = await until(check, f"{name} ready; last {self.reports.get(name)}")
        return found

    # What the hub and the issuer ask

    def resources_for(self, proxy: str) -> ResourceSet | None:
        return self._sets.get(proxy)

    def assigned(self, replica_id: str) -> Assigned | None:
        for item in self.wanted.replicas:
            if item.id == replica_id:
                return Assigned(HOST, Identity.parse(item.identity))
        return None

    # The API

    async def Register(self, request: wire.RegisterRequest, context: Any) -> wire.RegisterResponse:
        self.registered.append(request)
        return wire.RegisterResponse(version="0.1.0", trust_domain="cluster.local", report_grace_ms=5000)

    async def Assignments(self, request: Any, context: Any) -> AsyncIterator[wire.Assignment]:
        while True:
            event = self._assigned
            if self.wanted.revision != "0":
                yield self.wanted
            await event.wait()

    async def Report(self, request_iterator: Any, context: Any) -> AsyncIterator[wire.ReportReply]:
        async for report in request_iterator:
            for item in report.replicas:
                before = self.reports.get(item.id)
                if before is None or before.state != item.state:
                    self.history.append((item.id, item.state, item.detail))
            self.reports = {item.id: item for item in report.replicas}
            self._publish()
            yield wire.ReportReply(sequence=report.sequence)

    async def SignCertificate(self, request: Any, context: Any) -> wire.SignCertificateResponse:
        self.signed.append(request.replica_id)
        if self.refuse_signing:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not today")
        try:
            issued = self._issuer.issue(request.host, request.replica_id, request.csr_der)
        except IssueRefused as refusal:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(refusal))
        return wire.SignCertificateResponse(
            certificate_chain_pem=issued.chain_pem,
            trust_bundle_pem=issued.bundle_pem,
            not_before_unix_ms=int(issued.not_before * 1000),
            not_after_unix_ms=int(issued.not_after * 1000),
            serial=issued.serial,
        )

    async def Withdraw(self, request: wire.WithdrawRequest, context: Any) -> wire.WithdrawResponse:
        self.withdrawn.append(request.replica_id)
        return wire.WithdrawResponse(acknowledged=True)

    async def Discover(self, request_iterator: Any, context: Any) -> AsyncIterator[wire.DiscoveryFrame]:
        name = dict(context.invocation_metadata())["replica-id"]
        self.streams.append(name)

        async def frames() -> AsyncIterator[bytes]:
            async for frame in request_iterator:
                yield frame.message

        async for message in self.hub.stream(name, frames()):
            yield wire.DiscoveryFrame(message=message)

    async def EngineLoads(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]
        async for message in request_iterator:
            self.loads = {load.replica_id: load for load in message.loads}
            await context.write(self.other_loads)

    def _publish(self) -> None:
        sets = {}
        for name, report in self.reports.items():
            resources = ResourceSet.collect(self._resources(report))
            before = self._sets.get(name)
            if before is None or _versions(before) != _versions(resources):
                sets[name] = self._sets[name] = resources
        if sets:
            self.hub.publish(sets)

    def _resources(self, report: wire.ReplicaReport) -> Iterable[XdsResource]:
        for mapping in report.app_ports:
            yield _cluster(f"inbound|{mapping.port}||", mapping.local)
            yield _listener(f"{report.address}_{mapping.port}", report.address, mapping.port, self.tls)
        for mapping in report.gateway_ports:
            yield _gateway_listener(mapping.local)


def _versions(resources: ResourceSet) -> dict[str, str]:
    return {name: item.version for kind in (CLUSTER, LISTENER) for name, item in resources.of_type(kind).items()}


def _cluster(name: str, port: int) -> XdsResource:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    message = ParseDict(
        {
            "name": name,
            "type": "STATIC",
            "connect_timeout": "1s",
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
            },
        },
        Cluster(),
    )
    return XdsResource.of(CLUSTER, name, message.SerializeToString(deterministic=True))


def _chain(prefix: str, route: dict[str, Any]) -> dict[str, Any]:
    hcm = {
        "@type": TYPE + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": prefix,
        "stream_idle_timeout": "0s",
        "route_config": {
            "name": prefix,
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **route}]}],
        },
        "http_filters": [
            {"name": "router", "typed_config": {"@type": TYPE + "envoy.extensions.filters.http.router.v3.Router"}}
        ],
    }
    return {"filters": [{"name": "hcm", "typed_config": hcm}]}


def _listener(name: str, address: str, port: int, tls: bool) -> XdsResource:
    chain = _chain(f"inbound_{name}", {"route": {"cluster": f"inbound|{port}||", "timeout": "0s"}})
    message = ParseDict(
        {
            "name": name,
            "address": {"socket_address": {"address": address, "port_value": port}},
            "filter_chains": [chain],
        },
        Listener(),
    )
    if tls:
        context = tls_pb2.DownstreamTlsContext()
        context.require_client_certificate.value = True
        context.common_tls_context.tls_certificate_sds_secret_configs.append(agent_secret("default"))
        context.common_tls_context.validation_context_sds_secret_config.CopyFrom(agent_secret("ROOTCA"))
        socket = message.filter_chains[0].transport_socket
        socket.name = "envoy.transport_sockets.tls"
        socket.typed_config.Pack(context)
    return XdsResource.of(LISTENER, name, message.SerializeToString(deterministic=True))


def _gateway_listener(port: int) -> XdsResource:
    name = f"127.0.0.1_{port}"
    body = {"inline_string": f"gateway {port}"}
    message = ParseDict(
        {
            "name": name,
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
            "filter_chains": [_chain(f"outbound_{name}", {"direct_response": {"status": 200, "body": body}})],
        },
        Listener(),
    )
    return XdsResource.of(LISTENER, name, message.SerializeToString(deterministic=True))


@dataclass
class AgentRig:
    """One agent process with its control plane. `kill` and `start` let it crash and come back."""

    places: Places
    control: ScriptedControlPlane
    session: aiohttp.ClientSession
    process: asyncio.subprocess.Process | None = None
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    async def start(self) -> None:
        log = (self.places.logs / "agent.log").open("ab")
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "headrace", "agent", "--state", str(self.places.state), "--host", HOST, "--no-control-plane"),
            *self.arguments,
            stdout=log,
            stderr=log,
            env={**os.environ, **self.environment},
        )
        log.close()

    async def kill(self) -> None:
        """SIGKILL, as a crash would be."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def stop(self, seconds: float = 30.0) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(seconds):
            return await self.process.wait()

    async def get(self, path: str = "/", address: str = "") -> tuple[int, dict[str, Any]]:
        """A request through the replica's proxy."""
        report = self.control.report()
        async with self.session.get(f"http://{address or report.address}:8000{path}") as response:
            text = await response.text()
            return response.status, json.loads(text) if text.startswith("{") else {"text": text}

    def processes(self) -> list[int]:
        """Every process of this mesh that the agent ever started and that still runs."""
        return marked(f"{self.mesh_mark()}:")

    def mesh_mark(self) -> str:
        import hashlib

        return hashlib.blake2b(os.fsencode(self.places.state), digest_size=8).hexdigest()

    def log(self) -> str:
        return (self.places.logs / "agent.log").read_text(errors="replace")


@contextlib.asynccontextmanager
async def agent_rig(*, tls: bool = False, start: bool = True, **settings: Any) -> AsyncIterator[AgentRig]:
    """A running agent in a temporary state directory; everything is ended and removed afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="hr-"))
    places = Places.open(directory / "state")
    ca = directory / "ca"
    ca.mkdir(mode=0o700)
    control = ScriptedControlPlane(places, ca, tls=tls)
    await control.start()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        rig = AgentRig(places, control, session, **settings)
        try:
            if start:
                await rig.start()
            yield rig
        except BaseException:
            print(rig.log()[-6000:])
            for path in sorted(places.logs.glob("*.log")):
                print(f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}")
            raise
        finally:
            if rig.process is not None and rig.process.returncode is None:
                rig.process.kill()
                await rig.process.wait()
            for pid in rig.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await control.stop()
            shutil.rmtree(directory, ignore_errors=True)
