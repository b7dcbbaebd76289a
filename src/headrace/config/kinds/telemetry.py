"""Telemetry (telemetry.istio.io): what proxies log of the traffic, which traces they write, and (judged only) metrics.

Lowered to `model.telemetry.Telemetry`. The rules are Istio's (ValidateTelemetry) and those of its CRD; what providers
there are is said by MeshConfig.extensionProviders.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import BeforeValidator, model_validator

from headrace.config.cel import why_not_cel
from headrace.config.documents import Document, Path
from headrace.config.fields import Bool, Choice, EnumOf, NonEmpty, Text, number
from headrace.config.kinds.istio_names import Timespan, at_most_one, set_fields, warning
from headrace.config.kinds.policy_scope import ScopedSpec, lower_scope, scope_findings
from headrace.config.schema import NO_EFFECT, Finding, Kind, Spec
from headrace.model.problem import Severity
from headrace.model.resource import Metadata
from headrace.model.telemetry import AccessLogging, SpanTag, TagSource, Telemetry, Tracing, WorkloadMode

Mode = Annotated[WorkloadMode, EnumOf(WorkloadMode, dict(enumerate(WorkloadMode)))]
_METRICS = (
    "ALL_METRICS",
    "REQUEST_COUNT",
    "REQUEST_DURATION",
    "REQUEST_SIZE",
    "RESPONSE_SIZE",
    "TCP_OPENED_CONNECTIONS",
    "TCP_CLOSED_CONNECTIONS",
    "TCP_SENT_BYTES",
    "TCP_RECEIVED_BYTES",
    "GRPC_REQUEST_MESSAGES",
    "GRPC_RESPONSE_MESSAGES",
)


class ProviderRef(Spec):
    name: NonEmpty


class ModeSelector(Spec):
    """Tracing.TracingSelector and AccessLogging.LogSelector."""

    mode: Mode = WorkloadMode.CLIENT_AND_SERVER


class Literal(Spec):
    value: NonEmpty


class Named(Spec):
    """Tracing.Environment and Tracing.RequestHeader."""

    name: NonEmpty
    default_value: Text = ""


class CustomTag(Spec):
    """Tracing.CustomTag."""

    literal: Literal | None = None
    environment: Named | None = None
    header: Named | None = None
    formatter: Literal | None = None

    @model_validator(mode="after")
    def _one_source(self) -> CustomTag:
        at_most_one(self, "literal", "environment", "header", "formatter")
        return self


class TracingSpec(Spec):
    """Tracing."""

    match: ModeSelector | None = None
    providers: list[ProviderRef] = []
    random_sampling_percentage: Annotated[float, BeforeValidator(number(0.0, 100.0))] | None = None
    disable_span_reporting: Bool | None = None
    custom_tags: dict[NonEmpty, CustomTag] | None = None
    use_request_id_for_trace_sampling: Bool | None = None
    enable_istio_tags: Bool | None = None
    disable_context_propagation: Bool | None = None


class TagOverride(Spec):
    """MetricsOverrides.TagOverride."""

    operation: Annotated[str, Choice("UPSERT", "REMOVE", numbered=True)] = "UPSERT"
    value: Text = ""


class MetricSelector(Spec):
    metric: Annotated[str, Choice(*_METRICS, numbered=True)] | None = None
    custom_metric: NonEmpty | None = None
    mode: Mode = WorkloadMode.CLIENT_AND_SERVER

    @model_validator(mode="after")
    def _one_metric(self) -> MetricSelector:
        at_most_one(self, "metric", "custom_metric")
        return self


class MetricsOverrides(Spec):
    match: MetricSelector | None = None
    disabled: Bool | None = None
    tag_overrides: dict[Text, TagOverride] = {}


class MetricsSpec(Spec):
    """Metrics."""

    providers: list[ProviderRef] = []
    overrides: list[MetricsOverrides] = []
    reporting_interval: Timespan | None = None


class LogFilter(Spec):
    expression: Text = ""


class AccessLoggingSpec(Spec):
    """AccessLogging."""

    match: ModeSelector | None = None
    providers: list[ProviderRef] = []
    disabled: Bool | None = None
    filter: LogFilter | None = None


class TelemetrySpec(ScopedSpec):
    """Telemetry."""

    tracing: list[TracingSpec] = []
    metrics: list[MetricsSpec] = []
    access_logging: list[AccessLoggingSpec] = []


def _check(spec: TelemetrySpec, document: Document) -> Iterator[Finding]:
    yield from scope_findings(spec)
    if len(spec.tracing) > 1:
        yield warning(("spec", "tracing"), "several items are not supported, in Istio either", "Keep one.")
    for at, tracing in enumerate(spec.tracing):
        path: Path = ("spec", "tracing", at)
        if len(tracing.providers) > 1:
            yield warning((*path, "providers"), "of several providers the first is used", "Keep one.")
        for name, tag in (tracing.custom_tags or {}).items():
            if not set_fields(tag, "literal", "environment", "header", "formatter"):
                message = "a tag that says nothing of its value is left out"
                yield Finding((*path, "customTags", name), message, "", NO_EFFECT, Severity.WARNING)
    for at, metrics in enumerate(spec.metrics):
        yield from _metrics_findings(metrics, ("spec", "metrics", at))
    for at, logging in enumerate(spec.access_logging):
        if logging.filter is not None and (why := why_not_cel(logging.filter.expression)):
            path = ("spec", "accessLogging", at, "filter", "expression")
            yield Finding(path, f"is no CEL expression: {why}", "Write one such as response.code >= 400.")


def _metrics_findings(spec: MetricsSpec, path: Path) -> Iterator[Finding]:
    message = "Istio's metrics come from a filter that Envoy does not have: what is said of them has no effect"
    yield Finding(path, message, "", NO_EFFECT, Severity.WARNING)
    for at, override in enumerate(spec.overrides):
        for name, tag in override.tag_overrides.items():
            place = (*path, "overrides", at, "tagOverrides", name)
            if tag.operation == "UPSERT" and not tag.value:
                yield Finding((*place, "value"), "UPSERT needs a value", "Add value, or write operation: REMOVE.")
            elif tag.operation == "REMOVE" and tag.value:
                yield Finding((*place, "value"), "REMOVE takes no value", "Take the value out.")


def _lower(meta: Metadata, spec: TelemetrySpec, document: Document) -> Telemetry:
    return Telemetry(
        meta=meta,
        scope=lower_scope(spec),
        access_logging=tuple(_lower_logging(item) for item in spec.access_logging),
        tracing=tuple(_lower_tracing(item) for item in spec.tracing),
    )


def _lower_logging(spec: AccessLoggingSpec) -> AccessLogging:
    return AccessLogging(
        mode=spec.match.mode if spec.match else WorkloadMode.CLIENT_AND_SERVER,
        providers=tuple(item.name for item in spec.providers),
        disabled=spec.disabled,
        expression=spec.filter.expression if spec.filter else "",
    )


def _lower_tracing(spec: TracingSpec) -> Tracing:
    return Tracing(
        mode=spec.match.mode if spec.match else WorkloadMode.CLIENT_AND_SERVER,
        providers=tuple(item.name for item in spec.providers),
        sampling=spec.random_sampling_percentage,
        disabled=spec.disable_span_reporting,
        tags=None if spec.custom_tags is None else lower_tags(spec.custom_tags),
        by_request_id=spec.use_request_id_for_trace_sampling,
        istio_tags=spec.enable_istio_tags,
        keep_context=spec.disable_context_propagation,
    )


def lower_tags(tags: dict[str, CustomTag]) -> tuple[SpanTag, ...]:
    """Tags of spans, sorted by name."""
    found = []
    for name, tag in tags.items():
        if tag.literal is not None:
            found.append(SpanTag(name, TagSource.LITERAL, tag.literal.value))
        elif tag.environment is not None:
            source = tag.environment
            found.append(SpanTag(name, TagSource.ENVIRONMENT, source.name, source.default_value))
        elif tag.header is not None:
            found.append(SpanTag(name, TagSource.HEADER, tag.header.name, tag.header.default_value))
        elif tag.formatter is not None:
            found.append(SpanTag(name, TagSource.FORMATTER, tag.formatter.value))
    return tuple(sorted(found))


KIND = Kind(
    group="telemetry.istio.io",
    versions=("v1", "v1alpha1"),
    name="Telemetry",
    model=TelemetrySpec,
    lower=_lower,
    check=_check,
    body_required=False,
)
