"""The server side of a sidecar in the transparent shape: one virtual listener on 15006 with chains for each port of
the workload, and the clusters to the application.

Called by `envoy.translate` for every sidecar; `loopback` replaces the listener and the clusters' addresses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import address_pb2, base_pb2, protocol_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2

from headrace.envoy.resources import CLUSTER, LISTENER, XdsResource
from headrace.envoy.translate.access_log import listener_access_logs
from headrace.envoy.translate.cluster_policy import apply_pool, http_options, set_http_options
from headrace.envoy.translate.inbound_chains import (
    ChainSettings,
    ChainTarget,
    Inspection,
    chains_for,
    inspection,
    terminating_chain,
)
from headrace.envoy.translate.inspectors import http_inspector, not_on_ports, on_ports, original_dst, tls_inspector
from headrace.envoy.translate.memo import Memo, resource_of
from headrace.envoy.translate.messages import duration, packed, socket_address, uint32
from headrace.envoy.translate.sidecar_ingress import (
    LOOPBACK,
    LOOPBACK6,
    application_at,
    bound_at,
    ingress_of,
    local_application_at,
    needs_addresses,
)
from headrace.envoy.translate.tcp_proxy import TCP_PROXY
from headrace.envoy.view import Inbound, ProxyView
from headrace.model.destination import ConnectionPool
from headrace.model.engine_connections import DESCRIBED_ELSEWHERE, ApplicationConnections, engine_connections
from headrace.model.mesh import MeshConfig
from headrace.model.names import inbound_cluster
from headrace.model.proxy import WorkloadPortView
from headrace.model.security import MtlsMode
from headrace.model.service import Protocol

VIRTUAL_INBOUND = "virtualInbound"
VIRTUAL_INBOUND_PORT = 15006
INBOUND_PASSTHROUGH = "InboundPassthroughCluster"
BLACK_HOLE = "BlackHoleCluster"
_CATCH_ALL_HTTP = "virtualInbound-catchall-http"
_BLACK_HOLE_CHAIN = "virtualInbound-blackhole"
_LOCAL_SOURCE = "127.0.0.6"
"""The source address of connections to the application, by which redirection rules know not to send them back."""
_NEVER_SECONDS = 9_223_372_035
"""The longest time Envoy can count: inbound original-destination hosts are never cleaned up (Istio's choice)."""
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def resources(memo: Memo, view: ProxyView) -> Sequence[XdsResource]:
    """The listener `virtualInbound`, those that a Sidecar binds for real, and the clusters to the application; the same
    for all replicas of a workload, but where a Sidecar names the replica's own address."""
    inbound, mesh, module = view.inbound, view.scope.mesh, view.instance.module
    addresses = view.instance.addresses if needs_addresses(inbound) else ()
    key = (inbound, mesh, module, addresses)
    return memo.get("inbound", key, lambda: _build(inbound, ChainSettings(mesh, module), addresses))


def _build(inbound: Inbound, settings: ChainSettings, addresses: Sequence[str]) -> tuple[XdsResource, ...]:
    listeners = [virtual_inbound(inbound, settings, addresses), *_bound_listeners(inbound, settings, addresses)]
    clusters = inbound_clusters(inbound, settings.mesh, addresses)
    return (
        *(resource_of(LISTENER, listener.name, listener) for listener in listeners),
        *(resource_of(CLUSTER, cluster.name, cluster) for cluster in clusters),
    )


def virtual_inbound(inbound: Inbound, settings: ChainSettings, addresses: Sequence[str] = ()) -> Any:
    """The listener `virtualInbound`: a black hole for its own port, pass-through for ports without a service, and the
    chains of every port; `addresses` are the proxy's own, by which those of a Sidecar are called."""
    ingress = ingress_of(inbound)
    bound = {listener.port for listener in inbound.ingress if not listener.captured}
    own = {port.number for port in inbound.ports} - bound
    chains = [_black_hole_chain()]
    chains += _passthrough_chains(0, inbound, settings)
    for number, _ in inbound.mtls.ports:
        if number not in own:
            chains += _passthrough_chains(number, inbound, settings)
    for port in inbound.ports:
        if port.number in own:
            listener = ingress.get(port.number)
            named = replace(settings, address=bound_at(listener, addresses)) if listener is not None else settings
            chains += port_chains(port, inbound, named)
    return inbound_listener(
        VIRTUAL_INBOUND,
        socket_address(settings.address, VIRTUAL_INBOUND_PORT),
        chains,
        [original_dst(), *_inspectors(inspection(chains))],
        settings.mesh,
    )


def _bound_listeners(inbound: Inbound, settings: ChainSettings, addresses: Sequence[str]) -> Iterator[Any]:
    """The listeners that a Sidecar binds for real."""
    ports = {port.number: port for port in inbound.ports}
    for listener in inbound.ingress:
        if not listener.captured:
            address = bound_at(listener, addresses)
            chains = port_chains(ports[listener.port], inbound, replace(settings, address=address))
            where = socket_address(address, listener.port)
            name = f"{address}_{listener.port}"
            yield inbound_listener(name, where, chains, plain_inspectors(chains), settings.mesh)


def inbound_listener(name: str, address: Any, chains: Sequence[Any], filters: Sequence[Any], mesh: MeshConfig) -> Any:
    """A listener for connections from other proxies, with Istio's settings."""
    return listener_pb2.Listener(
        name=name,
        address=address,
        traffic_direction=base_pb2.INBOUND,
        continue_on_listener_filters_timeout=True,
        listener_filters_timeout=duration(mesh.protocol_detection_timeout),
        max_connections_to_accept_per_socket_event=uint32(1),
        filter_chains=chains,
        listener_filters=filters,
        access_log=listener_access_logs(mesh, server=True),
    )


def protocol_of(port: WorkloadPortView) -> Protocol:
    """The port's protocol; a spelling that is none of Istio's counts as undeclared."""
    spelled = port.protocol.upper()
    return next((item for item in Protocol if item.value.upper() == spelled), Protocol.UNDECLARED)


def port_chains(port: WorkloadPortView, inbound: Inbound, settings: ChainSettings) -> list[Any]:
    """The filter chains of one port of the workload."""
    name = f"{settings.address}_{port.number}"
    target = ChainTarget(
        cluster=inbound_cluster(port.number),
        port=port.number,
        protocol=protocol_of(port),
        stat_prefix=f"inbound_{name}",
        names=(name, name),
        operation=f"inbound:{port.number}/*",
        guard=inbound.guard,
        called=port.service_port or port.number,
    )
    mode = inbound.mtls.of_port(port.number)
    listener = ingress_of(inbound).get(port.number)
    if listener is not None and listener.tls is not None and listener.tls.terminates and mode is MtlsMode.DISABLE:
        return [terminating_chain(target, listener.tls, settings)]
    return chains_for(target, mode, settings)


def _passthrough_chains(port: int, inbound: Inbound, settings: ChainSettings) -> list[Any]:
    """Chains for traffic to a port (0: any) that no service declares: sniffed and passed to the original address."""
    target = ChainTarget(
        cluster=INBOUND_PASSTHROUGH,
        port=port,
        protocol=Protocol.UNDECLARED,
        stat_prefix=INBOUND_PASSTHROUGH,
        names=(_CATCH_ALL_HTTP, VIRTUAL_INBOUND),
        operation=":0/*",
        guard=inbound.guard,
    )
    return chains_for(target, inbound.mtls.of_port(port), settings)


def _black_hole_chain() -> Any:
    """Traffic to 15006 itself would come back for ever."""
    proxy = tcp_proxy_pb2.TcpProxy(stat_prefix=BLACK_HOLE, cluster=BLACK_HOLE)
    return listener_components_pb2.FilterChain(
        name=_BLACK_HOLE_CHAIN,
        filter_chain_match=listener_components_pb2.FilterChainMatch(destination_port=uint32(VIRTUAL_INBOUND_PORT)),
        filters=[listener_components_pb2.Filter(name=TCP_PROXY, typed_config=packed(proxy))],
    )


def _inspectors(needs: Inspection) -> list[Any]:
    """TLS inspector, then HTTP inspector, each off where no chain of the port asks for it."""
    filters: list[Any] = []
    named = [port for port in needs.ports if port]
    if needs.tls:
        if 0 in needs.tls:
            filters.append(tls_inspector(on_ports(port for port in named if port not in needs.tls)))
        else:
            filters.append(tls_inspector(not_on_ports(needs.tls)))
    if needs.http:
        if 0 in needs.http:
            filters.append(http_inspector(on_ports(port for port in named if port not in needs.http)))
        else:
            filters.append(http_inspector(not_on_ports(needs.http)))
    return filters


def plain_inspectors(chains: Sequence[Any]) -> list[Any]:
    """Inspectors of a listener that serves one port."""
    needs = inspection(chains)
    return [tls_inspector()] * bool(needs.tls) + [http_inspector()] * bool(needs.http)


def inbound_clusters(inbound: Inbound, mesh: MeshConfig, addresses: Sequence[str] = ()) -> list[Any]:
    """`inbound|PORT||` for each port, and the pass-through cluster, to the address the client meant, or to where a
    Sidecar says that the application is; `addresses` are the proxy's own."""
    clusters = []
    pools, ingress = dict(inbound.pools), ingress_of(inbound)
    for port in inbound.ports:
        cluster = _application_cluster(port, mesh, pools.get(port.number))
        address = application_at(ingress.get(port.number), addresses)
        if address is None and mesh.traffic.to_localhost:
            address = socket_address(LOOPBACK, port.number)
        if address is None:
            cluster.type = cluster_pb2.Cluster.ORIGINAL_DST
            cluster.lb_policy = cluster_pb2.Cluster.CLUSTER_PROVIDED
            cluster.cleanup_interval.seconds = _NEVER_SECONDS
        else:
            _set_address(cluster, address)
        if address is None or address.socket_address.address not in ("", LOOPBACK, LOOPBACK6):
            cluster.upstream_bind_config.CopyFrom(_local_source())
        clusters.append(cluster)
    clusters.append(_passthrough_cluster(mesh))
    return clusters


def local_clusters(inbound: Inbound, mesh: MeshConfig, app_ports: Sequence[tuple[int, int]]) -> list[Any]:
    """`inbound|PORT||` for each port, to where the process listens on the loopback interface (loopback capture)."""
    mapped, pools, ingress = dict(app_ports), dict(inbound.pools), ingress_of(inbound)
    clusters = []
    for port in inbound.ports:
        cluster = _application_cluster(port, mesh, pools.get(port.number))
        _set_address(cluster, local_application_at(ingress.get(port.number), port.number, mapped))
        clusters.append(cluster)
    return clusters


def _set_address(cluster: Any, address: Any) -> None:
    """The cluster has one endpoint."""
    cluster.type = cluster_pb2.Cluster.STATIC
    endpoint = endpoint_components_pb2.LbEndpoint(endpoint=endpoint_components_pb2.Endpoint(address=address))
    cluster.load_assignment.CopyFrom(
        endpoint_pb2.ClusterLoadAssignment(
            cluster_name=cluster.name,
            endpoints=[endpoint_components_pb2.LocalityLbEndpoints(lb_endpoints=[endpoint])],
        )
    )


def _application_cluster(port: WorkloadPortView, mesh: MeshConfig, pool: ConnectionPool | None) -> Any:
    """The cluster of one port without its addresses: the connection pool of the service in front, the declared
    protocol, else the one the request came with. Connections are kept no longer than the application keeps them."""
    cluster = cluster_pb2.Cluster(name=inbound_cluster(port.number))
    pool = pool or mesh.traffic.pool
    apply_pool(cluster, pool, mesh.connect_timeout, alive=mesh.traffic.keepalive)
    protocol = protocol_of(port)
    keeping = DESCRIBED_ELSEWHERE if port.engine is None else engine_connections(port.engine)
    options = http_options(pool, http2=protocol.is_http2, sniffed=protocol is Protocol.UNDECLARED)
    if options is None:
        if not protocol.is_http or keeping == DESCRIBED_ELSEWHERE:
            return cluster
        options = http_protocol_options_pb2.HttpProtocolOptions()
        options.explicit_http_config.http_protocol_options.SetInParent()
    if protocol.is_http or protocol is Protocol.UNDECLARED:
        _keep_connections(options.common_http_protocol_options, keeping, http2=protocol.is_http2)
    set_http_options(cluster, options)
    return cluster


def _keep_connections(common: Any, keeping: ApplicationConnections, *, http2: bool) -> None:
    """Shorten what the pool says to what the application bears."""
    if keeping.idle is not None:
        written = common.idle_timeout.ToNanoseconds() / 1e9 or keeping.idle
        common.idle_timeout.CopyFrom(duration(min(keeping.idle, written)))
    if keeping.requests is not None and not http2:
        written_requests = common.max_requests_per_connection.value or keeping.requests
        common.max_requests_per_connection.value = min(keeping.requests, written_requests)


def _passthrough_cluster(mesh: MeshConfig) -> Any:
    cluster = cluster_pb2.Cluster(
        name=INBOUND_PASSTHROUGH,
        type=cluster_pb2.Cluster.ORIGINAL_DST,
        lb_policy=cluster_pb2.Cluster.CLUSTER_PROVIDED,
        connect_timeout=duration(mesh.connect_timeout),
        upstream_bind_config=_local_source(),
    )
    if mesh.traffic.pool is not None or mesh.traffic.keepalive is not None:
        apply_pool(cluster, mesh.traffic.pool, mesh.connect_timeout, alive=mesh.traffic.keepalive)
    options = http_protocol_options_pb2.HttpProtocolOptions(use_downstream_protocol_config=_downstream_protocol())
    cluster.typed_extension_protocol_options[_HTTP_OPTIONS].CopyFrom(packed(options))
    return cluster


def _downstream_protocol() -> Any:
    """HTTP/1.1 stays HTTP/1.1 and HTTP/2 stays HTTP/2."""
    return http_protocol_options_pb2.HttpProtocolOptions.UseDownstreamHttpConfig(
        http_protocol_options=protocol_pb2.Http1ProtocolOptions(),
        http2_protocol_options=protocol_pb2.Http2ProtocolOptions(),
    )


def _local_source() -> Any:
    return address_pb2.BindConfig(source_address=address_pb2.SocketAddress(address=_LOCAL_SOURCE, port_value=0))
