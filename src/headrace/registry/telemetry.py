"""What the Telemetry documents of one workload say together.

Called by `envoy.observing`. The rules are Istio's (mergeLogs and Tracing in its telemetry model): the mesh's document,
then the namespace's, then the workload's own; what names providers replaces the wider one's, what names none inherits
them; everything else is overridden item by item.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from headrace.model.mesh import MeshConfig
from headrace.model.telemetry import AccessLogging, SpanTag, Telemetry, Tracing, WorkloadMode

DEFAULT_SAMPLING = 1.0
"""Per cent of requests that are traced where nothing is said."""


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """What one side does with traces. `provider` '' : nobody takes spans."""

    provider: str = ""
    disabled: bool = False
    sampling: float | None = None
    tags: tuple[SpanTag, ...] | None = None
    by_request_id: bool = True
    istio_tags: bool = True
    keep_context: bool = False


def settle_logs(
    documents: Sequence[Telemetry], defaults: Sequence[str], mode: WorkloadMode
) -> Mapping[str, str | None] | None:
    """Which providers one side logs to, and what of it (a CEL expression, '' : all; None: switched off). None where no
    document and no default speaks of logs."""
    speaking = [item.access_logging for item in documents if item.access_logging]
    if not speaking:
        return dict.fromkeys(defaults, "") if defaults else None
    scope, expressions = _providers_in_scope(speaking, defaults, mode)
    settled: dict[str, str | None] = {}
    inherited = tuple(defaults)
    for items in speaking:
        for item in items:
            inherited = item.providers or inherited
            for name in inherited:
                if name in scope and _concerns(item.mode, mode):
                    settled[name] = None if item.disabled else expressions.get(name, "")
    return settled


def _providers_in_scope(
    speaking: Iterable[Sequence[AccessLogging]], defaults: Sequence[str], mode: WorkloadMode
) -> tuple[frozenset[str], dict[str, str]]:
    """The providers that the narrowest document naming some for this side leaves, and the last expression of each."""
    scope = frozenset(defaults)
    expressions: dict[str, str] = {}
    for items in speaking:
        named = set[str]()
        for item in items:
            if _concerns(item.mode, mode):
                named.update(item.providers)
                expressions.update(dict.fromkeys(item.providers, item.expression))
        if named:
            scope = frozenset(named)
    return scope, expressions


def settle_traces(documents: Iterable[Telemetry], mesh: MeshConfig, mode: WorkloadMode) -> TraceSettings | None:
    """What one side does with traces; None where no document and no default provider speaks of them."""
    items = [item for document in documents for item in document.tracing]
    if not items and not mesh.default_spans:
        return None
    settled = TraceSettings(provider=mesh.default_spans[0] if mesh.default_spans else "")
    for item in items:
        if _concerns(item.mode, mode):
            settled = _overridden(settled, item)
    return settled


def _overridden(settled: TraceSettings, item: Tracing) -> TraceSettings:
    return TraceSettings(
        provider=item.providers[0] if item.providers else settled.provider,
        disabled=settled.disabled if item.disabled is None else item.disabled,
        sampling=settled.sampling if item.sampling is None else item.sampling,
        tags=settled.tags if item.tags is None else item.tags,
        by_request_id=settled.by_request_id if item.by_request_id is None else item.by_request_id,
        istio_tags=settled.istio_tags if item.istio_tags is None else item.istio_tags,
        keep_context=settled.keep_context if item.keep_context is None else item.keep_context,
    )


def _concerns(said: WorkloadMode, mode: WorkloadMode) -> bool:
    return said in (WorkloadMode.CLIENT_AND_SERVER, mode)
