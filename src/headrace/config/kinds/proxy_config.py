"""MeshConfig.defaultConfig: settings of single proxies (istio.mesh.v1alpha1.ProxyConfig).

Used by `mesh_config`. Judged in full; Headrace writes its proxies' bootstraps itself, so none has an effect yet.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from headrace.config.fields import Bool, Choice, Count, Duration, Int32, NonEmpty, Text, UInt32, number, whole
from headrace.config.kinds.istio_names import Timespan, at_most_one, set_fields
from headrace.config.kinds.mesh_providers import Empty
from headrace.config.kinds.mesh_values import FullAddress, PositiveTime, ProxyAddress, WholeSeconds
from headrace.config.kinds.traffic_policy import ClientTlsSpec, TcpKeepaliveSpec
from headrace.config.schema import Spec, refuse
from headrace.model.mesh import GatewayTopology

Positive = Annotated[int, BeforeValidator(whole(1, 2**31 - 1))]
Window = Annotated[int, BeforeValidator(whole(65535, 2**31 - 1))]
PortOrNone = Annotated[int, BeforeValidator(whole(0, 65535))]
_CERT_DETAILS = Choice(
    "UNDEFINED", "SANITIZE", "FORWARD_ONLY", "APPEND_FORWARD", "SANITIZE_SET", "ALWAYS_FORWARD_ONLY", numbered=True
)
_TRACE_CONTEXT = ("UNSPECIFIED", "W3C_TRACE_CONTEXT", "GRPC_BIN", "CLOUD_TRACE_CONTEXT", "B3")


class TracerAddress(Spec):
    """Tracing.Zipkin and Tracing.Datadog."""

    address: FullAddress


class Lightstep(TracerAddress):
    access_token: Annotated[NonEmpty, Field(repr=False)]


class StackdriverTracer(Spec):
    debug: Bool = False
    max_number_of_attributes: Count | None = None
    max_number_of_annotations: Count | None = None
    max_number_of_message_events: Count | None = None


class OpenCensusTracer(Spec):
    address: Text = ""
    context: list[Annotated[str, Choice(*_TRACE_CONTEXT, numbered=True)]] = []


class TagLiteral(Spec):
    value: Text = ""


class TagSource(Spec):
    name: NonEmpty
    default_value: Text = ""


class CustomTag(Spec):
    """Tracing.CustomTag: exactly one source."""

    literal: TagLiteral | None = None
    environment: TagSource | None = None
    header: TagSource | None = None

    @model_validator(mode="after")
    def _one_source(self) -> CustomTag:
        at_most_one(self, "literal", "environment", "header")
        return self


class Tracing(Spec):
    """Tracing."""

    zipkin: TracerAddress | None = None
    lightstep: Lightstep | None = None
    datadog: TracerAddress | None = None
    stackdriver: StackdriverTracer | None = None
    open_census_agent: OpenCensusTracer | None = None
    custom_tags: dict[str, CustomTag] = {}
    max_path_tag_length: UInt32 = 0
    sampling: Annotated[float, BeforeValidator(number(0.0, 100.0))] = 0.0
    tls_settings: ClientTlsSpec | None = None
    enable_istio_tags: Bool | None = None

    @model_validator(mode="after")
    def _one_tracer(self) -> Tracing:
        at_most_one(self, "zipkin", "lightstep", "datadog", "stackdriver", "open_census_agent")
        return self


class SdsSettings(Spec):
    enabled: Bool = False
    k8s_sa_jwt_path: Text = ""


class Topology(Spec):
    """Topology of gateways."""

    num_trusted_proxies: UInt32 = 0
    forward_client_cert_details: Annotated[str, _CERT_DETAILS] = "UNDEFINED"
    proxy_protocol: Empty | None = None


def lower_topology(spec: ProxyConfigSpec | None) -> GatewayTopology:
    """The topology of gateways; defaults where nothing is written."""
    topology = spec.gateway_topology if spec is not None else None
    if topology is None:
        return GatewayTopology()
    details = topology.forward_client_cert_details
    return GatewayTopology(
        trusted_proxies=topology.num_trusted_proxies,
        client_certificates="" if details == "UNDEFINED" else details,
        proxy_protocol=topology.proxy_protocol is not None,
    )


class KeyProvider(Spec):
    poll_delay: PositiveTime
    fallback: Bool | None = None


class PrivateKeyProvider(Spec):
    cryptomb: KeyProvider | None = None
    qat: KeyProvider | None = None

    @model_validator(mode="after")
    def _one_provider(self) -> PrivateKeyProvider:
        at_most_one(self, "cryptomb", "qat")
        if not set_fields(self, "cryptomb", "qat"):
            raise refuse("a provider of private keys must say which it is", "Add cryptomb or qat, or take it out.")
        return self


class ProxyStatsMatcher(Spec):
    inclusion_prefixes: list[Text] = []
    inclusion_suffixes: list[Text] = []
    inclusion_regexps: list[Text] = []


class RemoteService(Spec):
    address: ProxyAddress = ""
    tls_settings: ClientTlsSpec | None = None
    tcp_keepalive: TcpKeepaliveSpec | None = None


class Disabled(Spec):
    disabled: Bool | None = None


class Enabled(Spec):
    enabled: Bool | None = None


class ServerHeader(Disabled):
    value: Text = ""


class MetadataExchange(Spec):
    mode: Annotated[str, Choice("UNDEFINED", "IN_MESH", numbered=True)] = "UNDEFINED"


class CertDetails(Spec):
    subject: Bool | None = None
    cert: Bool | None = None
    chain: Bool | None = None
    dns: Bool | None = None
    uri: Bool | None = None


class ProxyHeaders(Spec):
    """ProxyConfig.ProxyHeaders."""

    forwarded_client_cert: Annotated[str, _CERT_DETAILS] = "UNDEFINED"
    set_current_client_cert_details: CertDetails | None = None
    request_id: Disabled | None = None
    server: ServerHeader | None = None
    attempt_count: Disabled | None = None
    envoy_debug_headers: Disabled | None = None
    metadata_exchange_headers: MetadataExchange | None = None
    preserve_http1_header_case: Bool | None = None
    x_forwarded_host: Enabled | None = None
    x_forwarded_port: Enabled | None = None


class ConnectionSettings(Spec):
    """ProxyConfig.ConnectionSettings."""

    profile: Annotated[str, Choice("SIDECAR", "EDGE", numbered=True)] = "SIDECAR"
    listener_per_connection_buffer_limit_bytes: Count | None = None
    cluster_per_connection_buffer_limit_bytes: Count | None = None
    http_idle_timeout: Duration | None = None
    http_max_connection_duration: Duration | None = None
    http_drain_timeout: Duration | None = None
    http_request_timeout: Duration | None = None
    http_request_headers_timeout: Duration | None = None
    http_stream_idle_timeout: Duration | None = None
    http_max_stream_duration: Duration | None = None
    http_max_concurrent_streams: Positive | None = None
    http2_initial_stream_window_size: Window | None = None
    http2_initial_connection_window_size: Window | None = None
    http_headers_with_underscores_action: Annotated[
        str,
        Choice(
            "HEADERS_WITH_UNDERSCORES_UNSPECIFIED",
            "HEADERS_WITH_UNDERSCORES_ALLOW",
            "HEADERS_WITH_UNDERSCORES_REJECT_REQUEST",
            "HEADERS_WITH_UNDERSCORES_DROP_HEADER",
            numbered=True,
        ),
    ] = "HEADERS_WITH_UNDERSCORES_UNSPECIFIED"
    http_merge_slashes: Bool | None = None
    http_path_with_escaped_slashes_action: Annotated[
        str,
        Choice(
            "PATH_WITH_ESCAPED_SLASHES_UNSPECIFIED",
            "KEEP_UNCHANGED",
            "REJECT_REQUEST",
            "UNESCAPE_AND_REDIRECT",
            "UNESCAPE_AND_FORWARD",
            numbered=True,
        ),
    ] = "PATH_WITH_ESCAPED_SLASHES_UNSPECIFIED"
    listener_connection_limit: Positive | None = None
    global_downstream_connection_limit: Positive | None = None


class ProbeHeader(Spec):
    name: Text = ""
    value: Text = ""


class ProbeHttp(Spec):
    path: Text = ""
    port: PortOrNone = 0
    host: Text = ""
    scheme: Text = ""
    http_headers: list[ProbeHeader] = []


class ProbeTcp(Spec):
    host: Text = ""
    port: PortOrNone = 0


class ProbeExec(Spec):
    command: list[Text] = []


class ProbeGrpc(Spec):
    service: Text = ""
    port: PortOrNone = 0


class ReadinessProbe(Spec):
    """istio.networking.v1.ReadinessProbe."""

    initial_delay_seconds: Count = 0
    timeout_seconds: Count = 0
    period_seconds: Count = 0
    success_threshold: Count = 0
    failure_threshold: Count = 0
    http_get: ProbeHttp | None = None
    tcp_socket: ProbeTcp | None = None
    exec: ProbeExec | None = None
    grpc: ProbeGrpc | None = None


class ProxyImage(Spec):
    image_type: Text = ""


class ProxyConfigSpec(Spec):
    """ProxyConfig."""

    config_path: Text = ""
    binary_path: Text = ""
    service_cluster: NonEmpty | None = None
    tracing_service_name: (
        Annotated[
            str,
            Choice("APP_LABEL_AND_NAMESPACE", "CANONICAL_NAME_ONLY", "CANONICAL_NAME_AND_NAMESPACE", numbered=True),
        ]
        | None
    ) = None
    drain_duration: WholeSeconds | None = None
    discovery_address: ProxyAddress = ""
    discovery_refresh_delay: Timespan | None = None
    zipkin_address: Text = ""
    statsd_udp_address: ProxyAddress = ""
    envoy_metrics_service_address: ProxyAddress = ""
    proxy_admin_port: PortOrNone = 0
    availability_zone: Text = ""
    control_plane_auth_policy: Annotated[str, Choice("NONE", "MUTUAL_TLS", numbered=True)] = "NONE"
    custom_config_file: Text = ""
    stat_name_length: Int32 = 0
    concurrency: Count | None = None
    proxy_bootstrap_template_path: Text = ""
    interception_mode: Annotated[str, Choice("REDIRECT", "TPROXY", "NONE", numbered=True)] = "REDIRECT"
    tracing: Tracing | None = None
    sds: SdsSettings | None = None
    envoy_access_log_service: RemoteService | None = None
    envoy_metrics_service: RemoteService | None = None
    proxy_metadata: dict[str, Text] = {}
    runtime_values: dict[str, Text] = {}
    status_port: PortOrNone = 0
    extra_stat_tags: list[Text] = []
    gateway_topology: Topology | None = None
    termination_drain_duration: Duration | None = None
    mesh_id: Text = ""
    readiness_probe: ReadinessProbe | None = None
    proxy_stats_matcher: ProxyStatsMatcher | None = None
    hold_application_until_proxy_starts: Bool | None = None
    ca_certificates_pem: list[Text] = []
    image: ProxyImage | None = None
    private_key_provider: PrivateKeyProvider | None = None
    proxy_headers: ProxyHeaders | None = None
    file_flush_interval: Timespan | None = None
    file_flush_min_size_kb: UInt32 = 0
    stats_compression: Bool | None = None
    connection_settings: ConnectionSettings | None = None

    @model_validator(mode="after")
    def _one_name(self) -> ProxyConfigSpec:
        at_most_one(self, "service_cluster", "tracing_service_name")
        return self
