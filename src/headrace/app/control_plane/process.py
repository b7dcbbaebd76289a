"""The control plane as a process: opens its parts, wires them, and runs until it is told to stop.

Called by `headrace control-plane`. Everything that decides is elsewhere; here stand only lifetimes and connections.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import grpc
import structlog
import uvloop
from aiohttp import web

from headrace.app.api.server import api
from headrace.app.api.tokens import add_tokens
from headrace.app.api.trust import add_trust
from headrace.app.control_plane.agents import REPORT_GRACE, AgentService
from headrace.app.control_plane.assignments import PlannedReplica, plan
from headrace.app.control_plane.documents import LiveDocuments
from headrace.app.control_plane.hosts import HostBook
from headrace.app.control_plane.hosts_door import HostsDoor, TokenDesk, new_tokens, parse_listen
from headrace.app.control_plane.mesh import Mesh
from headrace.app.control_plane.metrics import MeshCollector, add_metrics
from headrace.app.control_plane.pipeline import Pipeline
from headrace.app.control_plane.sources import follow
from headrace.app.control_plane.trust import TrustKeeper
from headrace.app.settings import MeshSettings
from headrace.config.journal import JournalError
from headrace.envoy.resources import ResourceSet
from headrace.envoy.xds.debounce import Debounce, settled
from headrace.envoy.xds.hub import Hub
from headrace.envoy.xds.service import unix_server
from headrace.floor.cell import LatestValue
from headrace.floor.clock import SystemClock
from headrace.floor.files import write_private
from headrace.floor.places import Places, StateError
from headrace.floor.processes import ProcessMark, write_mark
from headrace.floor.sockets import private_listener
from headrace.identity.authority import AuthorityError
from headrace.identity.issuer import Issuer
from headrace.identity.ledger import Ledger, LedgerError
from headrace.identity.roots import Roots
from headrace.identity.trust import EXTRA_LISTS, ListRules, Trust
from headrace.model.mesh import MeshConfig
from headrace.model.proxy_config import ProxyConfig
from headrace.registry.build import Declared, declare
from headrace.wire import agent_v1_pb2_grpc

_log = structlog.get_logger()
_HOSTS_FILE = "hosts.json"
CONNECTION_LIFE = 0.4
"""The part of a certificate's life after which a connection takes no new requests. A certificate in use has at least
0.45 of its life left (renewal at half of it, 5 % earlier or later), so the connection ends before it."""


def run(places: Places) -> None:
    """Run until SIGTERM or SIGINT. StateError where the state directory is not that of a mesh."""
    settings = MeshSettings.load(places)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(ControlPlane(places, settings).serve())


class ControlPlane:
    """All parts of one control plane and the tasks that drive them."""

    def __init__(self, places: Places, settings: MeshSettings) -> None:
        self._places = places
        self._settings = settings
        self._clock = SystemClock()
        self._dirty: LatestValue[int] = LatestValue(0)
        self._planned: LatestValue[tuple[PlannedReplica, ...]] = LatestValue(())
        self._declared: Declared | None = None
        self._hosts = HostBook()
        self._sets: dict[str, ResourceSet] = {}
        self._hub = Hub(self, self._clock)
        self._documents = LiveDocuments(places, settings, self._replan)
        self._pipeline = Pipeline(self._documents.store, self._hosts, self)
        self._pipeline.shape = self._shape
        self._agents = AgentService(self._hosts, self._planned, self._hub, settings)
        self._agents.changed = self._observed
        self._agents.settle = self._pipeline.run
        self._tokens = new_tokens(places.agent, self._clock)
        self._door: HostsDoor | None = None
        self._awaited: set[str] = set()
        self._recorded: list[str] | None = None
        """The hosts that the state directory names; written only when they change, not with every report."""

    def resources_for(self, proxy: str) -> ResourceSet | None:
        """The newest set of a proxy, for a stream that opens (envoy.xds.hub.ResourceSource)."""
        return self._sets.get(proxy)

    def publish(self, sets: dict[str, ResourceSet]) -> int:
        """Keep the sets for streams to come and hand them to those that are open."""
        self._sets = sets
        return self._hub.publish(sets)

    def _replan(self) -> None:
        """Documents changed: what must run, then what must be sent."""
        revision = self._documents.store.revision()
        self._declared = declare(revision, self._declared)
        documents = self._declared.documents
        planned = plan(documents.workloads, self._declared.gateways, revision.mesh, documents.of(ProxyConfig))
        self._agents.trust_domain = revision.mesh.trust_domain
        self._hosts.planned(planned, self._settings.gateway_bind)
        if planned != self._planned.value:
            self._planned.set(planned)
        self._dirty.set(self._dirty.value + 1)

    def _observed(self) -> None:
        """Reports changed."""
        names = sorted(name for name, entry in self._hosts.hosts.items() if entry.connected)
        self._awaited.difference_update(names)
        if not self._pipeline.open and not self._awaited:
            self._open_pipeline()
        if names != self._recorded:
            write_private(self._places.state / _HOSTS_FILE, json.dumps(names).encode())
            self._recorded = names
        self._dirty.set(self._dirty.value + 1)

    def _shape(self, mesh: MeshConfig) -> MeshConfig:
        """The settings with what a running mesh adds: connections do not outlast certificates, and services' addresses
        lead nowhere by themselves."""
        life = self._settings.certificate_lifetime * CONNECTION_LIFE
        return replace(mesh, guarded=True, routed=False, connection_life=life)

    def _touch(self) -> None:
        """Something that the pipeline reads changed."""
        self._dirty.set(self._dirty.value + 1)

    def _open_pipeline(self) -> None:
        if not self._pipeline.open:
            self._pipeline.open = True
            self._agents.publishing.set()
            self._dirty.set(self._dirty.value + 1)

    def _await_hosts(self) -> None:
        """After a restart nothing is published before every host of before has reported, or had its time."""
        try:
            self._awaited = set(json.loads((self._places.state / _HOSTS_FILE).read_bytes()))
        except (OSError, ValueError):
            self._awaited = set()
        if self._awaited:
            asyncio.get_running_loop().call_later(REPORT_GRACE, self._open_pipeline)
        else:
            self._open_pipeline()

    def _open_authority(self) -> TrustKeeper:
        trust_domain = self._documents.store.revision().mesh.trust_domain
        directory = Path(self._settings.ca_directory) if self._settings.ca_directory else self._places.ca
        roots = Roots.open(directory, trust_domain, self._clock, create=not self._settings.ca_directory)
        ledger = Ledger.open(self._places.ca / "ledger.sqlite")
        lifetime = self._settings.certificate_lifetime
        rules = ListRules.for_certificates(lifetime)
        trust = Trust(roots, ledger, self._clock, rules, directory / EXTRA_LISTS)
        keeper = TrustKeeper(trust, self._hosts, self._planned, self._clock, self._touch)
        self._agents.issuer = Issuer(self._agents, trust, ledger, self._clock, lifetime)
        self._agents.trust = keeper.states
        if self._settings.join_listen:
            self._door = HostsDoor(trust, ledger, trust_domain, self._clock, lifetime)
            self._agents.host_certificate = self._door.issue
        return keeper

    async def serve(self) -> None:
        """Open everything, run, and close it again on SIGTERM or SIGINT."""
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        self._await_hosts()
        try:
            self._documents.load()
            trust = self._open_authority()
        except (AuthorityError, LedgerError, JournalError) as error:
            raise StateError(str(error)) from error
        mark = ProcessMark.of(os.getpid())
        assert mark is not None
        write_mark(self._places.pid_file("control-plane"), mark)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(unix_server(self._places.agent_socket, agent_handlers(self._agents)))
            await self._serve_api(stack, trust)
            if self._door is not None and self._settings.join_listen:
                listen, directory = self._settings.join_listen, self._places.ca
                await self._door.open(stack, listen, self._tokens, agent_handlers(self._agents), directory)
            group = await stack.enter_async_context(asyncio.TaskGroup())
            tasks = [
                group.create_task(self._publish_changes(), name="publish"),
                group.create_task(trust.run(), name="trust"),
                group.create_task(follow(self._documents.sources, self._documents.replace), name="follow"),
            ]
            _log.info("control plane ready", state=str(self._places.state))
            await stopped.wait()
            for task in tasks:
                task.cancel()
        self._places.pid_file("control-plane").unlink(missing_ok=True)

    async def _serve_api(self, stack: AsyncExitStack, trust: TrustKeeper) -> None:
        """The management API on its owner-only socket."""
        mesh = Mesh(self._documents, self._hosts, self._hub, self._pipeline, self._planned, self._settings)
        mesh.trust = trust
        mesh.loads = self._agents.loads
        application = api(mesh)
        add_trust(application, trust)
        listen = self._settings.join_listen or ""
        add_tokens(application, TokenDesk(self._door, self._tokens, listen, self._settings.host))
        metrics = MeshCollector(mesh, trust, self._agents.signed)
        add_metrics(application, metrics)
        runner = await _runner(stack, application)
        listener = private_listener(self._places.api_socket)
        stack.callback(self._places.api_socket.unlink, missing_ok=True)
        await web.SockSite(runner, listener).start()
        if self._settings.metrics_listen:
            alone = web.Application()
            add_metrics(alone, metrics)
            address, port = parse_listen(self._settings.metrics_listen, "--metrics-listen")
            try:
                await web.TCPSite(await _runner(stack, alone), address, port).start()
            except OSError as error:
                raise StateError(f"--metrics-listen {address}:{port}: {error.strerror}: use another port") from error

    async def _publish_changes(self) -> None:
        """One pass of the pipeline now, and one after each burst of changes."""
        self._publish_once()
        async for _ in settled(self._dirty, self._clock, Debounce()):
            self._publish_once()

    def _publish_once(self) -> None:
        try:
            self._pipeline.run()
            self._documents.report()
        except Exception:  # the mesh goes on with what it has; the next change tries again
            _log.exception("a change could not be brought into force")


async def _runner(stack: AsyncExitStack, application: web.Application) -> web.AppRunner:
    runner = web.AppRunner(application, access_log=None, handle_signals=False)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    return runner


class _Handlers:
    """Takes the place of a server where generated code wants to add its methods."""

    def __init__(self) -> None:
        self.generic: list[grpc.GenericRpcHandler[bytes, bytes]] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler[bytes, bytes]]) -> None:
        self.generic += handlers

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """The generic handlers serve these methods already."""


def agent_handlers(service: AgentService) -> list[grpc.GenericRpcHandler[bytes, bytes]]:
    """The agent API's methods, for any number of servers."""
    collected = _Handlers()
    agent_v1_pb2_grpc.add_ControlPlaneServicer_to_server(service, collected)  # type: ignore[arg-type]
    return collected.generic
