"""HTTP connection managers: everything a proxy does with HTTP on a listener, in Istio's defaults.

Called by `outbound`, `inbound`, `gateways` and `loopback`. The order of HTTP filters is decided here and nowhere else:
what a caller prepends (authentication of loopback capture), the native module, gRPC statistics, fault, CORS, the
module's filter for pools, router.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from envoy.config.core.v3 import protocol_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.filters.http.grpc_stats.v3 import config_pb2 as grpc_stats_pb2
from envoy.extensions.filters.http.grpc_web.v3 import grpc_web_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2

from headrace.envoy.module_filter import guard_filter, module_filter
from headrace.envoy.translate.access_log import access_logs
from headrace.envoy.translate.extensions import network_extensions, with_extensions
from headrace.envoy.translate.lives import bound_server_side
from headrace.envoy.translate.messages import ads, boolean, duration, http_filter, packed
from headrace.envoy.translate.tracing import trace
from headrace.envoy.translate.ways_in import NO_WAY_IN, WayIn
from headrace.model.mesh import GatewayTopology, MeshConfig, PathNormalization

HCM_FILTER = "envoy.filters.network.http_connection_manager"


class Direction(StrEnum):
    """Which side of the mesh a connection manager serves."""

    OUTBOUND = "outbound"
    INBOUND = "inbound"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class HcmSettings:
    """What differs between connection managers.

    Exactly one of `rds` (route name, read over ADS) and `routes` (an inline RouteConfiguration) is given.
    `http2`: the application speaks clear-text HTTP/2 by declaration. `first` are HTTP filters before all others
    (what guards the workload among them), `plain_host` takes the final dot off the host, so that no policy on hosts is
    gone around by it, `pools` says whether it is a way into pools of model servers. `bounded`:
    clients show certificates of the mesh, which their connections are not to outlast. `port`: the
    one that it serves, as extensions know it (0: any).
    """

    direction: Direction
    stat_prefix: str
    mesh: MeshConfig
    rds: str = ""
    routes: Any = None
    module: bool = False
    http2: bool = False
    grpc_web: bool = False
    first: tuple[Any, ...] = ()
    plain_host: bool = False
    pools: WayIn = NO_WAY_IN
    bounded: bool = False
    topology: GatewayTopology | None = None
    port: int = 0

    @property
    def is_server(self) -> bool:
        """Whether the requests are those that the workload takes."""
        return self.direction is Direction.INBOUND


def http_connection_manager(settings: HcmSettings) -> Any:
    """The HttpConnectionManager message; `hcm_filter` packs it as a network filter."""
    manager = hcm_pb2.HttpConnectionManager(
        codec_type=hcm_pb2.HttpConnectionManager.AUTO,
        stat_prefix=settings.stat_prefix,
        use_remote_address=boolean(settings.direction is Direction.GATEWAY),
        upgrade_configs=[hcm_pb2.HttpConnectionManager.UpgradeConfig(upgrade_type="websocket")],
        stream_idle_timeout=duration(0),
        access_log=access_logs(settings.mesh, settings.pools, server=settings.is_server),
        http_filters=_http_filters(settings),
        path_with_escaped_slashes_action=hcm_pb2.HttpConnectionManager.KEEP_UNCHANGED,
    )
    _normalize_path(manager, settings.mesh.path_normalization)
    manager.early_header_mutation_extensions.extend(settings.pools.early_mutations())
    manager.strip_trailing_host_dot = settings.plain_host
    if settings.routes is None:
        manager.rds.CopyFrom(hcm_pb2.Rds(config_source=ads(), route_config_name=settings.rds))
    else:
        manager.route_config.CopyFrom(settings.routes)
    if settings.direction is not Direction.OUTBOUND:
        manager.server_name = "istio-envoy"
        _forward_client_certificate(manager, settings)
    trace(manager, settings.mesh, server=settings.is_server, gateway=settings.direction is Direction.GATEWAY)
    if settings.bounded:
        bound_server_side(manager, settings.mesh)
    if settings.http2:
        manager.http2_protocol_options.CopyFrom(protocol_pb2.Http2ProtocolOptions())
    return manager


def _normalize_path(manager: Any, how: PathNormalization) -> None:
    """What MeshConfig says is done to paths before routes and policies look at them."""
    manager.normalize_path.value = how is not PathNormalization.NONE
    if how in (PathNormalization.MERGE_SLASHES, PathNormalization.DECODE_AND_MERGE_SLASHES):
        manager.merge_slashes = True
    if how is PathNormalization.DECODE_AND_MERGE_SLASHES:
        manager.path_with_escaped_slashes_action = hcm_pb2.HttpConnectionManager.UNESCAPE_AND_FORWARD


def hcm_filters(settings: HcmSettings) -> list[Any]:
    """The network filters of a chain that ends in the connection manager."""
    return [*network_extensions(settings.mesh, server=settings.is_server, port=settings.port), hcm_filter(settings)]


def hcm_filter(settings: HcmSettings) -> Any:
    """The connection manager as a listener's network filter."""
    return listener_components_pb2.Filter(name=HCM_FILTER, typed_config=packed(http_connection_manager(settings)))


def _forward_client_certificate(manager: Any, settings: HcmSettings) -> None:
    """Who called, in x-forwarded-client-cert: a sidecar adds its peer to what came; a gateway trusts nobody before
    itself and says who its own client is, but where the mesh's topology says otherwise."""
    kind = hcm_pb2.HttpConnectionManager
    direction, topology = settings.direction, settings.topology or settings.mesh.gateway_topology
    manager.forward_client_cert_details = kind.APPEND_FORWARD
    if direction is Direction.GATEWAY:
        manager.xff_num_trusted_hops = topology.trusted_proxies
        manager.forward_client_cert_details = kind.ForwardClientCertDetails.Value(
            topology.client_certificates or "SANITIZE_SET"
        )
    if manager.forward_client_cert_details not in (kind.APPEND_FORWARD, kind.SANITIZE_SET):
        return
    manager.set_current_client_cert_details.CopyFrom(
        kind.SetCurrentClientCertDetails(subject=boolean(True), uri=True, dns=True, cert=direction is Direction.GATEWAY)
    )


def _http_filters(settings: HcmSettings) -> list[Any]:
    filters = with_extensions(settings.first, settings.mesh, server=settings.is_server, port=settings.port)
    if settings.module:
        filters.append(module_filter())
        if settings.mesh.guarded and settings.direction is not Direction.INBOUND:
            filters.append(guard_filter())
    if settings.grpc_web:
        filters.append(http_filter("envoy.filters.http.grpc_web", grpc_web_pb2.GrpcWeb()))
    stats = grpc_stats_pb2.FilterConfig(emit_filter_state=True, stats_for_all_methods=boolean(False))
    filters.append(http_filter("envoy.filters.http.grpc_stats", stats))
    filters.append(http_filter("envoy.filters.http.fault", fault_pb2.HTTPFault()))
    filters.append(http_filter("envoy.filters.http.cors", cors_pb2.Cors()))
    filters += settings.pools.filters(logged=bool(access_logs(settings.mesh, server=settings.is_server)))
    filters.append(http_filter("envoy.filters.http.router", router_pb2.Router()))
    return filters
