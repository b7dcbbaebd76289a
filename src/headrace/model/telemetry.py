"""What proxies say of the traffic (istio.telemetry.v1.Telemetry), and to whom (MeshConfig.extensionProviders).

Made by `config.kinds.telemetry` and `config.kinds.mesh_providers`; `registry.telemetry` settles what a workload's
documents say together, `envoy.translate.access_log` and `envoy.translate.tracing` translate it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from headrace.model.policy import PolicyScope
from headrace.model.resource import Metadata
from headrace.model.traffic import Pairs


class WorkloadMode(StrEnum):
    """Which side of a request is meant: its caller's, its server's, or both."""

    CLIENT_AND_SERVER = "CLIENT_AND_SERVER"
    CLIENT = "CLIENT"
    SERVER = "SERVER"


@dataclass(frozen=True, slots=True)
class AccessLogging:
    """One item of Telemetry.accessLogging; `expression` is CEL ('' : everything is logged), `disabled` None: not
    written."""

    mode: WorkloadMode = WorkloadMode.CLIENT_AND_SERVER
    providers: tuple[str, ...] = ()
    disabled: bool | None = None
    expression: str = ""


class TagSource(StrEnum):
    """Where a span's tag comes from."""

    LITERAL = "literal"
    ENVIRONMENT = "environment"
    HEADER = "header"
    FORMATTER = "formatter"


@dataclass(frozen=True, slots=True, order=True)
class SpanTag:
    """A tag of spans: its `name`, and its text, variable, header or format, with what stands for a missing one."""

    name: str
    source: TagSource
    value: str
    default: str = ""


@dataclass(frozen=True, slots=True)
class Tracing:
    """One item of Telemetry.tracing; None: not written. `sampling` is a percentage."""

    mode: WorkloadMode = WorkloadMode.CLIENT_AND_SERVER
    providers: tuple[str, ...] = ()
    sampling: float | None = None
    disabled: bool | None = None
    tags: tuple[SpanTag, ...] | None = None
    by_request_id: bool | None = None
    istio_tags: bool | None = None
    keep_context: bool | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Telemetry:
    """A Telemetry document. Its metrics are judged and not kept: Istio's own statistics are no part of Envoy."""

    meta: Metadata
    scope: PolicyScope
    access_logging: tuple[AccessLogging, ...] = ()
    tracing: tuple[Tracing, ...] = ()


class ProviderKind(StrEnum):
    """A provider of MeshConfig.extensionProviders that Envoy can write logs or spans to."""

    FILE_LOG = "envoyFileAccessLog"
    HTTP_LOG = "envoyHttpAls"
    TCP_LOG = "envoyTcpAls"
    OTEL_LOG = "envoyOtelAls"
    ZIPKIN = "zipkin"
    DATADOG = "datadog"
    SKYWALKING = "skywalking"
    OPENTELEMETRY = "opentelemetry"

    @property
    def logs(self) -> bool:
        """Whether it takes access logs (the others take spans)."""
        return self in (ProviderKind.FILE_LOG, ProviderKind.HTTP_LOG, ProviderKind.TCP_LOG, ProviderKind.OTEL_LOG)


@dataclass(frozen=True, slots=True)
class LogFormat:
    """How a line is written: `text` with Envoy's operators, or `json`, the text of a JSON object of such texts. Both
    empty: Istio's default line."""

    text: str = ""
    json: str = ""
    omit_empty: bool = False


@dataclass(frozen=True, slots=True)
class Exporter:
    """How a collector is spoken to: HTTP (`path`) or gRPC. `headers` are name and value; `timeout` in seconds, None:
    Envoy's own."""

    http: bool = False
    path: str = ""
    timeout: float | None = None
    headers: Pairs = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider of logs or spans. `service` and `port` name the collector (FILE_LOG: `path` instead).

    `headers_to_log` are those of requests, answers and trailers; `wide_ids` traces of 128 bits; `semantic` the names of
    OpenTelemetry's conventions;
    """

    name: str
    kind: ProviderKind
    service: str = ""
    port: int = 0
    path: str = ""
    format: LogFormat = LogFormat()
    log_name: str = ""
    filter_state: tuple[str, ...] = ()
    headers_to_log: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]] = ((), (), ())
    exporter: Exporter = Exporter()
    max_tag_length: int = 0
    wide_ids: bool = True
    w3c: bool = False
    detectors: tuple[str, ...] = ()
    semantic: bool = False
    sampler: Sampler | None = None


ENVOY_LOG = Provider("envoy", ProviderKind.FILE_LOG, path="/dev/stdout")
"""The log that is there without being declared: to the standard output."""


@dataclass(frozen=True, slots=True)
class Sampler:
    """Dynatrace's sampler. `service` empty: the provider's own collector is asked."""

    tenant: str
    cluster_id: int = 0
    spans_per_minute: int = 0
    service: str = ""
    port: int = 0
    exporter: Exporter = Exporter()


@dataclass(frozen=True, slots=True)
class Log:
    """One log that a side of a proxy writes: the provider, the cluster of its collector ('' : none is needed) and the
    host by which it is called; `expression` says in CEL what is logged ('' : all)."""

    provider: Provider
    cluster: str = ""
    host: str = ""
    expression: str = ""


@dataclass(frozen=True, slots=True)
class Spans:
    """What one side of a proxy does with traces. `provider` None: spans go nowhere and only the decision is handed on
    (MeshConfig.enableTracing alone). `by_request_id` None: Envoy's own rule."""

    provider: Provider | None
    cluster: str = ""
    host: str = ""
    sampler_cluster: str = ""
    sampler_host: str = ""
    sampling: float = 1.0
    tags: tuple[SpanTag, ...] = ()
    istio_tags: bool = True
    by_request_id: bool | None = None
    keep_context: bool = False
    max_tag_length: int = 0


@dataclass(frozen=True, slots=True)
class MeshTracing:
    """What MeshConfig says of traces: `enabled` (enableTracing) and its defaultConfig.tracing, which fills in what
    Telemetry leaves open. `sampling` 0: not written."""

    enabled: bool = False
    sampling: float = 0.0
    tags: tuple[SpanTag, ...] = ()
    istio_tags: bool = True
    max_tag_length: int = 0


@dataclass(frozen=True, slots=True)
class Producer:
    """Who a proxy's spans come from: Envoy's name for it (`workload.namespace`), the workload, and what Istio's tags
    say of it."""

    service: str = ""
    workload: str = ""
    canonical: str = "unknown"
    revision: str = "latest"
    namespace: str = "default"
    mesh: str = "unknown"
    cluster: str = "unknown"


UNTRACED = MeshTracing()
"""MeshConfig without a word of traces."""


@dataclass(frozen=True, slots=True)
class Side:
    """What one side of a proxy says of its traffic. `logs` None: no document speaks of logs, MeshConfig's accessLogFile
    counts."""

    logs: tuple[Log, ...] | None = None
    spans: Spans | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """Both sides of a proxy: requests that it sends (a gateway: that it passes on), and those that it takes."""

    client: Side = Side()
    server: Side = Side()

    @property
    def traced(self) -> bool:
        """Whether spans are made, which say whose they are."""
        return self.client.spans is not None or self.server.spans is not None


UNOBSERVED = Observed()
"""Nothing beyond MeshConfig's accessLogFile."""
