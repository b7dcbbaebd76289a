"""Where a connection goes whose bytes are passed on as they are, and the filters that send it there.

Called by `outbound`, `inbound_chains` and `gateways`; `l4_routes` makes the ways that VirtualServices describe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from envoy.config.listener.v3 import listener_components_pb2 as part_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.type.v3 import hash_policy_pb2

from headrace.envoy.module_filter import guard_network_filter
from headrace.envoy.translate.access_log import access_logs
from headrace.envoy.translate.extensions import network_extensions
from headrace.envoy.translate.messages import duration, packed
from headrace.model.mesh import MeshConfig

TCP_PROXY = "envoy.filters.network.tcp_proxy"


@dataclass(frozen=True, slots=True)
class Way:
    """One cluster (`clusters` holds it with weight 0) or several by weight, and how long a connection may idle and live
    (seconds; None: Envoy's hour, and no limit; idle 0: no limit). `by_source`: the client's address chooses the
    endpoint. `by_sni` not 0: the server is the one that the SNI names, at this port. `tunnel` not empty: `host:port`
    that the cluster's proxy is asked to connect to, by CONNECT or `post`."""

    clusters: tuple[tuple[str, int], ...]
    stat_prefix: str
    idle_timeout: float | None = None
    life: float | None = None
    by_source: bool = False
    by_sni: int = 0
    tunnel: str = ""
    post: bool = False

    @classmethod
    def to(cls, cluster: str) -> Way:
        """The way to one cluster, without more."""
        return cls(((cluster, 0),), cluster)


def way_filters(
    way: Way,
    mesh: MeshConfig,
    *,
    guards: Sequence[Any] = (),
    revocable: bool = False,
    server: bool = False,
    port: int = 0,
) -> list[Any]:
    """The network filters of a chain that sends its connections on a way.

    `guards` are the policies of the workload that the chain belongs to (`guard_filters.network_guards`; none for what
    leaves a sidecar). `revocable`: the proxy has the native module, and one side of the connection has a certificate of
    the mesh: it ends when its peer is revoked. `server`: the connections are those that the workload takes;
    `port` is theirs (0: any).
    """
    revocation = [guard_network_filter()] if revocable and mesh.guarded else []
    before = network_extensions(mesh, server=server, port=port, guards=guards)
    return [*revocation, *before, tcp_filter(way, mesh, server=server)]


def tcp_filter(way: Way, mesh: MeshConfig, *, server: bool = False) -> Any:
    """The TCP proxy of a way."""
    proxy = tcp_proxy_pb2.TcpProxy(stat_prefix=way.stat_prefix, access_log=access_logs(mesh, server=server))
    name, weight = way.clusters[0]
    if len(way.clusters) == 1 and not weight:
        proxy.cluster = name
    else:
        for name, weight in way.clusters:
            proxy.weighted_clusters.clusters.add(name=name, weight=weight)
    if way.idle_timeout is not None:
        proxy.idle_timeout.CopyFrom(duration(way.idle_timeout))
    if way.life is not None:
        proxy.max_downstream_connection_duration.CopyFrom(duration(way.life))
    if way.by_source:
        proxy.hash_policy.append(hash_policy_pb2.HashPolicy(source_ip=hash_policy_pb2.HashPolicy.SourceIp()))
    if way.tunnel:
        proxy.tunneling_config.hostname = way.tunnel
        proxy.tunneling_config.use_post = way.post
    return part_pb2.Filter(name=TCP_PROXY, typed_config=packed(proxy))
