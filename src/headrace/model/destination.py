"""How calls to a service are made: what a DestinationRule says.

Made by `config.kinds.destination_rule`, read by `envoy.translate.clusters`. Field meanings are those of
istio.networking.v1.DestinationRule; None always means "not written". Times in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

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
class LoadBalancer:
    """LoadBalancerSettings: a simple policy or a consistent hash."""

    simple: LbPolicy = LbPolicy.UNSPECIFIED
    consistent_hash: ConsistentHash | None = None

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


@dataclass(frozen=True, slots=True)
class OutlierDetection:
    """OutlierDetection; counts are requests, percentages 0-100. `min_health_percent` unset means 0 for the healthy
    panic threshold (Istio's rule)."""

    consecutive_5xx_errors: int | None = None
    consecutive_gateway_errors: int | None = None
    consecutive_local_origin_failures: int | None = None
    split_external_local_origin_errors: bool = False
    interval: float | None = None
    base_ejection_time: float | None = None
    max_ejection_percent: int | None = None
    min_health_percent: int | None = None


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


@dataclass(frozen=True, slots=True)
class TrafficPolicy:
    """TrafficPolicy; a subset's block overrides the rule's block whole, never by field."""

    load_balancer: LoadBalancer | None = None
    connection_pool: ConnectionPool | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTls | None = None
    ports: tuple[PortPolicy, ...] = ()
    tunnel: Tunnel | None = None

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
    """A DestinationRule; `host` is a full name or a wildcard. `workload_selector` (callers that it is for) is not
    applied yet: such a rule is exported to nobody (`~`)."""

    meta: Metadata
    host: str
    policy: TrafficPolicy | None = None
    subsets: tuple[Subset, ...] = ()
    export_to: tuple[str, ...] = ()
    workload_selector: Labels | None = None
