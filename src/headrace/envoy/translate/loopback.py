"""Loopback capture: the transparent shape without privileges, as a small overlay.

Called by `envoy.translate` for sidecars whose Capture is LOOPBACK, in place of the virtual listeners and the outbound
route tables. Inbound: one listener for each port of the workload on the replica's own address, with the chains that
the port has in `virtualInbound`. Outbound: one HTTP proxy (the application's HTTP_PROXY points at it) that demands the
credentials of this replica, with one route table made of those of all ports. Only HTTP is captured: other outbound
protocols bypass the mesh. A port whose protocol nobody declared therefore carries HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.basic_auth.v3 import basic_auth_pb2

from headrace.envoy.resources import CLUSTER, LISTENER, ROUTE, XdsResource
from headrace.envoy.translate.access_log import listener_access_logs
from headrace.envoy.translate.clusters import target_clusters
from headrace.envoy.translate.dynamic_dns import ALLOW_ANY_DYNAMIC_DNS, forward_filter, forwards, set_forward
from headrace.envoy.translate.gateway_routes import MAX_DIRECT_RESPONSE
from headrace.envoy.translate.hcm import Direction, HcmSettings, hcm_filters
from headrace.envoy.translate.inbound import (
    inbound_listener,
    local_clusters,
    plain_inspectors,
    port_chains,
    protocol_of,
)
from headrace.envoy.translate.inbound_chains import ChainSettings
from headrace.envoy.translate.memo import Memo, resource_of
from headrace.envoy.translate.messages import boolean, duration, http_filter, serialized, socket_address, uint32
from headrace.envoy.translate.virtual_hosts import PortTable, any_port_hosts, catch_all, every_table, virtual_host_bytes
from headrace.envoy.translate.ways_in import WayIn, way_in
from headrace.envoy.view import Inbound, ProxyView, Scope
from headrace.model.mesh import MeshConfig, OutboundMode
from headrace.model.proxy import Proxy
from headrace.model.service import Protocol, Resolution

ROUTES = "http_proxy"
"""The one outbound route table (Istio's name for that of its HTTP proxy listener)."""
FORWARD_CLUSTER = ALLOW_ANY_DYNAMIC_DNS
"""Where unknown hosts go under ALLOW_ANY: resolved by name (Istio's name for such a cluster)."""
AUTHORIZATION = "proxy-authorization"


def resources(memo: Memo, view: ProxyView) -> Sequence[XdsResource]:
    """Listeners, the outbound route table, the clusters to the application and the one for unknown hosts."""
    found = _inbound(memo, view)
    found += _outbound(memo, view)
    return found


def _inbound(memo: Memo, view: ProxyView) -> list[XdsResource]:
    proxy, mesh = view.instance, view.listener_mesh
    inbound = _http_by_default(view.inbound)
    address = proxy.addresses[0]
    key = (mesh, inbound, address, proxy.module)
    listeners = memo.get("loopback inbound", key, lambda: _inbound_listeners(inbound, mesh, address, proxy.module))
    own = (mesh, inbound, proxy.capture.app_ports)
    clusters = memo.get(
        "loopback clusters",
        own,
        lambda: tuple(
            resource_of(CLUSTER, cluster.name, cluster)
            for cluster in local_clusters(inbound, mesh, proxy.capture.app_ports)
        ),
    )
    return [*listeners, *clusters]


def _http_by_default(inbound: Inbound) -> Inbound:
    """The same ports, undeclared protocols as HTTP."""
    ports = tuple(
        replace(port, protocol=Protocol.HTTP.value) if protocol_of(port) is Protocol.UNDECLARED else port
        for port in inbound.ports
    )
    return replace(inbound, ports=ports)


def _inbound_listeners(inbound: Inbound, mesh: MeshConfig, address: str, module: bool) -> tuple[XdsResource, ...]:
    settings = ChainSettings(mesh, module, address)
    found = []
    for port in inbound.ports:
        chains = port_chains(port, inbound, settings)
        listener = inbound_listener(
            f"{address}_{port.number}", socket_address(address, port.number), chains, plain_inspectors(chains), mesh
        )
        found.append(resource_of(LISTENER, listener.name, listener))
    return tuple(found)


def _outbound(memo: Memo, view: ProxyView) -> list[XdsResource]:
    proxy, scope, mesh = view.instance, view.scope, view.listener_mesh
    outside = _forwarded(scope)
    by_name = _by_name(memo, view)
    looks_up = outside or bool(by_name) or forwards(memo, scope)
    pools = way_in(memo, scope, proxy.module)
    listener = memo.get(
        "loopback proxy",
        (mesh, looks_up, proxy.addresses[0], proxy.capture, proxy.module, pools),
        lambda: _proxy_listener(proxy, mesh, pools, looks_up=looks_up),
    )
    tables = every_table(memo, scope)
    routes = memo.latest("loopback routes", scope.key, (scope.outside, tables), lambda: _route_table(scope, tables))
    found = [listener, routes, *by_name]
    if outside:
        found.append(memo.get("loopback forward", scope.mesh, lambda: _forward_cluster(scope.mesh)))
    return found


def _by_name(memo: Memo, view: ProxyView) -> list[XdsResource]:
    """The clusters of services without endpoints (resolution NONE). A request to a proxy has no original address, so
    they connect to the host that it names."""
    return [
        memo.get("loopback by name", resource, _looked_up, resource)
        for target in view.scope.targets
        if target.service.resolution is Resolution.NONE
        for resource in target_clusters(memo, view, target)
    ]


def _looked_up(resource: XdsResource) -> XdsResource:
    cluster = cluster_pb2.Cluster.FromString(resource.body)
    cluster.ClearField("original_dst_lb_config")
    set_forward(cluster)
    return resource_of(CLUSTER, cluster.name, cluster)


def _proxy_listener(proxy: Proxy, mesh: MeshConfig, pools: WayIn, *, looks_up: bool) -> XdsResource:
    """The HTTP proxy of one application: nobody passes without the replica's credentials. `looks_up`: some of its
    clusters connect to the host that a request names."""
    address, port = proxy.addresses[0], proxy.capture.outbound_port
    name = f"{address}_{port}"
    users = base_pb2.DataSource(inline_string=proxy.capture.credentials)
    first = [
        http_filter(
            "envoy.filters.http.basic_auth",
            basic_auth_pb2.BasicAuth(users=users, authentication_header=AUTHORIZATION),
        )
    ]
    if looks_up:
        first.append(forward_filter())
    settings = HcmSettings(
        direction=Direction.OUTBOUND,
        stat_prefix=f"outbound_{name}",
        mesh=mesh,
        rds=ROUTES,
        module=proxy.module,
        first=tuple(first),
        pools=pools,
    )
    listener = listener_pb2.Listener(
        name=name,
        address=socket_address(address, port),
        traffic_direction=base_pb2.OUTBOUND,
        max_connections_to_accept_per_socket_event=uint32(1),
        filter_chains=[listener_components_pb2.FilterChain(filters=hcm_filters(settings))],
        access_log=listener_access_logs(mesh),
    )
    return resource_of(LISTENER, name, listener)


def _route_table(scope: Scope, tables: Sequence[PortTable]) -> XdsResource:
    """All ports' virtual hosts in one table; the credentials are taken off before anything is forwarded."""
    head = route_pb2.RouteConfiguration(
        name=ROUTES,
        validate_clusters=boolean(False),
        max_direct_response_body_size_bytes=uint32(MAX_DIRECT_RESPONSE),
        request_headers_to_remove=[AUTHORIZATION],
    )
    body = serialized(head) + any_port_hosts(tables) + _unknown_hosts(scope)
    return XdsResource.of(ROUTE, ROUTES, body)


def _forwarded(scope: Scope) -> bool:
    """Whether requests to unknown hosts go to what these are looked up as: no client means an address here."""
    return scope.outside.mode is not OutboundMode.REGISTRY_ONLY and not scope.outside.proxy


def _unknown_hosts(scope: Scope) -> bytes:
    """The last virtual host: forward by name, to the Sidecar's egress proxy, or refuse."""
    if not _forwarded(scope):
        return virtual_host_bytes(catch_all(scope))
    config = route_pb2.RouteConfiguration()
    host = config.virtual_hosts.add(name="allow_any", domains=["*"], include_request_attempt_count=True)
    route = host.routes.add(name="allow_any")
    route.match.prefix = "/"
    route.route.cluster = FORWARD_CLUSTER
    route.route.timeout.CopyFrom(duration(0))
    route.route.max_stream_duration.max_stream_duration.CopyFrom(duration(0))
    route.route.max_stream_duration.grpc_timeout_header_max.CopyFrom(duration(0))
    return serialized(config)


def _forward_cluster(mesh: MeshConfig) -> XdsResource:
    """A cluster that connects to whatever host a request names, in clear text."""
    cluster = cluster_pb2.Cluster(name=FORWARD_CLUSTER, connect_timeout=duration(mesh.connect_timeout))
    set_forward(cluster)
    return resource_of(CLUSTER, FORWARD_CLUSTER, cluster)
