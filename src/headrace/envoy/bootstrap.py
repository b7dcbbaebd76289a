"""What Envoy reads at its start: who it is, and the one socket from which everything else comes.

Called by the agent, which writes the bytes to a private file for each replica. Nothing in it is secret: keys and
certificates come over the same socket (SDS), and the socket itself is the proxy's identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from envoy.config.bootstrap.v3 import bootstrap_pb2
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import config_source_pb2
from envoy.extensions.resource_monitors.downstream_connections.v3 import downstream_connections_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf import duration_pb2, json_format

AGENT_CLUSTER = "agent"
"""The static cluster that carries ADS and SDS: the agent's socket for this replica."""
DEFAULT_SECRET = "default"  # noqa: S105 - a name
"""SDS name of the workload's own certificate and key."""
ROOT_SECRET = "ROOTCA"  # noqa: S105 - a name
"""SDS name of the roots that peers are judged by."""

_RECONNECT_FIRST_MILLIS = 100
_RECONNECT_LIMIT_SECONDS = 1
_CONNECT_SECONDS = 1
_MANY = 100_000
_ADMIN_MODE = 0o600
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_CONNECTIONS_MONITOR = "envoy.resource_monitors.global_downstream_max_connections"

_RUNTIME: Mapping[str, object] = {
    # Envoy's own limit of 100 refuses regexes that Istio's documents may hold; Istio's bootstrap sets this number.
    "re2.max_program_size.error_level": 32768,
}

_CLUSTER_TAG = r"^cluster\.((.+?(\..+?\.svc\.cluster\.local)?)\.)"
"""The rule of Istio's own statistics for `outbound|8000|v1|chat.default.svc.cluster.local`."""


@dataclass(frozen=True, slots=True)
class BootstrapSettings:
    """One Envoy's start. Sockets are absolute paths of at most 107 bytes (`floor.places`).

    `cluster` is Envoy's name for the service it stands for (Istio: `<app>.<namespace>`); `locality` is written as
    `region/zone/subzone`, shorter where unknown; `metadata` is plain JSON data.
    """

    node_id: str
    cluster: str
    xds_socket: Path
    admin_socket: Path
    locality: str = ""
    metadata: Mapping[str, object] = field(default_factory=dict)
    max_connections: int = 50_000
    """Downstream connections that this Envoy takes at once; further ones are closed."""


def bootstrap_json(settings: BootstrapSettings) -> bytes:
    """The bootstrap as protobuf JSON, the same bytes for the same settings."""
    bootstrap = bootstrap_pb2.Bootstrap()
    _describe_node(bootstrap, settings)
    bootstrap.admin.address.pipe.path = str(settings.admin_socket)
    bootstrap.admin.address.pipe.mode = _ADMIN_MODE
    bootstrap.admin.ignore_global_conn_limit = True
    bootstrap.static_resources.clusters.append(_agent_cluster(settings.xds_socket))
    _discover(bootstrap.dynamic_resources)
    _limit(bootstrap, settings.max_connections)
    _tag(bootstrap)
    text = json_format.MessageToJson(bootstrap, preserving_proto_field_name=True, sort_keys=True, indent=1)
    return text.encode()


def _describe_node(bootstrap: bootstrap_pb2.Bootstrap, settings: BootstrapSettings) -> None:
    node = bootstrap.node
    node.id = settings.node_id
    node.cluster = settings.cluster
    region, zone, sub_zone = (*settings.locality.split("/", 2), "", "", "")[:3]
    node.locality.region, node.locality.zone, node.locality.sub_zone = region, zone, sub_zone
    json_format.ParseDict(dict(settings.metadata), node.metadata)


def _agent_cluster(socket: Path) -> cluster_pb2.Cluster:
    cluster = cluster_pb2.Cluster(
        name=AGENT_CLUSTER,
        type=cluster_pb2.Cluster.STATIC,
        connect_timeout=duration_pb2.Duration(seconds=_CONNECT_SECONDS),
    )
    cluster.load_assignment.cluster_name = AGENT_CLUSTER
    endpoint = cluster.load_assignment.endpoints.add().lb_endpoints.add().endpoint
    endpoint.address.pipe.path = str(socket)
    options = http_protocol_options_pb2.HttpProtocolOptions()
    options.explicit_http_config.http2_protocol_options.SetInParent()
    cluster.typed_extension_protocol_options[_HTTP_OPTIONS].Pack(options)
    limits = cluster.circuit_breakers.thresholds.add()
    for limit in (limits.max_connections, limits.max_pending_requests, limits.max_requests):
        limit.value = _MANY
    return cluster


def _discover(resources: bootstrap_pb2.Bootstrap.DynamicResources) -> None:
    """Listeners and clusters over one aggregated delta stream.

    A lost stream is opened again after 0.1 s to 1 s (Envoy's default is 0.5 s to 30 s), so a restarted agent is back
    in force at once. No time limit for the first answer: a proxy that knows nothing must not open its ports.
    """
    ads = resources.ads_config
    ads.api_type = config_source_pb2.ApiConfigSource.DELTA_GRPC
    ads.transport_api_version = config_source_pb2.V3
    ads.set_node_on_first_message_only = True
    grpc = ads.grpc_services.add().envoy_grpc
    grpc.cluster_name = AGENT_CLUSTER
    back_off = grpc.retry_policy.retry_back_off
    back_off.base_interval.FromMilliseconds(_RECONNECT_FIRST_MILLIS)
    back_off.max_interval.FromSeconds(_RECONNECT_LIMIT_SECONDS)
    for source in (resources.cds_config, resources.lds_config):
        source.resource_api_version = config_source_pb2.V3
        source.ads.SetInParent()
        source.initial_fetch_timeout.FromSeconds(0)


def _limit(bootstrap: bootstrap_pb2.Bootstrap, connections: int) -> None:
    monitor = bootstrap.overload_manager.resource_monitors.add(name=_CONNECTIONS_MONITOR)
    monitor.typed_config.Pack(
        downstream_connections_pb2.DownstreamConnectionsConfig(max_active_downstream_connections=connections)
    )
    layer = bootstrap.layered_runtime.layers.add(name="headrace")
    json_format.ParseDict(dict(_RUNTIME), layer.static_layer)


def _tag(bootstrap: bootstrap_pb2.Bootstrap) -> None:
    """Cluster names keep their dots in the tag `cluster_name`, as in Istio's statistics; sinks get nothing unasked."""
    bootstrap.stats_config.stats_tags.add(tag_name="cluster_name", regex=_CLUSTER_TAG)
    bootstrap.stats_flush_on_admin = True
