"""Views of small meshes for the tests of translation, made without documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf import json_format

from headrace.envoy.resources import CLUSTER, LISTENER, ROUTE, XdsResource
from headrace.envoy.view import Inbound, ProxyView, Scope, ScopeKey
from headrace.model.gateway import Gateway, Server, ServerTls
from headrace.model.identity import Identity
from headrace.model.mesh import MeshConfig
from headrace.model.proxy import Capture, Proxy, ProxyKind, WorkloadPortView
from headrace.model.resource import Metadata, Origin, ResourceKey
from headrace.model.security import MtlsMode, Secret
from headrace.model.traffic import DirectResponse, HttpMatch, HttpRoute, MatchKind, StringMatch, VirtualService
from headrace.registry.mtls import MtlsPolicy

_MESSAGES = {
    LISTENER: listener_pb2.Listener,
    ROUTE: route_pb2.RouteConfiguration,
    CLUSTER: cluster_pb2.Cluster,
}


def meta(kind: str, name: str, namespace: str = "default", order: int = 0) -> Metadata:
    return Metadata(ResourceKey(kind, namespace, name), {}, {}, Origin("test", "test.yaml", 1, f"{order:09}"), name)


def view(
    *ports: tuple[int, str],
    mode: MtlsMode = MtlsMode.PERMISSIVE,
    port_modes: tuple[tuple[int, MtlsMode], ...] = (),
    mesh: MeshConfig | None = None,
    capture: Capture = Capture(),
    module: bool = False,
) -> ProxyView:
    """A sidecar whose workload has these (port, protocol)s."""
    inbound = Inbound(
        tuple(WorkloadPortView(number, "", protocol) for number, protocol in ports), MtlsPolicy(mode, port_modes)
    )
    scope = Scope(ScopeKey(ProxyKind.SIDECAR, "default", ()), mesh or MeshConfig(), (), {})
    proxy = Proxy(
        ProxyKind.SIDECAR,
        "chat-0",
        "chat",
        Identity("cluster.local", "default", "chat"),
        {},
        ("127.0.0.9",),
        capture,
        module,
    )
    return ProxyView(scope, {}, inbound, proxy)


def gateway_view(
    gateways: tuple[Gateway, ...],
    virtual_services: tuple[VirtualService, ...] = (),
    *,
    secrets: Mapping[str, Secret] = {},
    bind: str = "0.0.0.0",
    port_map: tuple[tuple[int, int], ...] = (),
) -> ProxyView:
    """A gateway proxy of namespace `edge` with these Gateways and the VirtualServices bound to them."""
    bound = {}
    for gateway in gateways:
        name = f"{gateway.meta.namespace}/{gateway.meta.name}"
        bound[name] = tuple(item for item in virtual_services if name in item.gateways)
    scope = Scope(
        ScopeKey(ProxyKind.GATEWAY, "edge", ()),
        MeshConfig(),
        (),
        {},
        gateways=gateways,
        gateway_virtual_services=bound,
        secrets=secrets,
    )
    proxy = Proxy(
        ProxyKind.GATEWAY,
        "gw-0",
        "gw",
        Identity("cluster.local", "edge", "gw"),
        {},
        ("127.0.0.8",),
        bind=bind,
        port_map=port_map,
    )
    return ProxyView(scope, {}, Inbound(), proxy)


def gateway(name: str, *servers: Server, namespace: str = "edge") -> Gateway:
    return Gateway(meta("networking.istio.io/Gateway", name, namespace), (), servers)


def http_server(*hosts: str, port: int = 80, redirect: bool = False) -> Server:
    tls = ServerTls(https_redirect=True) if redirect else None
    return Server(port, "HTTP", f"http-{port}", tuple(_host(host) for host in hosts), tls)


def https_server(*hosts: str, tls: ServerTls, name: str = "https", port: int = 443) -> Server:
    return Server(port, "HTTPS", name, tuple(_host(host) for host in hosts), tls)


def _host(text: str) -> tuple[str, str]:
    namespace, slash, name = text.rpartition("/")
    return (namespace if slash else "*", name)


def answer(path: str | None, body: str) -> HttpRoute:
    """A rule that answers itself: at a path, or everywhere."""
    matches = () if path is None else (HttpMatch(uri=StringMatch(MatchKind.PREFIX, path)),)
    return HttpRoute(matches=matches, direct_response=DirectResponse(200, body.encode()))


def virtual_service(
    name: str,
    hosts: tuple[str, ...],
    *rules: HttpRoute,
    gateways: tuple[str, ...] = ("edge/gw",),
    namespace: str = "edge",
) -> VirtualService:
    return VirtualService(meta("networking.istio.io/VirtualService", name, namespace), hosts, gateways, rules)


def decoded(resources: Any) -> dict[str, Any]:
    """Messages of listeners, routes and clusters by name."""
    return {
        resource.name: _MESSAGES[resource.type_url].FromString(resource.body)
        for resource in resources
        if isinstance(resource, XdsResource) and resource.type_url in _MESSAGES
    }


def unpacked(chain: Any) -> Any:
    """The HttpConnectionManager of a filter chain, None where it has none."""
    for item in chain.filters:
        if item.typed_config.Is(hcm_pb2.HttpConnectionManager.DESCRIPTOR):
            manager = hcm_pb2.HttpConnectionManager()
            item.typed_config.Unpack(manager)
            return manager
    return None


def plain(message: Any) -> dict[str, Any]:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)
