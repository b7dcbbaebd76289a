"""Servers that nobody here knows: whoever configures them says which gauge means what."""

from __future__ import annotations

import re
from dataclasses import dataclass

from headrace.inference.metrics.engine_metrics import EngineMetrics, MetricsError
from headrace.inference.metrics.exposition import Page, share, whole


@dataclass(frozen=True, slots=True)
class MetricNames:
    """Names for a server that nobody here knows: each a metric's name, with labels if need be, as in
    `requests{state="waiting"}` (quotes may be left out); empty where it has none."""

    waiting: str = ""
    running: str = ""
    kv_used: str = ""
    kv_tokens: str = ""


_SPEC = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{([^{}]*)\})?")
_SPEC_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="?([^",]*)"?')


def named(page: bytes, names: MetricNames) -> EngineMetrics:
    """Counts add up over series, shares are their mean. Raises MetricsError where a name is none."""
    specs = [_spec(text) for text in (names.waiting, names.running, names.kv_used, names.kv_tokens)]
    samples = Page(page, (name for name, _ in specs if name))
    (waiting, of_waiting), (running, of_running), (used, of_used), (tokens, of_tokens) = specs
    return EngineMetrics(
        waiting=samples.total(waiting, **of_waiting),
        running=samples.total(running, **of_running),
        kv_used=share(samples.mean(used, **of_used)),
        kv_tokens=whole(samples.total(tokens, **of_tokens)),
    )


def _spec(text: str) -> tuple[str, dict[str, str]]:
    if not text:
        return "", {}
    match = _SPEC.fullmatch(text.strip())
    labels = [_SPEC_LABEL.fullmatch(one.strip()) for one in (match[2] or "").split(",") if one] if match else [None]
    found = {label[1]: label[2] for label in labels if label is not None}
    if match is None or len(found) < len(labels):
        raise MetricsError(f"{text!r} names no metric: write NAME or NAME{{LABEL=VALUE}}")
    return match[1], found
