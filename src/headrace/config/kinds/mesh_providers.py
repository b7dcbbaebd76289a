"""MeshConfig.extensionProviders: tracers, access loggers and authorizers by name.

Used by `mesh_config`. Judged in full, acted on when Telemetry and authorization come.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from headrace.config.fields import Bool, Choice, Count, Int32, Int64, NonEmpty, Text, UInt32, whole
from headrace.config.kinds.istio_names import Timespan, at_most_one, set_fields
from headrace.config.schema import Spec, refuse

_TRACE_CONTEXT = ("UNSPECIFIED", "W3C_TRACE_CONTEXT", "GRPC_BIN", "CLOUD_TRACE_CONTEXT", "B3")


class AuthzBody(Spec):
    """EnvoyExternalAuthorizationRequestBody."""

    max_request_bytes: UInt32 = 0
    allow_partial_message: Bool = False
    pack_as_bytes: Bool = False


class Backend(Spec):
    """What most providers have: a service of the mesh and its port."""

    service: NonEmpty
    port: Annotated[int, BeforeValidator(whole(0, 65535))] = 0


class AuthzHttp(Backend):
    """EnvoyExternalAuthorizationHttpProvider."""

    timeout: Timespan | None = None
    path_prefix: Text = ""
    fail_open: Bool = False
    clear_route_cache: Bool = False
    status_on_error: Text = ""
    include_headers_in_check: list[Text] = []
    include_request_headers_in_check: list[Text] = []
    include_additional_headers_in_check: dict[str, Text] = {}
    include_request_body_in_check: AuthzBody | None = None
    headers_to_upstream_on_allow: list[Text] = []
    headers_to_downstream_on_deny: list[Text] = []
    headers_to_downstream_on_allow: list[Text] = []


class AuthzGrpc(Backend):
    """EnvoyExternalAuthorizationGrpcProvider."""

    timeout: Timespan | None = None
    fail_open: Bool = False
    clear_route_cache: Bool = False
    status_on_error: Text = ""
    include_request_body_in_check: AuthzBody | None = None


class HeaderValueSpec(Spec):
    """HttpHeader."""

    name: NonEmpty
    value: Text | None = None
    env_name: Text | None = None

    @model_validator(mode="after")
    def _one_value(self) -> HeaderValueSpec:
        at_most_one(self, "value", "env_name")
        return self


class Zipkin(Backend):
    """ZipkinTracingProvider."""

    max_tag_length: UInt32 = 0
    enable_64bit_trace_id: Annotated[Bool, Field(alias="enable64bitTraceId")] = False
    path: Text = ""
    trace_context_option: Annotated[str, Choice("USE_B3", "USE_B3_WITH_W3C_PROPAGATION", numbered=True)] = "USE_B3"
    timeout: Timespan | None = None
    headers: list[HeaderValueSpec] = []


class TokenTracer(Backend):
    """LightstepTracingProvider and SkyWalkingTracingProvider."""

    access_token: Annotated[Text, Field(repr=False)] = ""
    max_tag_length: UInt32 = 0


class SkyWalking(Backend):
    """SkyWalkingTracingProvider."""

    access_token: Annotated[Text, Field(repr=False)] = ""


class Datadog(Backend):
    """DatadogTracingProvider."""

    max_tag_length: UInt32 = 0


class StackdriverLogging(Spec):
    labels: dict[str, Text] = {}


class Stackdriver(Spec):
    """StackdriverProvider."""

    debug: Bool = False
    max_number_of_attributes: Int64 | None = None
    max_number_of_annotations: Int64 | None = None
    max_number_of_message_events: Int64 | None = None
    max_tag_length: UInt32 = 0
    logging: StackdriverLogging | None = None


class OpenCensus(Backend):
    """OpenCensusAgentTracingProvider."""

    context: list[Annotated[str, Choice(*_TRACE_CONTEXT, numbered=True)]] = []
    max_tag_length: UInt32 = 0


class HttpService(Spec):
    path: Text = ""
    timeout: Timespan | None = None
    headers: list[HeaderValueSpec] = []


class GrpcService(Spec):
    timeout: Timespan | None = None
    initial_metadata: list[HeaderValueSpec] = []


class Empty(Spec):
    """A message without fields."""


class Detectors(Spec):
    """ResourceDetectors."""

    environment: Empty | None = None
    dynatrace: Empty | None = None


class DynatraceApi(Backend):
    http: HttpService


class DynatraceSampler(Spec):
    tenant: NonEmpty
    cluster_id: Int32 = 0
    root_spans_per_minute: UInt32 = 0
    http_service: DynatraceApi | None = None


class OpenTelemetry(Backend):
    """OpenTelemetryTracingProvider."""

    max_tag_length: UInt32 = 0
    http: HttpService | None = None
    grpc: GrpcService | None = None
    resource_detectors: Detectors | None = None
    service_attribute_enrichment: Annotated[
        str, Choice("ISTIO_CANONICAL", "OTEL_SEMANTIC_CONVENTIONS", numbered=True)
    ] = "ISTIO_CANONICAL"
    dynatrace_sampler: DynatraceSampler | None = None


class LogFormat(Spec):
    """LogFormat of the access loggers."""

    text: Text | None = None
    labels: dict[str, Any] | None = None


class FileLog(Spec):
    """EnvoyFileAccessLogProvider."""

    path: Text = ""
    log_format: LogFormat | None = None
    omit_empty_values: Bool = False

    @model_validator(mode="after")
    def _one_format(self) -> FileLog:
        if self.log_format is not None:
            at_most_one(self.log_format, "text", "labels")
        return self


class TcpLog(Backend):
    """EnvoyTcpGrpcV3LogProvider."""

    log_name: Text = ""
    filter_state_objects_to_log: list[Text] = []


class HttpLog(TcpLog):
    """EnvoyHttpGrpcV3LogProvider."""

    additional_request_headers_to_log: list[Text] = []
    additional_response_headers_to_log: list[Text] = []
    additional_response_trailers_to_log: list[Text] = []


class OtelLog(Backend):
    """EnvoyOpenTelemetryLogProvider."""

    log_name: Text = ""
    log_format: LogFormat | None = None


class Sds(Spec):
    """SDSProvider."""

    name: NonEmpty
    service: NonEmpty
    port: Count = 0


_PROVIDERS = (
    "envoy_ext_authz_http",
    "envoy_ext_authz_grpc",
    "zipkin",
    "lightstep",
    "datadog",
    "stackdriver",
    "opencensus",
    "skywalking",
    "opentelemetry",
    "prometheus",
    "envoy_file_access_log",
    "envoy_http_als",
    "envoy_tcp_als",
    "envoy_otel_als",
    "sds",
)


class ExtensionProvider(Spec):
    """ExtensionProvider: a name and exactly one provider."""

    name: NonEmpty
    envoy_ext_authz_http: AuthzHttp | None = None
    envoy_ext_authz_grpc: AuthzGrpc | None = None
    zipkin: Zipkin | None = None
    lightstep: TokenTracer | None = None
    datadog: Datadog | None = None
    stackdriver: Stackdriver | None = None
    opencensus: OpenCensus | None = None
    skywalking: SkyWalking | None = None
    opentelemetry: OpenTelemetry | None = None
    prometheus: Empty | None = None
    envoy_file_access_log: FileLog | None = None
    envoy_http_als: HttpLog | None = None
    envoy_tcp_als: TcpLog | None = None
    envoy_otel_als: OtelLog | None = None
    sds: Sds | None = None

    @model_validator(mode="after")
    def _one_provider(self) -> ExtensionProvider:
        at_most_one(self, *_PROVIDERS)
        if not set_fields(self, *_PROVIDERS):
            raise refuse("a provider must say what it is", "Add one, such as opentelemetry or envoyFileAccessLog.")
        return self
