"""What a DestinationRule's traffic policy makes of a cluster: pool, ejection, load balancer.

Called by `clusters`. Defaults are Istio's: least request, limits at the largest uint32 (Envoy's own are 1024 and 3),
connect timeout of the mesh. Envoy's own defaults stay where Istio sets nothing (interval 10 s, ejection 30 s, 10 %).
"""

from __future__ import annotations

from typing import Any

from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2, outlier_detection_pb2
from envoy.config.common.matcher.v3 import matcher_pb2 as predicate_pb2
from envoy.config.core.v3 import protocol_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2 as http_pb2
from envoy.type.v3 import percent_pb2
from google.protobuf import wrappers_pb2

from headrace.envoy.translate.localities import weighs_localities
from headrace.envoy.translate.messages import duration, packed, serialized, uint32
from headrace.model.destination import (
    ConnectionPool,
    ConsistentHash,
    LbPolicy,
    LoadBalancer,
    LocalityLb,
    OutlierDetection,
    RetryBudget,
    TcpKeepalive,
    Warmup,
)

HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_UNLIMITED = 2**32 - 1
_RING_SIZE = 1024
_NO_POOL = ConnectionPool()
_BUDGET_INTERVAL = 3 << 3 | 2
"""Tag of `RetryBudget.budget_interval` (field 3, length-delimited), which the installed messages do not know yet."""
_AGGRESSION = "upstream.slow_start.aggression"
"""Runtime key of a warm-up's aggression: Envoy wants one; nobody sets it."""


def thresholds(pool: ConnectionPool | None, budget: RetryBudget | None = None) -> Any:
    """Circuit breakers; what is not written is unlimited. A retry budget holds in place of `maxRetries` (Envoy)."""
    pool = pool or _NO_POOL
    limits = circuit_breaker_pb2.CircuitBreakers.Thresholds(
        max_connections=uint32(pool.max_connections or _UNLIMITED),
        max_pending_requests=uint32(pool.http1_max_pending_requests or _UNLIMITED),
        max_requests=uint32(pool.http2_max_requests or _UNLIMITED),
        max_retries=uint32(pool.max_retries or _UNLIMITED),
        track_remaining=True,
    )
    if budget is not None:
        found = limits.retry_budget
        found.budget_percent.value = budget.percent
        found.min_retry_concurrency.value = budget.concurrency
        if budget.interval is not None:
            interval = serialized(duration(budget.interval))
            found.MergeFromString(bytes((_BUDGET_INTERVAL, len(interval))) + interval)
    return circuit_breaker_pb2.CircuitBreakers(thresholds=[limits])


def apply_pool(
    cluster: Any,
    pool: ConnectionPool | None,
    connect_timeout: float,
    budget: RetryBudget | None = None,
    alive: TcpKeepalive | None = None,
) -> None:
    """Limits, connect timeout (`connect_timeout` where the pool has none) and TCP keep-alive (`alive`: the mesh's, of
    which the pool overrides single fields)."""
    pool = pool or _NO_POOL
    written = pool.connect_timeout
    cluster.connect_timeout.CopyFrom(duration(connect_timeout if written is None else written))
    cluster.circuit_breakers.CopyFrom(thresholds(pool, budget))
    for settings in (alive, pool.tcp_keepalive):
        if settings is None:
            continue
        found = cluster.upstream_connection_options.tcp_keepalive
        found.SetInParent()
        if settings.probes:
            found.keepalive_probes.value = settings.probes
        if settings.time is not None:
            found.keepalive_time.value = int(settings.time)
        if settings.interval is not None:
            found.keepalive_interval.value = int(settings.interval)


def http_options(pool: ConnectionPool | None, *, http2: bool, sniffed: bool) -> Any | None:
    """HttpProtocolOptions of a cluster (None: Envoy's HTTP/1.1 defaults). `sniffed`: the port declares no protocol, so
    the server is spoken to as the client spoke."""
    pool = pool or _NO_POOL
    options = http_pb2.HttpProtocolOptions()
    idle = pool.http_idle_timeout if pool.http_idle_timeout is not None else pool.tcp_idle_timeout
    if idle is not None:
        options.common_http_protocol_options.idle_timeout.CopyFrom(duration(idle))
    if pool.max_requests_per_connection:
        options.common_http_protocol_options.max_requests_per_connection.value = pool.max_requests_per_connection
    if pool.max_connection_duration is not None:
        options.common_http_protocol_options.max_connection_duration.CopyFrom(duration(pool.max_connection_duration))
    written = options.ByteSize() > 0
    if pool.use_client_protocol or (sniffed and not http2):
        options.use_downstream_protocol_config.http_protocol_options.CopyFrom(protocol_pb2.Http1ProtocolOptions())
        options.use_downstream_protocol_config.http2_protocol_options.CopyFrom(_http2(pool))
    elif http2:
        options.explicit_http_config.http2_protocol_options.CopyFrom(_http2(pool))
    elif written:
        options.explicit_http_config.http_protocol_options.CopyFrom(protocol_pb2.Http1ProtocolOptions())
    else:
        return None
    return options


def _http2(pool: ConnectionPool) -> Any:
    found = protocol_pb2.Http2ProtocolOptions()
    if pool.max_concurrent_streams:
        found.max_concurrent_streams.value = pool.max_concurrent_streams
    if pool.http2_keepalive is not None:
        found.connection_keepalive.interval.CopyFrom(duration(pool.http2_keepalive.interval))
        found.connection_keepalive.timeout.CopyFrom(duration(pool.http2_keepalive.timeout))
    return found


def count_as_errors(options: Any, codes: tuple[int, ...]) -> None:
    """Let outlier detection count these answers as errors, and no others."""
    rules = [predicate_pb2.MatchPredicate() for _ in codes]
    for rule, code in zip(rules, codes, strict=True):
        header = rule.http_response_headers_match.headers.add(name=":status")
        header.string_match.exact = str(code)
    matcher = options.outlier_detection.error_matcher
    if len(rules) == 1:
        matcher.CopyFrom(rules[0])
    else:
        matcher.or_match.rules.extend(rules)


def set_http_options(cluster: Any, options: Any | None) -> None:
    """Put HttpProtocolOptions into the cluster, where there are any."""
    if options is not None:
        cluster.typed_extension_protocol_options[HTTP_OPTIONS].CopyFrom(packed(options))


def speaks_http2(pool: ConnectionPool | None, *, declared: bool, upgraded: bool = False) -> bool:
    """Whether requests go to the server as HTTP/2: declared by the port, or by h2UpgradePolicy UPGRADE (`upgraded`: the
    mesh's, which a pool overrides)."""
    if declared:
        return True
    if pool is None or pool.h2_upgrade_policy not in ("UPGRADE", "DO_NOT_UPGRADE"):
        return upgraded and (pool is None or not pool.use_client_protocol)
    return pool.h2_upgrade_policy == "UPGRADE" and not pool.use_client_protocol


def apply_outlier_detection(cluster: Any, settings: OutlierDetection | None) -> None:
    """Ejection, and the panic threshold that goes with it (0 where minHealthPercent is not written).

    Envoy holds back changes of health that follow another change within a second (update_merge_window): for so long an
    ejected endpoint would go on to get requests. Here it leaves at once.
    """
    if settings is None:
        return
    found = outlier_detection_pb2.OutlierDetection(enforcing_success_rate=uint32(0))
    if settings.consecutive_5xx_errors is not None:
        found.consecutive_5xx.value = settings.consecutive_5xx_errors
        found.enforcing_consecutive_5xx.value = 100 if settings.consecutive_5xx_errors else 0
    if settings.consecutive_gateway_errors is not None:
        found.consecutive_gateway_failure.value = settings.consecutive_gateway_errors
        found.enforcing_consecutive_gateway_failure.value = 100 if settings.consecutive_gateway_errors else 0
    if settings.interval is not None:
        found.interval.CopyFrom(duration(settings.interval))
    if settings.base_ejection_time is not None:
        found.base_ejection_time.CopyFrom(duration(settings.base_ejection_time))
    if settings.max_ejection_percent:
        found.max_ejection_percent.value = settings.max_ejection_percent
    if settings.split_external_local_origin_errors:
        found.split_external_local_origin_errors = True
        found.enforcing_local_origin_success_rate.value = 0
        if settings.consecutive_local_origin_failures:
            found.consecutive_local_origin_failure.value = settings.consecutive_local_origin_failures
            found.enforcing_consecutive_local_origin_failure.value = 100
    cluster.outlier_detection.CopyFrom(found)
    percent = percent_pb2.Percent(value=float(settings.min_health_percent or 0))
    cluster.common_lb_config.healthy_panic_threshold.CopyFrom(percent)
    cluster.common_lb_config.update_merge_window.CopyFrom(duration(0))


_SIMPLE = {
    LbPolicy.UNSPECIFIED: cluster_pb2.Cluster.LEAST_REQUEST,
    LbPolicy.PASSTHROUGH: cluster_pb2.Cluster.LEAST_REQUEST,
    LbPolicy.LEAST_REQUEST: cluster_pb2.Cluster.LEAST_REQUEST,
    LbPolicy.ROUND_ROBIN: cluster_pb2.Cluster.ROUND_ROBIN,
    LbPolicy.RANDOM: cluster_pb2.Cluster.RANDOM,
}


def apply_load_balancer(cluster: Any, balancer: LoadBalancer | None) -> None:
    """The cluster's load-balancing policy."""
    simple = balancer.simple if balancer else LbPolicy.UNSPECIFIED
    if cluster.type == cluster_pb2.Cluster.ORIGINAL_DST:
        cluster.lb_policy = cluster_pb2.Cluster.CLUSTER_PROVIDED
        return
    cluster.lb_policy = _SIMPLE[simple]
    if balancer is not None and balancer.consistent_hash is not None:
        _apply_consistent_hash(cluster, balancer.consistent_hash)
    elif balancer is not None and balancer.warmup is not None:
        _apply_warmup(cluster, balancer.warmup)


def _apply_warmup(cluster: Any, warmup: Warmup) -> None:
    """Slow start, for the policies that know it."""
    if cluster.lb_policy == cluster_pb2.Cluster.ROUND_ROBIN:
        found = cluster.round_robin_lb_config.slow_start_config
    elif cluster.lb_policy == cluster_pb2.Cluster.LEAST_REQUEST:
        found = cluster.least_request_lb_config.slow_start_config
    else:
        return
    found.slow_start_window.CopyFrom(duration(warmup.duration))
    found.aggression.default_value = warmup.aggression
    found.aggression.runtime_key = _AGGRESSION
    found.min_weight_percent.value = warmup.minimum_percent


def apply_localities(cluster: Any, setting: LocalityLb | None, detects: bool) -> None:
    """Whether Envoy heeds localities beyond the priorities of the endpoints: by their weights, or not at all."""
    if cluster.type == cluster_pb2.Cluster.ORIGINAL_DST or setting is None:
        return
    if setting.zone_aware:
        zones = cluster.common_lb_config.zone_aware_lb_config
        zones.SetInParent()
        if setting.min_cluster_size is not None:
            zones.min_cluster_size.value = setting.min_cluster_size
        if not setting.enabled:
            zones.routing_enabled.value = 0
    elif weighs_localities(setting, detects):
        cluster.common_lb_config.locality_weighted_lb_config.SetInParent()


def _apply_consistent_hash(cluster: Any, key: ConsistentHash) -> None:
    if key.maglev or key.maglev_table_size is not None:
        cluster.lb_policy = cluster_pb2.Cluster.MAGLEV
        if key.maglev_table_size:
            cluster.maglev_lb_config.table_size.value = key.maglev_table_size
        return
    cluster.lb_policy = cluster_pb2.Cluster.RING_HASH
    size = wrappers_pb2.UInt64Value(value=key.minimum_ring_size or _RING_SIZE)
    cluster.ring_hash_lb_config.minimum_ring_size.CopyFrom(size)
