"""Documents, translated, in real Envoys: each proxy of the text runs with what translation makes of it and with
certificates of one authority, served over one socket as an agent would."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import hashlib
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from aiohttp import web
from envoy.config.listener.v3 import listener_pb2
from tests.flows.envoy_process import EnvoyProcess, running_envoy
from tests.flows.identity_rig import Trust

from headrace.app import offline
from headrace.envoy.bootstrap import DEFAULT_SECRET, ROOT_SECRET, BootstrapSettings, bootstrap_json
from headrace.envoy.resources import LISTENER, ResourceSet, XdsResource
from headrace.envoy.scopes import Scopes, view_of
from headrace.envoy.secrets import validation_secret, workload_secret
from headrace.envoy.translate import Translator
from headrace.envoy.xds.hub import Hub
from headrace.envoy.xds.service import discovery_handler, unix_server
from headrace.floor.clock import SystemClock
from headrace.model.proxy import Capture, CaptureKind, Proxy

USER, PASSWORD = "app", "open-sesame"
CREDENTIALS = f"{USER}:{{SHA}}{base64.b64encode(hashlib.sha1(PASSWORD.encode()).digest()).decode()}"


def free_port(address: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


@dataclass
class Sets:
    """What each proxy is to have, by name; the source of a hub."""

    held: dict[str, ResourceSet] = field(default_factory=dict)

    def resources_for(self, proxy: str) -> ResourceSet | None:
        return self.held.get(proxy)


@dataclass
class Mesh:
    """One text of documents and the Envoys that run it; `shape` may change what they are sent, `known` are codes of
    problems that the documents may have."""

    directory: Path
    trust: Trust
    documents: str
    stack: contextlib.AsyncExitStack
    translator: Translator = field(default_factory=Translator)
    scopes: Scopes = field(default_factory=Scopes)
    running: dict[str, tuple[Proxy, Hub]] = field(default_factory=dict)
    shape: Callable[[ResourceSet], ResourceSet] = lambda resources: resources
    known: Sequence[str] = ()

    def described(self, name: str) -> Proxy:
        return offline.find_proxy(self._loaded().snapshot, offline.ProxyName.parse(name))

    def _loaded(self) -> offline.Offline:
        path = self.directory / "documents.yaml"
        path.write_text(self.documents)
        found = offline.load([path])
        unknown = [problem.as_line() for problem in found.problems if problem.code not in self.known]
        assert not unknown, unknown
        return found

    async def run(self, proxy: Proxy) -> EnvoyProcess:
        """An Envoy that is this proxy, once it has acknowledged everything."""
        resources = self.shape(self.translator.resources(view_of(self._loaded().snapshot, proxy, self.scopes)))
        pair = self.trust.pair(proxy.identity)
        secrets = ResourceSet.collect(
            (
                workload_secret(DEFAULT_SECRET, pair.chain_pem, pair.key.reveal_pem()),
                validation_secret(ROOT_SECRET, pair.bundle_pem),
            )
        )
        hub = Hub(Sets({proxy.name: resources}), SystemClock())
        self.running[proxy.name] = (proxy, hub)
        keys = Hub(Sets({proxy.name: secrets}), SystemClock())
        handler = discovery_handler(
            ads=functools.partial(hub.stream, proxy.name), sds=functools.partial(keys.stream, proxy.name)
        )
        xds, admin = self.directory / f"{proxy.name}.x", self.directory / f"{proxy.name}.a"
        await self.stack.enter_async_context(unix_server(xds, [handler]))
        bootstrap = bootstrap_json(BootstrapSettings(proxy.node_id, proxy.workload, xds, admin))
        envoy = await asyncio.to_thread(self.stack.enter_context, running_envoy(bootstrap, admin))
        await self._settled(hub, proxy.name, envoy)
        return envoy

    async def change(self, documents: str) -> None:
        """Let the documents be these, and wait until every Envoy that runs has acknowledged them."""
        self.documents = documents
        snapshot = self._loaded().snapshot
        for name, (proxy, hub) in self.running.items():
            resources = self.shape(self.translator.resources(view_of(snapshot, proxy, self.scopes)))
            assert not await hub.acknowledged(hub.publish({name: resources}), 15)

    async def _settled(self, hub: Hub, name: str, envoy: EnvoyProcess) -> None:
        """Wait until Envoy has answered all that was sent, and refuse what it refused."""
        async with asyncio.timeout(15):
            while True:
                status = hub.status(name)
                if status is not None:
                    assert not status.nacks, status.nacks
                    if status.in_sync and status.types:
                        break
                await asyncio.sleep(0.01)
            while b"LIVE" not in await asyncio.to_thread(envoy.admin, "/ready"):
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def mesh(documents: str) -> AsyncIterator[Mesh]:
    """A mesh of these documents, without any proxy yet; everything ends with it."""
    with tempfile.TemporaryDirectory(prefix="hr-mesh-") as name:
        directory = Path(name)
        trust = Trust(directory / "ca")
        async with contextlib.AsyncExitStack() as stack:
            yield Mesh(directory, trust, documents, stack)


def reachable(address: str) -> Callable[[ResourceSet], ResourceSet]:
    """A shape for transparent sidecars without redirection: outbound listeners bind their ports, those on any address
    at `address`, and the virtual listeners are left out."""

    def shaped(resources: ResourceSet) -> ResourceSet:
        found = [item for group in resources.by_type.values() for item in group.values() if item.type_url != LISTENER]
        for item in resources.of_type(LISTENER).values():
            listener = listener_pb2.Listener.FromString(item.body)
            if item.name.startswith("virtual"):
                continue
            listener.ClearField("bind_to_port")
            if listener.address.socket_address.address == "0.0.0.0":
                listener.address.socket_address.address = address
            found.append(XdsResource.of(LISTENER, item.name, listener.SerializeToString(deterministic=True)))
        return ResourceSet.collect(found)

    return shaped


@contextlib.asynccontextmanager
async def echo(address: str = "127.0.0.1") -> AsyncIterator[int]:
    """An HTTP server that answers with the request's headers and path; its port."""

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(
            {"path": request.path_qs, "headers": {k.lower(): v for k, v in request.headers.items()}}
        )

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port(address)
    await web.TCPSite(runner, address, port).start()
    try:
        yield port
    finally:
        await runner.cleanup()


def loopback(proxy: Proxy, address: str, app_ports: tuple[tuple[int, int], ...] = ()) -> Proxy:
    """The same proxy under loopback capture at `address`."""
    capture = Capture(CaptureKind.LOOPBACK, free_port(address), CREDENTIALS, app_ports)
    return replace(proxy, addresses=(address,), capture=capture)
