"""Pages of metrics come from applications: whatever bytes they are, a reader gives figures or says that it cannot."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.inference.metrics import described, gauges
from headrace.inference.metrics.engine_metrics import EngineMetrics, MetricsError

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_KEYS = ("models", "numActiveRequests", "kvCacheStats", "is_processing", "n_ctx", "usedNumBlocks")
_LIKE = st.lists(st.dictionaries(st.sampled_from(_KEYS), _JSON, max_size=4), max_size=3) | st.dictionaries(
    st.sampled_from(_KEYS), _JSON, max_size=3
)
_NAMES = (
    "vllm:num_requests_waiting",
    "vllm:cache_config_info",
    "vllm:lora_requests_info",
    "sglang:token_usage",
    "trtllm_num_requests_running",
    "nv_trt_llm_request_metrics",
    "tgi_queue_size",
    "llamacpp:requests_deferred",
)
_LINE = st.builds(
    '{}{{{}="{}"}} {}'.format,
    st.sampled_from(_NAMES),
    st.sampled_from(("block_size", "num_gpu_blocks", "running_lora_adapters", "request_type", "max_lora")),
    st.text(max_size=12),
    st.floats().map(str) | st.text(max_size=6),
)
READERS = (gauges.vllm, gauges.sglang, gauges.trtllm, described.llamacpp, described.trtllm_iterations, described.ollama)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: str(reader.__name__))
@given(
    page=st.binary(max_size=300)
    | (_JSON | _LIKE).map(lambda data: json.dumps(data).encode())
    | st.lists(_LINE, max_size=6).map(lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass"))
)
def test_figures_or_a_reason(reader: Callable[[bytes], EngineMetrics], page: bytes) -> None:
    try:
        found = reader(page)
    except MetricsError:
        return
    assert found.waiting is None or found.waiting >= 0
    assert found.running is None or found.running >= 0
