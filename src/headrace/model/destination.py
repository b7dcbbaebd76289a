"""How calls to a service are made: what a DestinationRule says.

Made by `config.kinds.destination_rule`, read by `envoy.translate.clusters`. Field meanings are those of
istio.networking.v1.DestinationRule; None always means "not written". Times in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from headrace.model.locality import NETWORK, NODE, TOPOLOGY
from headrace.model.policy import GATEWAY_GROUP
from headrace.model.resource import Labels, Metadata
from headrace.model.traffic import Pairs


class LbPolicy(StrEnum):
    """LoadBalancerSettings.SimpleLB after Istio's aliases are resolved (LEAST_CONN → LEAST_REQUEST)."""

    UNSPECIFIED = "UNSPECIFIED"
    RANDOM = "RANDOM"
    PASSTHROUGH = "PASSTHROUGH"
    ROUND_ROBIN = "ROUND_ROBIN"
    LEAST_REQUEST = "LEAST_REQUEST"


@dataclass(frozen=True, slots=True)
class ConsistentHash:
    """ConsistentHashLB: exactly one key (header, cookie, source address or query parameter); `cookie_ttl` None: none
    is generated. `minimum_ring_size` None: Istio's 1024; `maglev_table_size` not None selects Maglev."""

    header: str = ""
    cookie_name: str = ""
    cookie_path: str = ""
    cookie_ttl: float | None = None
    cookie_attributes: Pairs = ()
    use_source_ip: bool = False
    query_parameter: str = ""
    minimum_ring_size: int | None = None
    maglev: bool = False
    maglev_table_size: int | None = None


@dataclass(frozen=True, slots=True)
class LocalityLb:
    """LocalityLoadBalancerSetting, or (`zone_aware`) ZoneAwareLoadBalancerSetting: which localities get requests.

    `distribute`: by the caller's locality (its last parts may be `*` or missing), percentages by locality of endpoints;
    `failover`: from one region to another; `failover_priority`: labels that caller and near endpoints share, or
    `label=value`, most important first. `forced`: also where nothing tells that near endpoints are sick.
    """

    enabled: bool = True
    distribute: tuple[tuple[str, tuple[tuple[str, int], ...]], ...] = ()
    failover: Pairs = ()
    failover_priority: tuple[str, ...] = ()
    zone_aware: bool = False
    min_cluster_size: int | None = None
    forced: bool = False


BY_DISTANCE = LocalityLb()
"""What a mesh without settings has: endpoints nearer to the caller come first."""
_NEAR = (NETWORK, TOPOLOGY[0], TOPOLOGY[1])
DISTRIBUTIONS = {
    "zone": LocalityLb(failover_priority=_NEAR, forced=True),
    "node": LocalityLb(failover_priority=(*_NEAR, TOPOLOGY[2], NODE), forced=True),
}
"""What a service's trafficDistribution asks for (`model.service.Service.distribution`)."""


@dataclass(frozen=True, slots=True)
class Warmup:
    """WarmupConfiguration (or warmupDurationSecs): a new endpoint's share grows for `duration` seconds. `aggression`
    1: in proportion to its age; `minimum_percent`: where its share begins."""

    duration: float
    minimum_percent: float = 10.0
    aggression: float = 1.0


@dataclass(frozen=True, slots=True)
class LoadBalancer:
    """LoadBalancerSettings: a simple policy or a consistent hash; `locality` None: as the mesh has it."""

    simple: LbPolicy = LbPolicy.UNSPECIFIED
    consistent_hash: ConsistentHash | None = None
    locality: LocalityLb | None = None
    warmup: Warmup | None = None

    @property
    def chooses(self) -> bool:
        """Whether it says how an endpoint is chosen."""
        return self.simple is not LbPolicy.UNSPECIFIED or self.consistent_hash is not None


@dataclass(frozen=True, slots=True)
class TcpKeepalive:
    """ConnectionPoolSettings.TCPSettings.TcpKeepalive."""

    probes: int | None = None
    time: float | None = None
    interval: float | None = None


@dataclass(frozen=True, slots=True)
class Http2Keepalive:
    """ConnectionPoolSettings.HTTPSettings.ConnectionKeepalive: a PING every `interval`, answered within `timeout`."""

    interval: float
    timeout: float


@dataclass(frozen=True, slots=True)
class ConnectionPool:
    """ConnectionPoolSettings (tcp and http together)."""

    max_connections: int | None = None
    connect_timeout: float | None = None
    tcp_keepalive: TcpKeepalive | None = None
    max_connection_duration: float | None = None
    tcp_idle_timeout: float | None = None
    http1_max_pending_requests: int | None = None
    http2_max_requests: int | None = None
    max_requests_per_connection: int | None = None
    max_retries: int | None = None
    http_idle_timeout: float | None = None
    h2_upgrade_policy: str = "DEFAULT"
    use_client_protocol: bool = False
    max_concurrent_streams: int | None = None
    http2_keepalive: Http2Keepalive | None = None


@dataclass(frozen=True, slots=True)
class OutlierDetection:
    """OutlierDetection; counts are requests, percentages 0-100. `min_health_percent` unset means 0 for the healthy
    panic threshold (Istio's rule). `http_error_codes` not empty: only these answers count as errors."""

    consecutive_5xx_errors: int | None = None
    consecutive_gateway_errors: int | None = None
    consecutive_local_origin_failures: int | None = None
    split_external_local_origin_errors: bool = False
    interval: float | None = None
    base_ejection_time: float | None = None
    max_ejection_percent: int | None = None
    min_health_percent: int | None = None
    http_error_codes: tuple[int, ...] = ()


class TlsMode(StrEnum):
    """ClientTLSSettings.TLSmode."""

    DISABLE = "DISABLE"
    SIMPLE = "SIMPLE"
    MUTUAL = "MUTUAL"
    ISTIO_MUTUAL = "ISTIO_MUTUAL"


@dataclass(frozen=True, slots=True)
class ClientTls:
    """ClientTLSSettings; files are paths on the proxy's host, `credential_name` a Secret."""

    mode: TlsMode
    sni: str = ""
    subject_alt_names: tuple[str, ...] = ()
    client_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""
    ca_crl: str = ""
    credential_name: str = ""
    insecure_skip_verify: bool | None = None


@dataclass(frozen=True, slots=True)
class PortPolicy:
    """TrafficPolicy.PortTrafficPolicy: replaces these four blocks wholesale for one port."""

    port: int
    load_balancer: LoadBalancer | None = None
    connection_pool: ConnectionPool | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTls | None = None


@dataclass(frozen=True, slots=True)
class Tunnel:
    """TrafficPolicy.TunnelSettings: where the proxy behind the service is asked to connect to, by CONNECT or `post`."""

    host: str
    port: int
    post: bool = False

    @property
    def target(self) -> str:
        """`host:port`, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class ProxyProtocol(StrEnum):
    """TrafficPolicy.ProxyProtocol.VERSION: how a connection begins by saying whose it is."""

    V1 = "V1"
    V2 = "V2"


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """TrafficPolicy.RetryBudget: at most `percent` of the requests under way (and of those that began within the last
    `interval` seconds) are retries, but always `concurrency` of them."""

    percent: float
    concurrency: int
    interval: float | None = None


@dataclass(frozen=True, slots=True)
class TrafficPolicy:
    """TrafficPolicy; a subset's block overrides the rule's block whole, never by field."""

    load_balancer: LoadBalancer | None = None
    connection_pool: ConnectionPool | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTls | None = None
    ports: tuple[PortPolicy, ...] = ()
    tunnel: Tunnel | None = None
    proxy_protocol: ProxyProtocol | None = None
    retry_budget: RetryBudget | None = None

    def with_tls(self, other: TrafficPolicy) -> TrafficPolicy:
        """This policy, with the `tls` of another where it writes none itself; a port that only the other one speaks for
        keeps what this one says of all ports."""
        theirs = {port.port: port.tls for port in other.ports}
        ports = [replace(port, tls=port.tls or theirs.pop(port.port, None)) for port in self.ports]
        rest = (self.load_balancer, self.connection_pool, self.outlier_detection)
        ports += [PortPolicy(number, *rest, tls=tls) for number, tls in theirs.items()]
        return replace(self, tls=self.tls or other.tls, ports=tuple(sorted(ports, key=lambda port: port.port)))

    def pool_of(self, port: int) -> ConnectionPool | None:
        """The connection pool of one port: that of its own settings, which replace all, else the policy's."""
        return next((own.connection_pool for own in self.ports if own.port == port), self.connection_pool)


@dataclass(frozen=True, slots=True)
class Subset:
    """A named part of a service: the endpoints that carry all of `labels`."""

    name: str
    labels: Pairs = ()
    policy: TrafficPolicy | None = None


@dataclass(frozen=True, slots=True, eq=False)
class DestinationRule:
    """A DestinationRule; `host` is a full name or a wildcard. `workload_selector`: labels of the callers of its own
    namespace that it is for (None: all)."""

    meta: Metadata
    host: str
    policy: TrafficPolicy | None = None
    subsets: tuple[Subset, ...] = ()
    export_to: tuple[str, ...] = ()
    workload_selector: Labels | None = None

    @property
    def made(self) -> bool:
        """Whether it was made of BackendTLSPolicies: rules that people write for the same host come before it."""
        return self.meta.key.kind.startswith(f"{GATEWAY_GROUP}/")

    def policies(self) -> Iterator[TrafficPolicy]:
        """Its own policy and those of its subsets."""
        for policy in (self.policy, *(subset.policy for subset in self.subsets)):
            if policy is not None:
                yield policy


def failover_labels(rule: DestinationRule | None, mesh: LocalityLb | None = None) -> frozenset[str]:
    """Names of the labels by which a rule, and the mesh, rank endpoints for their callers."""
    settings = [mesh] if mesh is not None else []
    for policy in rule.policies() if rule is not None else ():
        balancers = (policy.load_balancer, *(port.load_balancer for port in policy.ports))
        settings += [item.locality for item in balancers if item is not None and item.locality is not None]
    return frozenset(word.partition("=")[0] for setting in settings for word in setting.failover_priority)
