"""Engines that say (part of) it in JSON: llama.cpp's slots, trtllm-serve's iterations, Ollama's loaded models."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

from headrace.inference.metrics.engine_metrics import EngineMetrics, MetricsError
from headrace.inference.metrics.exposition import MOST_BYTES, Page, product, share, whole

_MOST_ENTRIES = 4096


def llamacpp(page: bytes, slots: bytes | None = None) -> EngineMetrics:
    """llama.cpp: requests from /metrics; slots and the cache, which has no gauge any more, from /slots (started with
    `--slots`), None where that is not served. A free slot's cached tokens do not count: they give way."""
    waiting, running = "llamacpp:requests_deferred", "llamacpp:requests_processing"
    samples = Page(page, (waiting, running, "llamacpp:kv_cache_usage_ratio"))
    metrics = EngineMetrics(
        waiting=samples.total(waiting),
        running=samples.total(running),
        kv_used=share(samples.mean("llamacpp:kv_cache_usage_ratio")),
    )
    if slots is None:
        return metrics
    listed = [slot for slot in _list(slots, "/slots") if isinstance(slot, dict)]
    room = sum(whole(_number(slot, "n_ctx")) or 0 for slot in listed)
    held = [_held(slot) for slot in listed if slot.get("is_processing") is True]
    known = [tokens for tokens in held if tokens is not None]
    kv_used = sum(known) / room if room and len(known) == len(held) else metrics.kv_used
    return dataclasses.replace(metrics, kv_used=share(kv_used), kv_tokens=room or None, slots=len(listed) or None)


def _held(slot: dict[str, Any]) -> float | None:
    """Tokens in a slot's cache: read anew, taken over, and written since."""
    read, kept = _number(slot, "n_prompt_tokens_processed"), _number(slot, "n_prompt_tokens_cache")
    following = slot.get("next_token")
    if isinstance(following, list):
        following = following[0] if following else None
    written = _number(following, "n_decoded") if isinstance(following, dict) else None
    return None if read is None else read + (kept or 0.0) + (written or 0.0)


def trtllm_iterations(page: bytes) -> EngineMetrics:
    """trtllm-serve's /metrics: statistics of its last iterations, oldest first; empty since the last time it was asked
    where nothing ran. With attention in data parallel each rank has its own: the latest of each counts."""
    latest = {_number(one, "attentionDpRank"): one for one in _list(page, "/metrics") if isinstance(one, dict)}.values()
    caches = [cache for one in latest if isinstance(cache := one.get("kvCacheStats"), dict)]
    used, most = (_sum(caches, name) for name in ("usedNumBlocks", "maxNumBlocks"))
    block_tokens = whole(_number(caches[0], "tokensPerBlock")) if caches else None
    return EngineMetrics(
        waiting=_sum(latest, "numQueuedRequests"),
        running=_sum(latest, "numActiveRequests"),
        kv_used=share(used / most) if used is not None and most else None,
        kv_tokens=product(block_tokens, whole(most)),
        block_tokens=block_tokens,
    )


def _sum(entries: Iterable[dict[str, Any]], key: str) -> float | None:
    """Of those that say it; None where none does."""
    said = [value for entry in entries if (value := _number(entry, key)) is not None]
    return sum(said) if said else None


def ollama(page: bytes) -> EngineMetrics:
    """Ollama's /api/ps: the models that are loaded. It says nothing of requests."""
    answer = _json(page, "/api/ps")
    models = answer.get("models") if isinstance(answer, dict) else None
    if not isinstance(models, list):
        raise MetricsError("/api/ps has no list of models: is this Ollama?")
    names = (model.get("name") for model in models[:_MOST_ENTRIES] if isinstance(model, dict))
    return EngineMetrics(models=tuple(sorted(name for name in names if isinstance(name, str))))


def _list(page: bytes, name: str) -> list[Any]:
    answer = _json(page, name)
    if not isinstance(answer, list):
        raise MetricsError(f"{name} is no JSON list")
    return answer[-_MOST_ENTRIES:]


def _json(page: bytes, name: str) -> Any:
    if len(page) > MOST_BYTES:
        raise MetricsError(f"{name} has {len(page)} bytes; more than {MOST_BYTES} are not read")
    try:
        return json.loads(page)
    except (ValueError, RecursionError):
        raise MetricsError(f"{name} is no JSON") from None


def _number(entry: dict[str, Any], key: str) -> float | None:
    """A count; None where it is none."""
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= 1e15 else None
