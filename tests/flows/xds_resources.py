"""Small real resources for discovery tests and benchmarks: built directly, no policy behind them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import config_source_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2

from headrace.envoy.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE, ResourceSet, XdsResource


class FixedResources(dict[str, ResourceSet]):
    """A `ResourceSource`: what tests put in."""

    def resources_for(self, proxy: str) -> ResourceSet | None:
        return self.get(proxy)


def cluster(name: str, connect_ms: int = 1000) -> XdsResource:
    """An EDS cluster over ADS; another `connect_ms` makes it another cluster."""
    message = cluster_pb2.Cluster(name=name, type=cluster_pb2.Cluster.EDS)
    _over_ads(message.eds_cluster_config.eds_config)
    message.connect_timeout.FromMilliseconds(connect_ms)
    return XdsResource.of(CLUSTER, name, message.SerializeToString(deterministic=True))


def endpoints(name: str, ports: Iterable[int]) -> XdsResource:
    message = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
    locality = message.endpoints.add()
    for port in ports:
        address = locality.lb_endpoints.add().endpoint.address.socket_address
        address.address, address.port_value = "127.0.0.1", port
    return XdsResource.of(ENDPOINT, name, message.SerializeToString(deterministic=True))


def listener(name: str, route: str, port: int = 0, stat_prefix: str = "test") -> XdsResource:
    message = listener_pb2.Listener(name=name)
    message.address.socket_address.address = "127.0.0.1"
    message.address.socket_address.port_value = port
    manager = http_connection_manager_pb2.HttpConnectionManager(stat_prefix=stat_prefix)
    manager.rds.route_config_name = route
    _over_ads(manager.rds.config_source)
    manager.http_filters.add(name="router").typed_config.Pack(router_pb2.Router())
    message.filter_chains.add().filters.add(name="hcm").typed_config.Pack(manager)
    return XdsResource.of(LISTENER, name, message.SerializeToString(deterministic=True))


def direct_route(name: str, text: str, domains: Iterable[str] = ("*",)) -> XdsResource:
    """Routes that answer `text` themselves. Several equal `domains` are what Envoy refuses."""
    message = route_pb2.RouteConfiguration(name=name)
    for number, domain in enumerate(domains):
        host = message.virtual_hosts.add(name=f"{text}-{number}", domains=[domain])
        entry = host.routes.add()
        entry.match.prefix = "/"
        entry.direct_response.status = 200
        entry.direct_response.body.inline_string = text
    return XdsResource.of(ROUTE, name, message.SerializeToString(deterministic=True))


def weighted_route(name: str, weights: Mapping[str, int], extra_hosts: int = 0) -> XdsResource:
    """Routes to clusters by weight, in `extra_hosts` more virtual hosts too."""
    message = route_pb2.RouteConfiguration(name=name)
    for number in range(extra_hosts + 1):
        host = message.virtual_hosts.add(name=f"host{number}", domains=["*" if number == 0 else f"host{number}.test"])
        entry = host.routes.add()
        entry.match.prefix = "/"
        for target, weight in weights.items():
            entry.route.weighted_clusters.clusters.add(name=target).weight.value = weight
    return XdsResource.of(ROUTE, name, message.SerializeToString(deterministic=True))


def _over_ads(source: config_source_pb2.ConfigSource) -> None:
    source.ads.SetInParent()
    source.resource_api_version = config_source_pb2.V3
