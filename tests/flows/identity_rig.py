"""Two real Envoys with the mesh's TLS contexts and certificates of ours, for tests of identity.

A client's and a server's Envoy get their secrets over delta SDS from a socket, as an agent would serve them; real
issuers sign what they hold.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from google.protobuf import any_pb2
from google.protobuf.json_format import MessageToDict
from tests.flows.envoy_process import EnvoyProcess, running_envoy, wait_until

from headrace.envoy.resources import SECRET, XdsResource
from headrace.envoy.secrets import validation_secret, workload_secret
from headrace.envoy.translate.tls import mesh_downstream, mesh_upstream
from headrace.floor.clock import SystemClock
from headrace.identity.attest import Assigned
from headrace.identity.authority import Authority
from headrace.identity.issuer import IssuedCertificate, Issuer
from headrace.identity.keys import PrivateKey
from headrace.identity.ledger import Ledger
from headrace.identity.rotation import Renewer, Rotation, WorkloadCertificate, accept
from headrace.model.identity import Identity
from headrace.model.mesh import MeshConfig

CLIENT = Identity("cluster.local", "default", "client")
SERVER = Identity("cluster.local", "default", "server")
STRANGER = Identity("cluster.local", "default", "stranger")
TYPE = "type.googleapis.com/"


class SecretServer:
    """Delta SDS on a Unix socket: a subscriber gets each secret it names, again whenever that changes."""

    def __init__(self, path: Path) -> None:
        self.address = path
        self._secrets: dict[str, XdsResource] = {}
        self._changed = threading.Condition()
        self._stopped = False
        self._server = grpc.server(ThreadPoolExecutor(16))
        method = grpc.stream_stream_rpc_method_handler(
            self._stream, DeltaDiscoveryRequest.FromString, DeltaDiscoveryResponse.SerializeToString
        )
        handler = grpc.method_handlers_generic_handler(
            "envoy.service.secret.v3.SecretDiscoveryService", {"DeltaSecrets": method}
        )
        self._server.add_generic_rpc_handlers((handler,))
        self._server.add_insecure_port(f"unix:{path}")
        self._server.start()

    def put(self, resource: XdsResource) -> None:
        with self._changed:
            self._secrets[resource.name] = resource
            self._changed.notify_all()

    def put_pair(self, name: str, certificate: WorkloadCertificate) -> None:
        self.put(workload_secret(name, certificate.chain_pem, certificate.key.reveal_pem()))

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._server.stop(1).wait()

    def _stream(self, requests: Iterator[DeltaDiscoveryRequest], context: Any) -> Iterator[DeltaDiscoveryResponse]:
        wanted: set[str] = set()
        sent: dict[str, str] = {}
        threading.Thread(target=self._listen, args=(requests, wanted), daemon=True).start()
        while context.is_active():
            with self._changed:
                due = [
                    found
                    for name in sorted(wanted)
                    if (found := self._secrets.get(name)) is not None and sent.get(name) != found.version
                ]
                if self._stopped:
                    return
                if not due:
                    self._changed.wait(0.5)
                    continue
            answer = DeltaDiscoveryResponse(type_url=SECRET, nonce=str(len(sent)))
            for resource in due:
                body = any_pb2.Any(type_url=SECRET, value=resource.body)
                answer.resources.add(name=resource.name, version=resource.version, resource=body)
                sent[resource.name] = resource.version
            yield answer

    def _listen(self, requests: Iterator[DeltaDiscoveryRequest], wanted: set[str]) -> None:
        with contextlib.suppress(grpc.RpcError):
            for request in requests:
                assert not request.HasField("error_detail"), request.error_detail
                with self._changed:
                    wanted.update(request.resource_names_subscribe)
                    self._changed.notify_all()


class Trust:
    """An authority with its issuer; every asker runs on host "here" as the identity its replica id names."""

    def __init__(self, directory: Path) -> None:
        clock = SystemClock()
        self.directory = directory
        self.authority = Authority.open(directory, "cluster.local", clock)
        self.ledger = Ledger.open(directory / "ledger.sqlite")
        self._issuer = Issuer(self, self.authority, self.ledger, clock, lifetime=600.0)

    def assigned(self, replica_id: str) -> Assigned | None:
        return Assigned("here", Identity.parse(replica_id))

    def issue(self, identity: Identity, csr: bytes) -> IssuedCertificate:
        return self._issuer.issue("here", identity.uri, csr)

    def pair(self, identity: Identity) -> WorkloadCertificate:
        key = PrivateKey.generate()
        return accept(key, identity, self.issue(identity, key.csr(identity)))

    def renewer(self, identity: Identity, on_certificate: Callable[[WorkloadCertificate], None]) -> Renewer:
        async def sign(csr: bytes) -> IssuedCertificate:
            return self.issue(identity, csr)

        return Renewer(identity, sign, on_certificate, Rotation(source=random.Random(1)))


def http_filter(virtual_host: dict[str, Any]) -> dict[str, Any]:
    router = {"name": "router", "typed_config": {"@type": TYPE + "envoy.extensions.filters.http.router.v3.Router"}}
    host = {"name": "any", "domains": ["*"], **virtual_host}
    return {
        "name": "hcm",
        "typed_config": {
            "@type": TYPE + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "http",
            "http_filters": [router],
            "route_config": {"virtual_hosts": [host]},
        },
    }


def bootstrap(work: Path, name: str, chain: dict[str, Any], clusters: list[dict[str, Any]]) -> bytes:
    """One listener (a free loopback port), the agent's socket as a cluster, an admin socket."""
    options = TYPE + "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    agent = {
        "name": "agent",
        "connect_timeout": "2s",
        "load_assignment": assignment("agent", {"pipe": {"path": str(work / f"{name}.sds")}}),
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": options,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
    }
    listener = {
        "name": "door",
        "stat_prefix": "door",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [chain],
    }
    return json.dumps(
        {
            "node": {"id": name, "cluster": name},
            "admin": {"address": {"pipe": {"path": str(work / f"{name}.adm"), "mode": 0o600}}},
            "static_resources": {"listeners": [listener], "clusters": [agent, *clusters]},
        }
    ).encode()


def assignment(name: str, address: dict[str, Any]) -> dict[str, Any]:
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}


def upstream(name: str, port: int, expects: Identity, certificate: str = "default") -> dict[str, Any]:
    """A cluster with the mesh's client TLS, for a server that must be `expects`, with the SDS secret `certificate`.

    Twenty requests a connection, so that handshakes never cease.
    """
    mesh_socket = mesh_upstream(MeshConfig(), "server", [expects.uri])
    context = tls_pb2.UpstreamTlsContext.FromString(mesh_socket.typed_config.value)
    context.common_tls_context.tls_certificate_sds_secret_configs[0].name = certificate
    mesh_socket.typed_config.Pack(context)
    return {
        "name": name,
        "connect_timeout": "2s",
        "load_assignment": assignment(name, {"socket_address": {"address": "127.0.0.1", "port_value": port}}),
        "transport_socket": MessageToDict(mesh_socket, preserving_proto_field_name=True),
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": TYPE + "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"max_requests_per_connection": 20},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
    }


def server_bootstrap(work: Path) -> bytes:
    seen = {"x-serial": "%DOWNSTREAM_PEER_SERIAL%", "x-uri": "%DOWNSTREAM_PEER_URI_SAN%", "x-tls": "%DOWNSTREAM_TLS_VERSION%"}  # fmt: skip # noqa: E501
    answer = {
        "routes": [
            {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "through"}}}
        ],
        "response_headers_to_add": [{"header": {"key": key, "value": value}} for key, value in seen.items()],
    }
    socket_config = MessageToDict(mesh_downstream(MeshConfig()), preserving_proto_field_name=True)
    return bootstrap(work, "server", {"filters": [http_filter(answer)], "transport_socket": socket_config}, [])


def client_bootstrap(work: Path, port: int) -> bytes:
    clusters = [
        upstream("right", port, SERVER),
        upstream("wrong-san", port, STRANGER),
        upstream("foreign", port, SERVER, certificate="foreign"),
    ]
    routes = [
        {"match": {"prefix": f"/{cluster['name']}"}, "route": {"cluster": cluster["name"]}} for cluster in clusters
    ]
    return bootstrap(work, "client", {"filters": [http_filter({"routes": routes})]}, clusters)


@dataclass
class Rig:
    """The two Envoys and what feeds them. `front` is the URL of the client's plaintext listener; its first path segment
    names the cluster."""

    trust: Trust
    client_secrets: SecretServer
    server_secrets: SecretServer
    client: EnvoyProcess
    server: EnvoyProcess
    server_port: int
    front: str

    def context(self, certificate: WorkloadCertificate | None, **limits: Any) -> ssl.SSLContext:
        """Python's own TLS client with a certificate, trusting the mesh's root."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=self.trust.authority.bundle_pem)
        for name, value in limits.items():
            setattr(context, name, value)
        if certificate is not None:
            with tempfile.NamedTemporaryFile(dir=self.trust.directory) as file:
                file.write(certificate.key.reveal_pem() + certificate.chain_pem.encode())
                file.flush()
                context.load_cert_chain(file.name)
        return context

    def served_serial(self, context: ssl.SSLContext) -> str:
        """The serial of the certificate that the server's Envoy shows now."""
        with (
            socket.create_connection(("127.0.0.1", self.server_port), 5) as plain,
            context.wrap_socket(plain) as secured,
        ):
            shown = secured.getpeercert(True)
            assert shown is not None
            return f"{x509.load_der_x509_certificate(shown).serial_number:x}"


@contextlib.contextmanager
def running_rig() -> Iterator[Rig]:
    """The rig, all secrets in place and both Envoys live."""
    work = Path(tempfile.mkdtemp(prefix="hr-tls-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        trust, foreign = Trust(work / "ca"), Trust(work / "foreign-ca")
        stack.callback(trust.ledger.close)
        stack.callback(foreign.ledger.close)
        servers = {}
        for name, identity in (("client", CLIENT), ("server", SERVER)):
            servers[name] = SecretServer(work / f"{name}.sds")
            stack.callback(servers[name].stop)
            servers[name].put_pair("default", trust.pair(identity))
            servers[name].put(validation_secret("ROOTCA", trust.authority.bundle_pem))
        servers["client"].put_pair("foreign", foreign.pair(CLIENT))
        server = stack.enter_context(running_envoy(server_bootstrap(work), work / "server.adm"))
        port = wait_until(lambda: server.listener_address("door")[1], "the server's listener is up")
        client = stack.enter_context(running_envoy(client_bootstrap(work, port), work / "client.adm"))
        front = wait_until(lambda: client.listener_address("door")[1], "the client's listener is up")
        made = Rig(trust, servers["client"], servers["server"], client, server, port, f"http://127.0.0.1:{front}")
        wait_until(lambda: client.admin("/ready") == b"LIVE\n", "the client's Envoy has its secrets")
        wait_until(lambda: made.served_serial(made.context(trust.pair(CLIENT))), "the server's Envoy has its secrets")
        yield made
