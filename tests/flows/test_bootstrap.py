"""A real Envoy started with our bootstrap: who it says it is, what it asks for, and what it lets nobody do."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import queue
import socket
import stat
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.service.discovery.v3 import discovery_pb2
from tests.flows.envoy_process import EnvoyProcess, running_envoy, wait_until

from headrace.envoy import resources
from headrace.envoy.bootstrap import BootstrapSettings, bootstrap_json

STREAM = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
Request = discovery_pb2.DeltaDiscoveryRequest


def settings(directory: Path, **changes: object) -> BootstrapSettings:
    values = {
        "node_id": "sidecar~127.0.0.2~chat-v1-0.default~default.svc.cluster.local",
        "cluster": "chat.default",
        "xds_socket": directory / "xds.sock",
        "admin_socket": directory / "admin.sock",
        "locality": "eu/a",
        "metadata": {"REPLICA": "chat-v1-0", "LABELS": {"app": "chat"}},
    }
    return BootstrapSettings(**{**values, **changes})  # type: ignore[arg-type]


class Discovery:
    """An ADS server that records requests and sends one listener (and no cluster)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.requests: queue.Queue[Request] = queue.Queue()
        self.streams = 0

    def answer(self, incoming: Iterator[Request], context: grpc.ServicerContext) -> Iterator[object]:
        self.streams += 1
        for request in incoming:
            self.requests.put(request)
            if request.response_nonce:
                continue
            reply = discovery_pb2.DeltaDiscoveryResponse(
                type_url=request.type_url, nonce=f"n{request.type_url[-9:]}", system_version_info="1"
            )
            if request.type_url == resources.LISTENER:
                reply.resources.add(name="front", version="1").resource.Pack(front_listener())
            yield reply

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        handler = grpc.stream_stream_rpc_method_handler(
            self.answer,
            request_deserializer=Request.FromString,
            response_serializer=discovery_pb2.DeltaDiscoveryResponse.SerializeToString,
        )
        service, method = STREAM[1:].split("/")
        server = grpc.server(futures.ThreadPoolExecutor(4))
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {method: handler})])
        server.add_insecure_port(f"unix:{self.path}")
        server.start()
        try:
            yield
        finally:
            server.stop(None).wait(10)
            self.path.unlink(missing_ok=True)


def front_listener() -> listener_pb2.Listener:
    """Answers 204, with a route whose regex is larger than Envoy allows by default (100 instructions)."""
    manager = http_connection_manager_pb2.HttpConnectionManager(stat_prefix="front")
    host = manager.route_config.virtual_hosts.add(name="any", domains=["*"])
    large = host.routes.add()
    large.match.safe_regex.regex = "/(" + "|".join(f"model{number}x" for number in range(100)) + ")"
    large.direct_response.status = 201
    rest = host.routes.add()
    rest.match.prefix = "/"
    rest.direct_response.status = 204
    manager.http_filters.add(name="router").typed_config.Pack(router_pb2.Router())
    listener = listener_pb2.Listener(name="front")
    listener.address.socket_address.address = "127.0.0.1"
    listener.address.socket_address.port_value = 0
    listener.filter_chains.add().filters.add(name="hcm").typed_config.Pack(manager)
    return listener


@pytest.fixture
def discovery(tmp_path: Path) -> Discovery:
    return Discovery(tmp_path / "xds.sock")


@contextlib.contextmanager
def configured(directory: Path, discovery: Discovery, **changes: object) -> Iterator[EnvoyProcess]:
    """An Envoy that has taken its listener from the discovery server."""
    chosen = settings(directory, **changes)
    with discovery.serving(), running_envoy(bootstrap_json(chosen), chosen.admin_socket) as envoy:
        wait_until(lambda: b"front" in envoy.admin("/listeners"), "the listener arrives over ADS")
        yield envoy


def get(envoy: EnvoyProcess, path: str) -> int:
    connection = http.client.HTTPConnection(*envoy.listener_address("front"), timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status


def test_the_same_settings_give_the_same_bytes(tmp_path: Path) -> None:
    first = settings(tmp_path, metadata={"B": 1, "A": {"d": 1, "c": 2}})
    second = settings(tmp_path, metadata={"A": {"c": 2, "d": 1}, "B": 1})
    assert bootstrap_json(first) == bootstrap_json(second)


def test_envoy_says_who_it_is_once_and_takes_its_listener(tmp_path: Path, discovery: Discovery) -> None:
    with configured(tmp_path, discovery) as envoy:
        assert get(envoy, "/") == 204
        assert get(envoy, "/model99x") == 201
        seen = [discovery.requests.get(timeout=5) for _ in range(3)]
    node = seen[0].node
    assert node.id == "sidecar~127.0.0.2~chat-v1-0.default~default.svc.cluster.local"
    assert node.cluster == "chat.default"
    assert (node.locality.region, node.locality.zone, node.locality.sub_zone) == ("eu", "a", "")
    assert node.metadata["REPLICA"] == "chat-v1-0"
    assert node.metadata["LABELS"]["app"] == "chat"
    assert not any(request.HasField("node") for request in seen[1:])
    assert seen[0].type_url == resources.CLUSTER


def test_the_admin_interface_is_an_owner_only_socket(tmp_path: Path, discovery: Discovery) -> None:
    chosen = settings(tmp_path)
    with discovery.serving(), running_envoy(bootstrap_json(chosen), chosen.admin_socket) as envoy:
        assert stat.S_IMODE(chosen.admin_socket.stat().st_mode) == 0o600
        wait_until(lambda: b"front" in envoy.admin("/listeners"), "the listener arrives over ADS")
        port = envoy.listener_address("front")[1]
        assert listening_ports(envoy.process.pid) == {port}


def test_connections_beyond_the_limit_are_closed(tmp_path: Path, discovery: Discovery) -> None:
    with configured(tmp_path, discovery, max_connections=2) as envoy, contextlib.ExitStack() as stack:
        address = envoy.listener_address("front")
        for _ in range(2):
            stack.enter_context(contextlib.closing(socket.create_connection(address, 5)))
        active = "^listener.127.0.0.1_0.downstream_cx_active$"
        wait_until(lambda: sum(envoy.stats(active).values()) == 2, "two connections are accepted")
        third = stack.enter_context(contextlib.closing(socket.create_connection(address, 5)))
        third.settimeout(5)
        assert third.recv(1) == b""
        assert envoy.admin("/ready").strip() == b"LIVE"  # the admin socket does not count


def test_a_lost_stream_is_opened_again_within_a_second_or_so(tmp_path: Path, discovery: Discovery) -> None:
    chosen = settings(tmp_path)
    with running_envoy(bootstrap_json(chosen), chosen.admin_socket) as envoy:
        with discovery.serving():
            wait_until(lambda: b"front" in envoy.admin("/listeners"), "the listener arrives over ADS")
        with accepting_and_closing(chosen.xds_socket) as attempts:
            wait_until(lambda: len(attempts) >= 12, "Envoy tries on", 15)
            assert get(envoy, "/") == 204  # it works on while nobody answers
        gaps = [after - before for before, after in itertools.pairwise(attempts)]
        assert max(gaps) < 1.5, gaps  # Envoy's default of 0.5 s to 30 s would be far beyond by the twelfth try
        with discovery.serving():
            wait_until(lambda: discovery.streams == 2, "the stream is there again", 5)


@contextlib.contextmanager
def accepting_and_closing(path: Path) -> Iterator[list[float]]:
    """A socket that closes every connection at once; the list holds the time of each."""
    attempts: list[float] = []
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path.unlink(missing_ok=True)
    listener.bind(str(path))
    listener.listen(16)
    listener.settimeout(0.05)
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = listener.accept()
                attempts.append(time.monotonic())
                connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield attempts
    finally:
        stop.set()
        thread.join(5)
        listener.close()
        path.unlink(missing_ok=True)


def listening_ports(pid: int) -> set[int]:
    """TCP ports on which this process listens."""
    inodes = set()
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:  # 0A: LISTEN
                ports.add(int(fields[1].rsplit(":", 1)[1], 16))
    return ports
