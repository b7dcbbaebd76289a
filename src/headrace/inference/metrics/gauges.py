"""Engines that say everything in gauges: which gauge means what. Names are those of the engines' own documentation;
docs/reference/engine-metrics.md has the table, with versions."""

from __future__ import annotations

from collections.abc import Mapping

from headrace.inference.metrics.engine_metrics import EngineMetrics, LoraMetrics
from headrace.inference.metrics.exposition import Page, product, share, whole

_MOST_ADAPTERS = 1024


def vllm(page: bytes) -> EngineMetrics:
    """vLLM: data-parallel engines each have a series; counts add up, the cache's share is their mean."""
    waiting, running, swapped = "vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:num_requests_swapped"
    used, used_once, config = "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "vllm:cache_config_info"
    lora = "vllm:lora_requests_info"
    samples = Page(page, (waiting, running, swapped, used, used_once, config, lora))
    in_queue, pushed_out = samples.total(waiting), samples.total(swapped)
    kv_used = samples.mean(used)
    blocks = [sample.labels for sample in samples.samples(config)]
    known = [size for size in map(_vllm_cache_tokens, blocks) if size is not None]
    return EngineMetrics(
        waiting=in_queue if pushed_out is None else (in_queue or 0.0) + pushed_out,
        running=samples.total(running),
        kv_used=share(kv_used if kv_used is not None else samples.mean(used_once)),
        kv_tokens=sum(known) or None,
        block_tokens=whole(blocks[0].get("block_size")) if blocks else None,
        lora=_vllm_lora(samples, lora),
    )


def _vllm_cache_tokens(labels: Mapping[str, str]) -> int | None:
    """The cache's size: as newer versions say it, because blocks times their size is wrong for models with several
    kinds of attention."""
    told = whole(labels.get("kv_cache_size_tokens"))
    return told if told is not None else product(whole(labels.get("block_size")), whole(labels.get("num_gpu_blocks")))


def _vllm_lora(samples: Page, name: str) -> LoraMetrics | None:
    """Each set of adapters that ever ran is a series, whose value is the time at which it did: the latest counts."""
    latest = max(samples.samples(name), key=lambda sample: sample.value, default=None)
    if latest is None:
        return None
    return LoraMetrics(
        running=_adapters(latest.labels.get("running_lora_adapters", "")),
        waiting=_adapters(latest.labels.get("waiting_lora_adapters", "")),
        most=whole(latest.labels.get("max_lora")),
    )


def _adapters(listed: str) -> tuple[str, ...]:
    names = (name.strip() for name in listed.split(",", _MOST_ADAPTERS)[:_MOST_ADAPTERS])
    return tuple(sorted({name for name in names if name}))


def sglang(page: bytes) -> EngineMetrics:
    """SGLang: tensor-parallel ranks repeat the same figures, data-parallel ones add up; series with a priority only
    break a total down."""
    waiting, running, used = "sglang:num_queue_reqs", "sglang:num_running_reqs", "sglang:token_usage"
    config, tokens, size = "sglang:cache_config_info", "sglang:max_total_num_tokens", "sglang:page_size"
    samples = Page(page, (waiting, running, used, config, tokens, size))

    def over_ranks(name: str) -> float | None:
        by_rank: dict[str, float] = {}
        for sample in samples.samples(name):
            if not sample.labels.get("priority"):
                rank = sample.labels.get("dp_rank", "")
                by_rank[rank] = max(by_rank.get(rank, 0.0), sample.value)
        return sum(by_rank.values()) if by_rank else None

    pages = next((sample.labels for sample in samples.samples(config)), {})
    page_tokens = whole(pages.get("page_size")) or whole(samples.most(size))
    told = whole(samples.most(tokens))
    return EngineMetrics(
        waiting=over_ranks(waiting),
        running=over_ranks(running),
        kv_used=share(samples.most(used)),
        kv_tokens=told if told is not None else product(page_tokens, whole(pages.get("num_pages"))),
        block_tokens=page_tokens,
    )


def trtllm(page: bytes) -> EngineMetrics:
    """trtllm-serve's /prometheus/metrics: ranks repeat the same figures."""
    waiting, running, used = "trtllm_num_requests_waiting", "trtllm_num_requests_running", "trtllm_kv_cache_utilization"
    block, blocks, slots = (
        "trtllm_kv_cache_tokens_per_block",
        "trtllm_kv_cache_max_blocks",
        "trtllm_max_batch_size_static",
    )
    samples = Page(page, (waiting, running, used, block, blocks, slots))
    block_tokens = whole(samples.most(block))
    return EngineMetrics(
        waiting=samples.most(waiting),
        running=samples.most(running),
        kv_used=share(samples.most(used)),
        kv_tokens=product(block_tokens, whole(samples.most(blocks))),
        block_tokens=block_tokens,
        slots=whole(samples.most(slots)),
    )


def triton(page: bytes) -> EngineMetrics:
    """Triton with the TensorRT-LLM backend. Older versions have no `waiting` and no `fraction`: both follow from what
    they have."""
    requests, blocks = "nv_trt_llm_request_metrics", "nv_trt_llm_kv_cache_block_metrics"
    samples = Page(page, (requests, blocks))
    waiting = samples.total(requests, request_type="waiting")
    running = samples.total(requests, request_type="scheduled")
    active = samples.total(requests, request_type="active")
    if waiting is None and active is not None:
        waiting = max(active - (running or 0.0), 0.0)
    used = samples.most(blocks, kv_cache_block_type="fraction")
    taken, most = (samples.total(blocks, kv_cache_block_type=kind) for kind in ("used", "max"))
    if used is None and taken is not None and most:
        used = taken / most
    block_tokens = whole(samples.most(blocks, kv_cache_block_type="tokens_per"))
    return EngineMetrics(
        waiting=waiting,
        running=running,
        kv_used=share(used),
        kv_tokens=product(block_tokens, whole(most)),
        block_tokens=block_tokens,
        slots=whole(samples.total(requests, request_type="max")),
    )


def tgi(page: bytes) -> EngineMetrics:
    """Text Generation Inference says nothing of its cache."""
    samples = Page(page, ("tgi_queue_size", "tgi_batch_current_size"))
    return EngineMetrics(waiting=samples.total("tgi_queue_size"), running=samples.total("tgi_batch_current_size"))
