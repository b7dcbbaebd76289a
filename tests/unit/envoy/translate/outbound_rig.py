"""A mesh translated for one proxy, with its messages parsed: for the tests of the outbound side."""

from __future__ import annotations

from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2 as http_pb2
from tests.unit.registry.meshes import Mesh, sidecar

from headrace.envoy.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET, ResourceSet
from headrace.envoy.scopes import Scopes, view_of
from headrace.envoy.translate import Translator
from headrace.envoy.translate.cluster_policy import HTTP_OPTIONS
from headrace.envoy.view import ProxyView
from headrace.model.proxy import Proxy

_MESSAGES = {
    CLUSTER: cluster_pb2.Cluster,
    ENDPOINT: endpoint_pb2.ClusterLoadAssignment,
    LISTENER: listener_pb2.Listener,
    ROUTE: route_pb2.RouteConfiguration,
    SECRET: secret_pb2.Secret,
}


class Rig:
    """One control plane's translation: mesh, views and translator that live through changes."""

    def __init__(self, mesh: Mesh | None = None) -> None:
        self.mesh = mesh or Mesh()
        self.scopes = Scopes()
        self.translator = Translator()

    @property
    def built(self) -> dict[str, int]:
        """What was really built since `start_counting`, by kind."""
        return dict(self.translator.memo.built)

    def start_counting(self) -> None:
        self.translator.memo.built.clear()

    def view(self, proxy: Proxy | None = None) -> ProxyView:
        return view_of(self.mesh.snapshot(), proxy or sidecar(), self.scopes)

    def resources(self, proxy: Proxy | None = None) -> ResourceSet:
        return self.translator.resources(self.view(proxy))

    def parsed(self, type_url: str, proxy: Proxy | None = None) -> dict[str, Any]:
        found = self.resources(proxy).of_type(type_url)
        return {name: _MESSAGES[type_url].FromString(item.body) for name, item in found.items()}

    def clusters(self, proxy: Proxy | None = None) -> dict[str, Any]:
        return self.parsed(CLUSTER, proxy)

    def routes(self, proxy: Proxy | None = None) -> dict[str, Any]:
        return self.parsed(ROUTE, proxy)

    def listeners(self, proxy: Proxy | None = None) -> dict[str, Any]:
        return self.parsed(LISTENER, proxy)

    def endpoints(self, proxy: Proxy | None = None) -> dict[str, Any]:
        return self.parsed(ENDPOINT, proxy)

    def hosts(self, port: int, proxy: Proxy | None = None) -> dict[str, Any]:
        """Virtual hosts of a port by name."""
        return {host.name: host for host in self.routes(proxy)[str(port)].virtual_hosts}


def http_options(cluster: Any) -> Any:
    """The HttpProtocolOptions of a cluster (empty where there are none)."""
    found = http_pb2.HttpProtocolOptions()
    if HTTP_OPTIONS in cluster.typed_extension_protocol_options:
        cluster.typed_extension_protocol_options[HTTP_OPTIONS].Unpack(found)
    return found


def tls_context(socket: Any) -> Any:
    """The UpstreamTlsContext of a transport socket."""
    found = tls_pb2.UpstreamTlsContext()
    assert socket.typed_config.Unpack(found), socket.name
    return found
