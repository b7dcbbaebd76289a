"""From an engine and its pages to `EngineMetrics`."""

from __future__ import annotations

from collections.abc import Mapping

from headrace.inference.metrics import described, gauges
from headrace.inference.metrics.engine_metrics import EngineMetrics, MetricsError
from headrace.inference.metrics.named import MetricNames, named
from headrace.model.workload import Engine

_METRICS = "/metrics"
_SLOTS = "/slots"
_LOADED = "/api/ps"
_PROMETHEUS = "/prometheus/metrics"

_PAGES: Mapping[Engine, tuple[str, ...]] = {
    Engine.LLAMACPP: (_METRICS, _SLOTS),
    Engine.OLLAMA: (_LOADED,),
    Engine.TRTLLM: (_PROMETHEUS, _METRICS),
}
_GAUGES = {Engine.VLLM: gauges.vllm, Engine.SGLANG: gauges.sglang, Engine.TRITON: gauges.triton, Engine.TGI: gauges.tgi}


def pages_of(engine: Engine) -> tuple[str, ...]:
    """The paths to fetch, in this order. One that is not served (404) is left out of what `read_metrics` gets."""
    return _PAGES.get(engine, (_METRICS,))


def is_enough(engine: Engine, pages: Mapping[str, bytes]) -> bool:
    """Whether what was fetched so far needs no further page: trtllm-serve's second is asked for only where the first
    says nothing of requests (as before 1.3), because asking empties it."""
    return engine is Engine.TRTLLM and gauges.trtllm(pages.get(_PROMETHEUS, b"")).running is not None


def read_metrics(engine: Engine, pages: Mapping[str, bytes], names: MetricNames | None = None) -> EngineMetrics:
    """What an engine says on its pages (path to body). `names` replaces what is known of the engine's names.

    Raises MetricsError where no page is there, or one is not what it should be.
    """
    if not pages:
        raise MetricsError(f"{engine}: none of {', '.join(pages_of(engine))} is served")
    if names is not None:
        return named(_page(engine, pages, _METRICS), names)
    match engine:
        case Engine.LLAMACPP:
            return described.llamacpp(_page(engine, pages, _METRICS), pages.get(_SLOTS))
        case Engine.OLLAMA:
            return described.ollama(_page(engine, pages, _LOADED))
        case Engine.TRTLLM:
            return _trtllm(pages)
        case Engine.OPENAI:
            return _whichever(_page(engine, pages, _METRICS))
        case _:
            return _GAUGES[engine](_page(engine, pages, _METRICS))


def _page(engine: Engine, pages: Mapping[str, bytes], path: str) -> bytes:
    if path not in pages:
        raise MetricsError(f"{engine}: {path} is not served")
    return pages[path]


def _trtllm(pages: Mapping[str, bytes]) -> EngineMetrics:
    """Gauges where the server has them (`return_perf_metrics: true`), and its iterations for what they do not say."""
    found = gauges.trtllm(pages[_PROMETHEUS]) if _PROMETHEUS in pages else EngineMetrics()
    page = pages.get(_METRICS)
    if page is None or found.running is not None:
        return found
    if page.lstrip()[:1] != b"[":
        return gauges.trtllm(page)
    other = described.trtllm_iterations(page)
    return EngineMetrics(
        waiting=other.waiting,
        running=other.running,
        kv_used=other.kv_used if found.kv_used is None else found.kv_used,
        kv_tokens=found.kv_tokens or other.kv_tokens,
        block_tokens=found.block_tokens or other.block_tokens,
        slots=found.slots,
    )


def _whichever(page: bytes) -> EngineMetrics:
    """A server that speaks OpenAI's API and is not named: the first engine whose gauges its page has."""
    for adapter in (*_GAUGES.values(), gauges.trtllm, described.llamacpp):
        metrics = adapter(page)
        if metrics.waiting is not None or metrics.running is not None:
            return metrics
    return EngineMetrics()
