"""Clusters of the outbound side: one for each port of a service and for each subset of it, and the two fixed ones.

Called by `translate`. A cluster depends on the target (service, its rule, its identities) and the mesh, never on
endpoints (those come as load assignments), but for DNS services, whose endpoints are names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2 as http_pb2

from headrace.envoy.resources import CLUSTER, XdsResource
from headrace.envoy.translate.cluster_policy import (
    apply_load_balancer,
    apply_localities,
    apply_outlier_detection,
    apply_pool,
    count_as_errors,
    http_options,
    set_http_options,
    speaks_http2,
)
from headrace.envoy.translate.cluster_tls import TlsSettings, apply_proxy_protocol, apply_tls, originates_tls
from headrace.envoy.translate.credentials import apply_credential
from headrace.envoy.translate.destination_rules import effective_policy, passes_through, with_mesh_defaults
from headrace.envoy.translate.dynamic_dns import ALLOW_ANY_DYNAMIC_DNS, looks_up_unknown, set_forward, unknown_cluster
from headrace.envoy.translate.endpoints import in_subset, load_assignment, taking_requests
from headrace.envoy.translate.lives import bound_client_side, carries_http, speaks_mesh_tls
from headrace.envoy.translate.localities import (
    ANYWHERE,
    Caller,
    caller_at,
    caller_for,
    groups_of,
    localities_of,
    locality_setting,
)
from headrace.envoy.translate.memo import Memo, resource_of
from headrace.envoy.translate.messages import ads, document_path, duration
from headrace.envoy.translate.overflow import overflow_host, overflow_of
from headrace.envoy.translate.pools import apply_pool_balancer
from headrace.envoy.view import Outside, ProxyView, Target
from headrace.model.destination import DestinationRule, LocalityLb, Subset, TrafficPolicy
from headrace.model.engine_timeouts import engine_timeouts
from headrace.model.mesh import MeshConfig
from headrace.model.names import outbound_cluster, sni
from headrace.model.service import Endpoint, Protocol, Resolution, Service, ServicePort

PASSTHROUGH = "PassthroughCluster"
BLACK_HOLE = "BlackHoleCluster"
_BY_NAME = (Resolution.DNS, Resolution.DNS_ROUND_ROBIN)


@dataclass(frozen=True, slots=True)
class Part:
    """One cluster to be: a port of a service, whole or a subset."""

    port: ServicePort
    subset: Subset | None

    def cluster(self, service: Service) -> str:
        """The cluster's name."""
        return outbound_cluster(self.port.number, self.subset.name if self.subset else "", service.host)

    def sni(self, service: Service) -> str:
        """The SNI of mesh mutual TLS towards it; also its cluster's name where a gateway passes that on."""
        return sni(self.port.number, self.subset.name if self.subset else "", service.host)


def parts_of(service: Service, rule: DestinationRule | None) -> Iterator[Part]:
    """Every port that has clusters (all but UDP), whole and by subset (DYNAMIC_DNS has none: nobody knows the labels of
    what is looked up)."""
    subsets = rule.subsets if rule is not None and service.resolution is not Resolution.DYNAMIC_DNS else ()
    for port in service.ports:
        if port.protocol is Protocol.UDP:
            continue
        yield Part(port, None)
        for subset in subsets:
            yield Part(port, subset)


def is_eds(service: Service, policy: TrafficPolicy, *, routed: bool) -> bool:
    """Whether the cluster's endpoints come as a load assignment (`routed`: `MeshConfig.routed`)."""
    return service.resolution in (Resolution.MESH, Resolution.STATIC) and not passes_through(policy, routed=routed)


def targets_by_name(targets: Iterable[Target]) -> tuple[Target, ...]:
    """Those whose endpoints are host names, which are part of the cluster."""
    return tuple(target for target in targets if target.service.resolution in _BY_NAME)


@dataclass(frozen=True, slots=True)
class _Named:
    """Endpoints that are host names, and where the caller is."""

    endpoints: tuple[Endpoint, ...] = ()
    caller: Caller = ANYWHERE


_NOT_BY_NAME = _Named()


def target_clusters(memo: Memo, view: ProxyView, target: Target, module: bool = False) -> tuple[XdsResource, ...]:
    """All clusters of one service as a scope sees it. `module`: the native module picks the endpoints of pools."""
    scope, named = view.scope, _named(view, target)
    picks = module and target.is_pool
    beside = scope.by_host.get(overflow_host(target)) if picks else None
    key = (scope.mesh, target, named, picks, beside)
    return memo.latest("clusters", (*target.slot, named.caller, picks), key, _build, *key)


def dnat_clusters(memo: Memo, view: ProxyView, target: Target) -> tuple[XdsResource, ...]:
    """The clusters of one service to which a gateway passes mesh mutual TLS on as it is: called by the SNI, without TLS
    of their own."""
    key = (view.scope.mesh, target, _named(view, target))
    return memo.latest("SNI-DNAT clusters", (*target.slot, key[2].caller), key, _build_dnat, *key)


def _build_dnat(mesh: MeshConfig, target: Target, named: _Named) -> tuple[XdsResource, ...]:
    mutual = _Named(tuple(item for item in named.endpoints if item.mtls), named.caller)
    parts = parts_of(target.service, target.rule)
    found = [_cluster(mesh, target, part, mutual, dnat=True) for part in parts]
    return tuple(resource_of(CLUSTER, cluster.name, cluster) for cluster in found if cluster is not None)


def _named(view: ProxyView, target: Target) -> _Named:
    if target.service.resolution not in _BY_NAME:
        return _NOT_BY_NAME
    caller = caller_for(
        caller_at(view.scope.key.labels), target.rule, localities_of(target.service, view.scope.mesh.locality)
    )
    return _Named(taking_requests(view.endpoints_of(target)), caller)


def _build(
    mesh: MeshConfig, target: Target, named: _Named, picks: bool, beside: Target | None
) -> tuple[XdsResource, ...]:
    """`beside`: what is called in place of a pool whose requests do not fit."""
    others = {beside.service.host: beside} if beside is not None else {}
    parts = tuple(parts_of(target.service, target.rule))
    found = [_cluster(mesh, target, part, named) for part in parts]
    for part, cluster in zip(parts, found, strict=True):
        if picks and cluster is not None:
            policy = effective_policy(target.rule, part.port.number, part.subset)
            apply_pool_balancer(cluster, target, part.port, policy, overflow_of(target, part.port.number, others))
        if cluster is not None:
            apply_credential(cluster, target, part.port)
    return tuple(resource_of(CLUSTER, cluster.name, cluster) for cluster in found if cluster is not None)


def _cluster(mesh: MeshConfig, target: Target, part: Part, named: _Named, *, dnat: bool = False) -> Any | None:
    service, port = target.service, part.port
    policy = with_mesh_defaults(effective_policy(target.rule, port.number, part.subset), mesh.traffic)
    name = part.sni(service) if dnat else part.cluster(service)
    cluster = cluster_pb2.Cluster(name=name)
    cluster.common_lb_config.SetInParent()
    setting = locality_setting(localities_of(service, mesh.locality), policy.load_balancer)
    if not _set_discovery(cluster, target, part, named, setting):
        return None
    if cluster.HasField("dns_refresh_rate"):
        cluster.dns_refresh_rate.CopyFrom(duration(mesh.traffic.dns_refresh))
    pool = policy.connection_pool
    http2 = speaks_http2(
        pool, declared=port.protocol.is_http2, upgraded=mesh.traffic.http2_upgrade and port.protocol.is_http
    )
    options = http_options(pool, http2=http2, sniffed=port.protocol is Protocol.UNDECLARED)
    codes = policy.outlier_detection.http_error_codes if policy.outlier_detection is not None else ()
    if options is None and (codes or (originates_tls(policy.tls) and not dnat)):
        options = _http1_options()
    if codes:
        count_as_errors(options, codes)
    engine = engine_timeouts(service.engine)
    connect = min(mesh.connect_timeout, engine.connect) if engine else mesh.connect_timeout
    apply_pool(cluster, pool, connect, policy.retry_budget, mesh.traffic.keepalive)
    apply_outlier_detection(cluster, policy.outlier_detection)
    if service.resolution is not Resolution.DYNAMIC_DNS:
        _balance(cluster, mesh, policy, setting)
    if not dnat:
        own_sni = part.sni(service)
        apply_tls(cluster, options, TlsSettings(mesh, service, policy.tls, own_sni, target.accounts, http2))
    ends_here = not dnat and carries_http(port.protocol)
    if mesh.connection_life and ends_here and speaks_mesh_tls(cluster, policy.tls):
        options = options or _http1_options()
        bound_client_side(options, mesh)
    if policy.proxy_protocol is not None and not dnat:
        apply_proxy_protocol(cluster, policy.proxy_protocol)
    set_http_options(cluster, options)
    if cluster.type == cluster_pb2.Cluster.EDS:
        cluster.eds_cluster_config.eds_config.CopyFrom(ads())
        cluster.eds_cluster_config.service_name = name
    _describe(cluster, target, part)
    return cluster


def _balance(cluster: Any, mesh: MeshConfig, policy: TrafficPolicy, setting: LocalityLb | None) -> None:
    """How the cluster chooses an endpoint, and between localities."""
    if passes_through(policy, routed=mesh.routed):
        cluster.type = cluster_pb2.Cluster.ORIGINAL_DST
        cluster.ClearField("load_assignment")
    apply_load_balancer(cluster, policy.load_balancer)
    apply_localities(cluster, setting, policy.outlier_detection is not None)


def _http1_options() -> Any:
    options = http_pb2.HttpProtocolOptions()
    options.explicit_http_config.http_protocol_options.SetInParent()
    return options


def _set_discovery(cluster: Any, target: Target, part: Part, named: _Named, setting: LocalityLb | None) -> bool:
    """How the cluster finds its endpoints; False where a DNS cluster would have none (Istio leaves it out)."""
    service = target.service
    if service.resolution is Resolution.NONE:
        cluster.type = cluster_pb2.Cluster.ORIGINAL_DST
        if part.port.target not in (0, part.port.number):
            cluster.original_dst_lb_config.upstream_port_override.value = part.port.target
        return True
    if service.resolution is Resolution.DYNAMIC_DNS:
        set_forward(cluster)
        return True
    if service.resolution not in _BY_NAME:
        cluster.type = cluster_pb2.Cluster.EDS
        return True
    found = in_subset(named.endpoints, part.port.number, part.subset.labels if part.subset else ())
    if not found:
        return False
    once = service.resolution is Resolution.DNS_ROUND_ROBIN
    cluster.type = cluster_pb2.Cluster.LOGICAL_DNS if once else cluster_pb2.Cluster.STRICT_DNS
    cluster.dns_lookup_family = cluster_pb2.Cluster.V4_ONLY
    cluster.respect_dns_ttl = True
    cluster.dns_refresh_rate.CopyFrom(duration(60))
    chosen = found[:1] if once else found  # LOGICAL_DNS takes exactly one name
    detects = effective_policy(target.rule, part.port.number, part.subset).outlier_detection is not None
    groups = groups_of(chosen, named.caller, setting, detects)
    if not groups:  # localities that no endpoint is in; Envoy 1.40 in `--mode validate` crashes on such a cluster
        return False
    cluster.load_assignment.CopyFrom(load_assignment(cluster.name, groups))
    return True


def _describe(cluster: Any, target: Target, part: Part) -> None:
    """Istio's metadata of a cluster: the service, the rule that shaped it, the subset."""
    about = cluster.metadata.filter_metadata["istio"]
    rule = target.rule
    if rule is not None:
        about["config"] = document_path(rule.meta, "destination-rule")
    about["default_original_port"] = part.port.number
    service = target.service
    about.get_or_create_list("services").extend(
        [{"host": service.host, "name": service.name, "namespace": service.namespace}]
    )
    if part.subset is not None:
        about["subset"] = part.subset.name


def fixed_clusters(memo: Memo, mesh: MeshConfig, *, gateway: bool) -> tuple[XdsResource, ...]:
    """`BlackHoleCluster`, and for sidecars `PassthroughCluster` and, where the mesh says so, the one that looks up."""
    return memo.get("fixed clusters", (mesh, gateway), _fixed, mesh, gateway)


def _fixed(mesh: MeshConfig, gateway: bool) -> tuple[XdsResource, ...]:
    hole = cluster_pb2.Cluster(
        name=BLACK_HOLE, type=cluster_pb2.Cluster.STATIC, connect_timeout=duration(mesh.connect_timeout)
    )
    found = [resource_of(CLUSTER, BLACK_HOLE, hole)]
    if not gateway:
        through = cluster_pb2.Cluster(
            name=PASSTHROUGH,
            type=cluster_pb2.Cluster.ORIGINAL_DST,
            lb_policy=cluster_pb2.Cluster.CLUSTER_PROVIDED,
        )
        apply_pool(through, mesh.traffic.pool, mesh.connect_timeout, alive=mesh.traffic.keepalive)
        set_http_options(through, http_options(None, http2=False, sniffed=True))
        found.append(resource_of(CLUSTER, PASSTHROUGH, through))
        if looks_up_unknown(Outside(mesh.outbound_mode)):
            found.append(resource_of(CLUSTER, ALLOW_ANY_DYNAMIC_DNS, unknown_cluster(mesh)))
    return tuple(found)
