"""Access logs: what a proxy writes of every request or connection, and to whom.

Called by everything that makes listeners. Telemetry decides where it speaks of logs; else MeshConfig's accessLogFile,
accessLogEncoding and accessLogFormat do. The formats are Istio's.
"""

from __future__ import annotations

import json
from typing import Any

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import extension_pb2, grpc_service_pb2, substitution_format_string_pb2
from envoy.extensions.access_loggers.file.v3 import file_pb2
from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2
from envoy.extensions.access_loggers.grpc.v3 import als_pb2
from envoy.extensions.access_loggers.open_telemetry.v3 import logs_service_pb2
from envoy.extensions.formatter.req_without_query.v3 import req_without_query_pb2

from headrace.envoy.translate.messages import packed
from headrace.envoy.translate.ways_in import NO_WAY_IN, WayIn
from headrace.model.mesh import MeshConfig
from headrace.model.telemetry import Log, LogFormat, ProviderKind

_LOG_FIELDS = (
    ("start_time", "START_TIME"),
    ("method", "REQ(:METHOD)"),
    ("path", "REQ(X-ENVOY-ORIGINAL-PATH?:PATH)"),
    ("protocol", "PROTOCOL"),
    ("response_code", "RESPONSE_CODE"),
    ("response_flags", "RESPONSE_FLAGS"),
    ("response_code_details", "RESPONSE_CODE_DETAILS"),
    ("connection_termination_details", "CONNECTION_TERMINATION_DETAILS"),
    ("upstream_transport_failure_reason", "UPSTREAM_TRANSPORT_FAILURE_REASON"),
    ("bytes_received", "BYTES_RECEIVED"),
    ("bytes_sent", "BYTES_SENT"),
    ("duration", "DURATION"),
    ("upstream_service_time", "RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)"),
    ("x_forwarded_for", "REQ(X-FORWARDED-FOR)"),
    ("user_agent", "REQ(USER-AGENT)"),
    ("request_id", "REQ(X-REQUEST-ID)"),
    ("authority", "REQ(:AUTHORITY)"),
    ("upstream_host", "UPSTREAM_HOST"),
    ("upstream_cluster", "UPSTREAM_CLUSTER_RAW"),
    ("upstream_local_address", "UPSTREAM_LOCAL_ADDRESS"),
    ("downstream_local_address", "DOWNSTREAM_LOCAL_ADDRESS"),
    ("downstream_remote_address", "DOWNSTREAM_REMOTE_ADDRESS"),
    ("requested_server_name", "REQUESTED_SERVER_NAME"),
    ("route_name", "ROUTE_NAME"),
)
"""Istio's access log: field of the JSON form → Envoy's command operator."""
_QUOTED = {"upstream_transport_failure_reason", "x_forwarded_for", "user_agent", "request_id", "authority"}
_QUOTED |= {"upstream_host"}
_WITHOUT_QUERY = "%REQ_WITHOUT_QUERY"
_NAMES = {
    ProviderKind.HTTP_LOG: ("envoy.access_loggers.http_grpc", "http_envoy_accesslog"),
    ProviderKind.TCP_LOG: ("envoy.tcp_grpc_access_log", "tcp_envoy_accesslog"),
    ProviderKind.OTEL_LOG: ("envoy.access_loggers.open_telemetry", "otel_envoy_accesslog"),
}
"""Logger, and what a log is called where nothing is written."""


def access_logs(mesh: MeshConfig, pools: WayIn = NO_WAY_IN, *, server: bool = False) -> list[Any]:
    """The access logs of one side: `server` of what the workload takes, else of what it sends (or a gateway passes on).
    The default JSON of a way into pools says also what the native module knows of the request."""
    side = mesh.observed.server if server else mesh.observed.client
    if side.logs is not None:
        return [_log(log, pools) for log in side.logs]
    if not mesh.access_log_file:
        return []
    form = LogFormat(text=mesh.access_log_format)
    if mesh.access_log_encoding == "JSON":
        form = LogFormat(json=mesh.access_log_format or "{}")
    return [_file_log(mesh.access_log_file, form, pools)]


def listener_access_logs(mesh: MeshConfig, *, server: bool = False) -> list[Any]:
    """The same logs for connections that no filter chain takes (response flag NR)."""
    if not mesh.listener_logs:
        return []
    logs = access_logs(mesh, server=server)
    unmatched = accesslog_pb2.AccessLogFilter(response_flag_filter=accesslog_pb2.ResponseFlagFilter(flags=["NR"]))
    for log in logs:
        if log.HasField("filter"):
            both = accesslog_pb2.AndFilter(filters=[unmatched, log.filter])
            log.filter.CopyFrom(accesslog_pb2.AccessLogFilter(and_filter=both))
        else:
            log.filter.CopyFrom(unmatched)
    return logs


def _log(log: Log, pools: WayIn) -> Any:
    """One log of a Telemetry's provider, with its condition."""
    provider = log.provider
    if provider.kind is ProviderKind.FILE_LOG:
        message = _file_log(provider.path, provider.format, pools)
    elif provider.kind is ProviderKind.OTEL_LOG:
        message = accesslog_pb2.AccessLog(name=_NAMES[provider.kind][0], typed_config=packed(_otel(log)))
    else:
        message = accesslog_pb2.AccessLog(name=_NAMES[provider.kind][0], typed_config=packed(_collected(log)))
    if log.expression:
        condition = packed(cel_pb2.ExpressionFilter(expression=log.expression))
        extension = accesslog_pb2.ExtensionFilter(
            name="envoy.access_loggers.extension_filters.cel", typed_config=condition
        )
        message.filter.CopyFrom(accesslog_pb2.AccessLogFilter(extension_filter=extension))
    return message


def _common(log: Log) -> Any:
    """What every logger that calls a collector over gRPC has."""
    provider = log.provider
    common = als_pb2.CommonGrpcAccessLogConfig(
        log_name=provider.log_name or _NAMES[provider.kind][1],
        transport_api_version=2,
        filter_state_objects_to_log=provider.filter_state,
    )
    common.grpc_service.envoy_grpc.CopyFrom(
        grpc_service_pb2.GrpcService.EnvoyGrpc(cluster_name=log.cluster, authority=log.host)
    )
    return common


def _collected(log: Log) -> Any:
    if log.provider.kind is ProviderKind.TCP_LOG:
        return als_pb2.TcpGrpcAccessLogConfig(common_config=_common(log))
    requests, answers, trailers = log.provider.headers_to_log
    return als_pb2.HttpGrpcAccessLogConfig(
        common_config=_common(log),
        additional_request_headers_to_log=requests,
        additional_response_headers_to_log=answers,
        additional_response_trailers_to_log=trailers,
    )


def _otel(log: Log) -> Any:
    """OpenTelemetry's log: the text is the body, labels are attributes."""
    form = log.provider.format
    config = logs_service_pb2.OpenTelemetryAccessLogConfig(common_config=_common(log), disable_builtin_labels=True)
    text = form.text or _default_text()
    config.body.string_value = text
    labels = json.loads(form.json) if form.json else {}
    for name, value in sorted(labels.items()):
        config.attributes.values.add(key=name).value.string_value = value if isinstance(value, str) else ""
    config.formatters.extend(_formatters(text, form.json))
    return config


def _file_log(path: str, form: LogFormat, pools: WayIn) -> Any:
    log = file_pb2.FileAccessLog(path=path, log_format=_written(form, pools))
    return accesslog_pb2.AccessLog(name="envoy.access_loggers.file", typed_config=packed(log))


def _written(form: LogFormat, pools: WayIn) -> Any:
    written = substitution_format_string_pb2.SubstitutionFormatString(omit_empty_values=form.omit_empty)
    written.formatters.extend(_formatters(form.text, form.json))
    if form.json:
        written.json_format.update(_json_fields(form.json, pools))
        written.json_format_options.sort_properties = False
        return written
    text = form.text or _default_text()
    written.text_format_source.inline_string = text if text.endswith("\n") else text + "\n"
    return written


def _formatters(*texts: str) -> list[Any]:
    """What Envoy needs beside its own operators."""
    if not any(_WITHOUT_QUERY in text for text in texts):
        return []
    config = packed(req_without_query_pb2.ReqWithoutQuery())
    return [extension_pb2.TypedExtensionConfig(name="envoy.formatter.req_without_query", typed_config=config)]


def _json_fields(text: str, pools: WayIn) -> dict[str, Any]:
    """The fields of a JSON access log; none, or text that is not a JSON object, gives Istio's default fields."""
    default = {name: f"%{operator}%" for name, operator in _LOG_FIELDS} | pools.log_fields()
    try:
        fields = json.loads(text)
    except ValueError:
        return default
    return fields if isinstance(fields, dict) and fields else default


def _default_text() -> str:
    """Istio's default line, composed of the same operators as its JSON form."""
    operators = {name: f'"%{value}%"' if name in _QUOTED else f"%{value}%" for name, value in _LOG_FIELDS}
    request = f'"{operators.pop("method")} {operators.pop("path")} {operators.pop("protocol")}"'
    return f"[{operators.pop('start_time')}] {request} " + " ".join(operators.values()) + "\n"
