"""Servers that are looked up by the name that a client asks for: the cluster, the cache and the filters that share it.

Called by `clusters` (ServiceEntries with resolution DYNAMIC_DNS), `outbound`, `tcp_proxy` and `loopback` (unknown
hosts). Envoy knows caches by name and takes only equal ones under one name; here all share one, so that a listener
needs one filter for however many wildcards (Istio has a cache for each, and a filter for one of them).
"""

from __future__ import annotations

from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.clusters.dynamic_forward_proxy.v3 import cluster_pb2 as forward_cluster_pb2
from envoy.extensions.common.dynamic_forward_proxy.v3 import dns_cache_pb2
from envoy.extensions.filters.http.dynamic_forward_proxy.v3 import dynamic_forward_proxy_pb2
from envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3 import sni_dynamic_forward_proxy_pb2

from headrace.envoy.translate.cluster_policy import apply_pool, http_options, set_http_options
from headrace.envoy.translate.memo import Memo
from headrace.envoy.translate.messages import http_filter, packed, uint32
from headrace.envoy.view import Outside, Scope, Target
from headrace.model.mesh import MeshConfig, OutboundMode
from headrace.model.service import Resolution

ALLOW_ANY_DYNAMIC_DNS = "AllowAnyDynamicDNSCluster"
_MOST_HOSTS = 1024


def cache() -> Any:
    """The names that a proxy has looked up."""
    return dns_cache_pb2.DnsCacheConfig(
        name="allow_any_dynamic_dns", dns_lookup_family=cluster_pb2.Cluster.V4_PREFERRED, max_hosts=uint32(_MOST_HOSTS)
    )


def set_forward(cluster: Any) -> None:
    """The cluster connects to whatever host a request or a connection names."""
    config = forward_cluster_pb2.ClusterConfig(dns_cache_config=cache(), allow_insecure_cluster_options=True)
    cluster.lb_policy = cluster_pb2.Cluster.CLUSTER_PROVIDED
    cluster.cluster_type.name = "envoy.clusters.dynamic_forward_proxy"
    cluster.cluster_type.typed_config.CopyFrom(packed(config))


def forward_filter() -> Any:
    """The HTTP filter that looks the request's host up, where its route leads to such a cluster."""
    found = dynamic_forward_proxy_pb2.FilterConfig(dns_cache_config=cache())
    return http_filter("envoy.filters.http.dynamic_forward_proxy", found)


def sni_filter(port: int) -> Any:
    """The network filter that looks the connection's SNI up; the server is at `port`."""
    found = sni_dynamic_forward_proxy_pb2.FilterConfig(dns_cache_config=cache(), port_value=port)
    return listener_components_pb2.Filter(
        name="envoy.filters.network.sni_dynamic_forward_proxy", typed_config=packed(found)
    )


def forwards(memo: Memo, scope: Scope) -> bool:
    """Whether proxies of the scope look up what requests name."""
    if looks_up_unknown(scope.outside):
        return True
    return memo.latest("forwards", scope.key, scope.targets, _any_dynamic, scope.targets)


def looks_up_unknown(outside: Outside) -> bool:
    """Whether clear-text HTTP for hosts that the mesh does not know goes to what they are looked up as."""
    return outside.mode is OutboundMode.ALLOW_ANY_DYNAMIC_DNS


def unknown_cluster(mesh: MeshConfig) -> Any:
    """The cluster of what `looks_up_unknown` says."""
    cluster = cluster_pb2.Cluster(name=ALLOW_ANY_DYNAMIC_DNS)
    apply_pool(cluster, mesh.traffic.pool, mesh.connect_timeout, alive=mesh.traffic.keepalive)
    set_http_options(cluster, http_options(None, http2=False, sniffed=True))
    set_forward(cluster)
    return cluster


def _any_dynamic(targets: tuple[Target, ...]) -> bool:
    return any(target.service.resolution is Resolution.DYNAMIC_DNS for target in targets)
