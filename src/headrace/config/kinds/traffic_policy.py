"""TrafficPolicy of a DestinationRule: connection pools, outlier detection, TLS, per-port settings.

Used by `destination_rule`, at the rule's top, in subsets and per port.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from headrace.config.documents import Path
from headrace.config.fields import (
    AnyDuration,
    Bool,
    Choice,
    Count,
    EnumOf,
    Int32,
    IntPercent,
    Percent,
    Port,
    Text,
    UInt32,
    parse_duration,
    shown,
    whole,
)
from headrace.config.kinds.istio_names import (
    Timespan,
    check_timespan,
    host_problem,
    is_address,
    set_fields,
    warning,
    why_not_fqdn,
)
from headrace.config.kinds.load_balancer import LoadBalancerSpec, load_balancer_findings, lower_load_balancer
from headrace.config.schema import NO_EFFECT, Finding, Spec, refuse
from headrace.model.destination import (
    ClientTls,
    ConnectionPool,
    Http2Keepalive,
    OutlierDetection,
    PortPolicy,
    ProxyProtocol,
    RetryBudget,
    TcpKeepalive,
    TlsMode,
    TrafficPolicy,
    Tunnel,
)
from headrace.model.problem import Severity

CONFIGMAP = "configmap://"
MAX_PORT = 65535
BLOCKS = ("load_balancer", "connection_pool", "outlier_detection", "tls")


def _idle(value: object) -> float:
    """A duration where 0, and what is less than a millisecond, means "never"."""
    return 0.0 if abs(parse_duration(value)) < 0.001 else check_timespan(value)


class TcpKeepaliveSpec(Spec):
    """ConnectionPoolSettings.TCPSettings.TcpKeepalive."""

    probes: UInt32 = 0
    time: Timespan | None = None
    interval: Timespan | None = None


class TcpPoolSpec(Spec):
    """ConnectionPoolSettings.TCPSettings."""

    max_connections: Count = 0
    connect_timeout: Timespan | None = None
    tcp_keepalive: TcpKeepaliveSpec | None = None
    max_connection_duration: Timespan | None = None
    idle_timeout: Annotated[float, BeforeValidator(_idle)] | None = None


class ConnectionKeepaliveSpec(Spec):
    """ConnectionPoolSettings.HTTPSettings.ConnectionKeepalive."""

    interval: Timespan
    timeout: Timespan


class HttpPoolSpec(Spec):
    """ConnectionPoolSettings.HTTPSettings."""

    http1_max_pending_requests: Count = 0
    http2_max_requests: Count = 0
    max_requests_per_connection: Count = 0
    max_retries: Count = 0
    idle_timeout: Timespan | None = None
    h2_upgrade_policy: Annotated[str, Choice("DEFAULT", "DO_NOT_UPGRADE", "UPGRADE", numbered=True)] = "DEFAULT"
    use_client_protocol: Bool = False
    max_concurrent_streams: Count = 0
    http2_keep_alive: ConnectionKeepaliveSpec | None = None

    @model_validator(mode="after")
    def _protocol(self) -> HttpPoolSpec:
        if self.h2_upgrade_policy == "UPGRADE" and self.use_client_protocol:
            raise refuse("useClientProtocol excludes UPGRADE", "Keep one of them.", at=("useClientProtocol",))
        return self


class ConnectionPoolSpec(Spec):
    """ConnectionPoolSettings."""

    tcp: TcpPoolSpec | None = None
    http: HttpPoolSpec | None = None

    @model_validator(mode="after")
    def _something(self) -> ConnectionPoolSpec:
        if self.tcp is None and self.http is None:
            raise refuse("a connection pool needs tcp or http", "Add one, or take connectionPool out.")
        return self


class OutlierDetectionSpec(Spec):
    """OutlierDetection."""

    consecutive_errors: Int32 = 0
    split_external_local_origin_errors: Bool = False
    consecutive_local_origin_failures: UInt32 | None = None
    consecutive_gateway_errors: UInt32 | None = None
    consecutive_5xx_errors: UInt32 | None = Field(None, alias="consecutive5xxErrors")
    interval: Timespan | None = None
    base_ejection_time: Timespan | None = None
    max_ejection_percent: IntPercent | None = None
    min_health_percent: IntPercent | None = None
    outlier_detection_http_error_codes: list[Annotated[int, BeforeValidator(whole(100, 599))]] = []

    @model_validator(mode="after")
    def _local_origin(self) -> OutlierDetectionSpec:
        if self.consecutive_local_origin_failures and not self.split_external_local_origin_errors:
            raise refuse(
                "consecutiveLocalOriginFailures counts only where local errors are told apart",
                "Set splitExternalLocalOriginErrors: true.",
                at=("consecutiveLocalOriginFailures",),
            )
        return self


class ClientTlsSpec(Spec):
    """ClientTLSSettings."""

    mode: Annotated[TlsMode, EnumOf(TlsMode, {0: "DISABLE", 1: "SIMPLE", 2: "MUTUAL", 3: "ISTIO_MUTUAL"})] = (
        TlsMode.DISABLE
    )
    client_certificate: Text = ""
    private_key: Text = ""
    ca_certificates: Text = ""
    credential_name: Text = ""
    subject_alt_names: list[Text] | None = None
    sni: Text = ""
    insecure_skip_verify: Bool | None = None
    ca_crl: Text = ""

    @model_validator(mode="after")
    def _sources(self) -> ClientTlsSpec:
        own = self.mode in (TlsMode.SIMPLE, TlsMode.MUTUAL)
        if self.insecure_skip_verify and own:
            verifying = ["caCertificates"] if self.ca_certificates else []
            verifying += ["credentialName"] if self.credential_name and self.mode is TlsMode.SIMPLE else []
            verifying += ["subjectAltNames"] if self.subject_alt_names else []
            if verifying:
                remedy = "Verify, or skip it."
                raise refuse(f"insecureSkipVerify excludes {verifying[0]}", remedy, at=(verifying[0],))
        files = set_fields(self, "client_certificate", "ca_certificates", "private_key", "ca_crl")
        files = [name for name in files if getattr(self, name)]
        if self.credential_name and own:
            if files:
                raise refuse("credentialName excludes certificate files", "Keep one of them.", at=("credentialName",))
        elif self.mode is TlsMode.MUTUAL:
            for field, value in (("clientCertificate", self.client_certificate), ("privateKey", self.private_key)):
                if not value:
                    raise refuse(f"MUTUAL needs {field}", f"Add {field}, or credentialName.", at=(field,))
        return self


class PolicyPortSpec(Spec):
    """PortSelector of a policy; a number that is no port selects nothing."""

    number: UInt32 = 0


class PortPolicySpec(Spec):
    """TrafficPolicy.PortTrafficPolicy."""

    port: PolicyPortSpec
    load_balancer: LoadBalancerSpec | None = None
    connection_pool: ConnectionPoolSpec | None = None
    outlier_detection: OutlierDetectionSpec | None = None
    tls: ClientTlsSpec | None = None

    @model_validator(mode="after")
    def _something(self) -> PortPolicySpec:
        if not set_fields(self, *BLOCKS):
            raise refuse("settings of a port need at least one block", "Add tls, connectionPool ...")
        return self


class TunnelSpec(Spec):
    """TrafficPolicy.TunnelSettings."""

    protocol: Annotated[str, Choice("", "CONNECT", "POST")] = ""
    target_host: Text
    target_port: Port

    @model_validator(mode="after")
    def _host(self) -> TunnelSpec:
        why = why_not_fqdn(self.target_host)
        if why and not is_address(self.target_host):
            raise refuse(*host_problem(self.target_host, why), at=("targetHost",))
        return self


class ProxyProtocolSpec(Spec):
    """TrafficPolicy.ProxyProtocol."""

    version: Annotated[ProxyProtocol, EnumOf(ProxyProtocol, {0: "V1", 1: "V2"})] = ProxyProtocol.V1


class RetryBudgetSpec(Spec):
    """TrafficPolicy.RetryBudget."""

    percent: Percent | None = None
    min_retry_concurrency: UInt32 = 0
    budget_interval: AnyDuration | None = None


class TrafficPolicySpec(Spec):
    """TrafficPolicy."""

    load_balancer: LoadBalancerSpec | None = None
    connection_pool: ConnectionPoolSpec | None = None
    outlier_detection: OutlierDetectionSpec | None = None
    tls: ClientTlsSpec | None = None
    port_level_settings: Annotated[list[PortPolicySpec], Field(max_length=4096)] | None = None
    tunnel: TunnelSpec | None = None
    proxy_protocol: ProxyProtocolSpec | None = None
    retry_budget: RetryBudgetSpec | None = None

    @model_validator(mode="after")
    def _something(self) -> TrafficPolicySpec:
        if not (set_fields(self, *BLOCKS, "tunnel", "proxy_protocol", "retry_budget") or self.port_level_settings):
            raise refuse("a traffic policy needs at least one block", "Add loadBalancer, connectionPool ...")
        if self.tunnel is not None and self.proxy_protocol is not None:
            raise refuse("tunnel and proxyProtocol exclude each other", "Keep one of them.", at=("proxyProtocol",))
        return self


def policy_findings(spec: TrafficPolicySpec, namespace: str, path: Path) -> Iterator[Finding]:
    """What stands beyond the schema of a policy and its ports: deprecations, references."""
    yield from _block_findings(spec, namespace, path)
    for at, port in enumerate(spec.port_level_settings or ()):
        place: Path = (*path, "portLevelSettings", at)
        yield from _block_findings(port, namespace, place)
        if not 0 < port.port.number <= MAX_PORT:
            message = f"{port.port.number} is no port: these settings are for nothing"
            remedy = "Use a number from 1 to 65535."
            yield Finding((*place, "port", "number"), message, remedy, NO_EFFECT, Severity.WARNING)


def _block_findings(spec: TrafficPolicySpec | PortPolicySpec, namespace: str, path: Path) -> Iterator[Finding]:
    outlier = spec.outlier_detection
    if outlier is not None and outlier.consecutive_errors:
        place: Path = (*path, "outlierDetection", "consecutiveErrors")
        message = "consecutiveErrors is deprecated and does nothing"
        remedy = "Use consecutive5xxErrors or consecutiveGatewayErrors."
        yield warning(place, message, remedy)
        yield Finding(place, message, remedy, NO_EFFECT, Severity.WARNING)
    if spec.load_balancer is not None:
        yield from load_balancer_findings(spec.load_balancer, outlier is not None, (*path, "loadBalancer"))
    name = spec.tls.credential_name if spec.tls else ""
    if name.startswith(CONFIGMAP):
        owner, _, own = name.removeprefix(CONFIGMAP).partition("/")
        if owner != namespace or not own:
            place = (*path, "tls", "credentialName")
            message = f"{shown(name)} does not name a ConfigMap of this namespace"
            yield Finding(place, message, f"Write {CONFIGMAP}{namespace}/name.")


def lower_policy(spec: TrafficPolicySpec | None) -> TrafficPolicy | None:
    """The policy; ports in order of their numbers' appearance."""
    if spec is None:
        return None
    return TrafficPolicy(
        load_balancer=lower_load_balancer(spec.load_balancer) if spec.load_balancer else None,
        connection_pool=lower_pool(spec.connection_pool) if spec.connection_pool else None,
        outlier_detection=lower_outlier(spec.outlier_detection) if spec.outlier_detection else None,
        tls=_tls(spec.tls) if spec.tls else None,
        ports=tuple(
            PortPolicy(
                port=port.port.number,
                load_balancer=lower_load_balancer(port.load_balancer) if port.load_balancer else None,
                connection_pool=lower_pool(port.connection_pool) if port.connection_pool else None,
                outlier_detection=lower_outlier(port.outlier_detection) if port.outlier_detection else None,
                tls=_tls(port.tls) if port.tls else None,
            )
            for port in spec.port_level_settings or ()
        ),
        tunnel=_tunnel(spec.tunnel) if spec.tunnel else None,
        proxy_protocol=spec.proxy_protocol.version if spec.proxy_protocol else None,
        retry_budget=_budget(spec.retry_budget) if spec.retry_budget else None,
    )


def _tunnel(spec: TunnelSpec) -> Tunnel:
    return Tunnel(spec.target_host, spec.target_port, post=spec.protocol == "POST")


def _budget(spec: RetryBudgetSpec) -> RetryBudget:
    """The budget; a concurrency of 0 means "not written", as Istio reads it."""
    percent = 20.0 if spec.percent is None else spec.percent
    interval = spec.budget_interval or 0.0
    return RetryBudget(percent, spec.min_retry_concurrency or 3, interval if interval > 0 else None)


def lower_pool(spec: ConnectionPoolSpec) -> ConnectionPool:
    """The limits; 0 means "not written", as Istio reads it."""
    tcp, http = spec.tcp or TcpPoolSpec(), spec.http or HttpPoolSpec()
    keepalive, alive = tcp.tcp_keepalive, http.http2_keep_alive
    return ConnectionPool(
        max_connections=tcp.max_connections or None,
        connect_timeout=tcp.connect_timeout,
        tcp_keepalive=TcpKeepalive(keepalive.probes or None, keepalive.time, keepalive.interval) if keepalive else None,
        max_connection_duration=tcp.max_connection_duration,
        tcp_idle_timeout=tcp.idle_timeout,
        http1_max_pending_requests=http.http1_max_pending_requests or None,
        http2_max_requests=http.http2_max_requests or None,
        max_requests_per_connection=http.max_requests_per_connection or None,
        max_retries=http.max_retries or None,
        http_idle_timeout=http.idle_timeout,
        h2_upgrade_policy=http.h2_upgrade_policy,
        use_client_protocol=http.use_client_protocol,
        max_concurrent_streams=http.max_concurrent_streams or None,
        http2_keepalive=Http2Keepalive(alive.interval, alive.timeout) if alive else None,
    )


def lower_outlier(spec: OutlierDetectionSpec) -> OutlierDetection:
    """The ejection of a valid policy."""
    return OutlierDetection(
        consecutive_5xx_errors=spec.consecutive_5xx_errors,
        consecutive_gateway_errors=spec.consecutive_gateway_errors,
        consecutive_local_origin_failures=spec.consecutive_local_origin_failures,
        split_external_local_origin_errors=spec.split_external_local_origin_errors,
        interval=spec.interval,
        base_ejection_time=spec.base_ejection_time,
        max_ejection_percent=spec.max_ejection_percent or None,
        min_health_percent=spec.min_health_percent,
        http_error_codes=tuple(dict.fromkeys(spec.outlier_detection_http_error_codes)),
    )


def _tls(spec: ClientTlsSpec) -> ClientTls:
    return ClientTls(
        mode=spec.mode,
        sni=spec.sni,
        subject_alt_names=tuple(spec.subject_alt_names or ()),
        client_certificate=spec.client_certificate,
        private_key=spec.private_key,
        ca_certificates=spec.ca_certificates,
        ca_crl=spec.ca_crl,
        credential_name=spec.credential_name,
        insecure_skip_verify=spec.insecure_skip_verify,
    )
