"""HTTP connection managers: everything a proxy does with HTTP on a listener, in Istio's defaults.

Called by `outbound`, `inbound`, `gateways` and `loopback`. The order of HTTP filters is decided here and nowhere else:
what a caller prepends (authentication of loopback capture), the native module, gRPC statistics, fault, CORS, the
module's filter for pools, router.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import protocol_pb2, substitution_format_string_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.access_loggers.file.v3 import file_pb2
from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.filters.http.grpc_stats.v3 import config_pb2 as grpc_stats_pb2
from envoy.extensions.filters.http.grpc_web.v3 import grpc_web_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2

from headrace.envoy.module_filter import guard_filter, module_filter
from headrace.envoy.translate.lives import bound_server_side
from headrace.envoy.translate.messages import ads, boolean, duration, http_filter, packed
from headrace.envoy.translate.ways_in import NO_WAY_IN, WayIn
from headrace.model.mesh import MeshConfig, PathNormalization

HCM_FILTER = "envoy.filters.network.http_connection_manager"

_LOG_FIELDS = (
    ("start_time", "START_TIME"),
    ("method", "REQ(:METHOD)"),
    ("path", "REQ(X-ENVOY-ORIGINAL-PATH?:PATH)"),
    ("protocol", "PROTOCOL"),
    ("response_code", "RESPONSE_CODE"),
    ("response_flags", "RESPONSE_FLAGS"),
    ("response_code_details", "RESPONSE_CODE_DETAILS"),
    ("connection_termination_details", "CONNECTION_TERMINATION_DETAILS"),
    ("upstream_transport_failure_reason", "UPSTREAM_TRANSPORT_FAILURE_REASON"),
    ("bytes_received", "BYTES_RECEIVED"),
    ("bytes_sent", "BYTES_SENT"),
    ("duration", "DURATION"),
    ("upstream_service_time", "RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)"),
    ("x_forwarded_for", "REQ(X-FORWARDED-FOR)"),
    ("user_agent", "REQ(USER-AGENT)"),
    ("request_id", "REQ(X-REQUEST-ID)"),
    ("authority", "REQ(:AUTHORITY)"),
    ("upstream_host", "UPSTREAM_HOST"),
    ("upstream_cluster", "UPSTREAM_CLUSTER_RAW"),
    ("upstream_local_address", "UPSTREAM_LOCAL_ADDRESS"),
    ("downstream_local_address", "DOWNSTREAM_LOCAL_ADDRESS"),
    ("downstream_remote_address", "DOWNSTREAM_REMOTE_ADDRESS"),
    ("requested_server_name", "REQUESTED_SERVER_NAME"),
    ("route_name", "ROUTE_NAME"),
)
"""Istio's access log: field of the JSON form → Envoy's command operator."""
_QUOTED = {"upstream_transport_failure_reason", "x_forwarded_for", "user_agent", "request_id", "authority"}
_QUOTED |= {"upstream_host"}


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
    clients show certificates of the mesh, which their connections are not to outlast.
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


def http_connection_manager(settings: HcmSettings) -> Any:
    """The HttpConnectionManager message; `hcm_filter` packs it as a network filter."""
    manager = hcm_pb2.HttpConnectionManager(
        codec_type=hcm_pb2.HttpConnectionManager.AUTO,
        stat_prefix=settings.stat_prefix,
        use_remote_address=boolean(settings.direction is Direction.GATEWAY),
        upgrade_configs=[hcm_pb2.HttpConnectionManager.UpgradeConfig(upgrade_type="websocket")],
        stream_idle_timeout=duration(0),
        access_log=access_logs(settings.mesh, settings.pools),
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


def hcm_filter(settings: HcmSettings) -> Any:
    """The connection manager as a listener's network filter."""
    return listener_components_pb2.Filter(name=HCM_FILTER, typed_config=packed(http_connection_manager(settings)))


def _forward_client_certificate(manager: Any, settings: HcmSettings) -> None:
    """Who called, in x-forwarded-client-cert: a sidecar adds its peer to what came; a gateway trusts nobody before
    itself and says who its own client is, but where the mesh's topology says otherwise."""
    kind = hcm_pb2.HttpConnectionManager
    direction, topology = settings.direction, settings.mesh.gateway_topology
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
    filters = list(settings.first)
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
    filters += settings.pools.filters(logged=bool(settings.mesh.access_log_file))
    filters.append(http_filter("envoy.filters.http.router", router_pb2.Router()))
    return filters


def access_logs(mesh: MeshConfig, pools: WayIn = NO_WAY_IN) -> list[Any]:
    """The access log that MeshConfig asks for (accessLogFile, accessLogEncoding, accessLogFormat): none or one. The
    default JSON of a way into pools says also what the native module knows of the request."""
    if not mesh.access_log_file:
        return []
    log = file_pb2.FileAccessLog(path=mesh.access_log_file, log_format=_log_format(mesh, pools))
    return [accesslog_pb2.AccessLog(name="envoy.access_loggers.file", typed_config=packed(log))]


def _log_format(mesh: MeshConfig, pools: WayIn) -> Any:
    written = substitution_format_string_pb2.SubstitutionFormatString()
    if mesh.access_log_encoding == "JSON":
        written.json_format.update(_json_fields(mesh.access_log_format, pools))
        written.json_format_options.sort_properties = False
        return written
    text = mesh.access_log_format or _default_text()
    written.text_format_source.inline_string = text if text.endswith("\n") else text + "\n"
    return written


def _json_fields(text: str, pools: WayIn) -> dict[str, Any]:
    """The fields of a JSON access log; text that is not a JSON object gives Istio's default fields, as Istio does."""
    default = {name: f"%{operator}%" for name, operator in _LOG_FIELDS} | pools.log_fields()
    if not text:
        return default
    try:
        fields = json.loads(text)
    except ValueError:
        return default
    return fields if isinstance(fields, dict) else default


def _default_text() -> str:
    """Istio's default line, composed of the same operators as its JSON form."""
    operators = {name: f'"%{value}%"' if name in _QUOTED else f"%{value}%" for name, value in _LOG_FIELDS}
    request = f'"{operators.pop("method")} {operators.pop("path")} {operators.pop("protocol")}"'
    return f"[{operators.pop('start_time')}] {request} " + " ".join(operators.values()) + "\n"
