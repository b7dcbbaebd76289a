"""Each engine's page becomes the same `EngineMetrics`. What is recorded and what transcribed: pages/README.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.inference.metrics import (
    EngineMetrics,
    LoraMetrics,
    MetricNames,
    MetricsError,
    is_enough,
    pages_of,
    read_metrics,
)
from headrace.model.workload import Engine

_PAGES = Path(__file__).parent / "pages"


def page(name: str) -> bytes:
    return (_PAGES / name).read_bytes()


VLLM = EngineMetrics(
    waiting=3.0,
    running=26.0,
    kv_used=0.5,
    kv_tokens=2 * 16 * 27500,
    block_tokens=16,
    lora=LoraMetrics(running=("legal", "support"), waiting=("sql",), most=2),
)
EXPECTED = [
    (Engine.VLLM, {"/metrics": "vllm.prom"}, VLLM),
    (
        Engine.VLLM,
        {"/metrics": "vllm-v0.prom"},
        EngineMetrics(9.0, 5.0, 0.41, 16 * 11560, 16, lora=LoraMetrics()),
    ),
    (Engine.SGLANG, {"/metrics": "sglang.prom"}, EngineMetrics(6.0, 31.0, 0.28, 400_000, 16)),
    (Engine.TRTLLM, {"/prometheus/metrics": "trtllm.prom"}, EngineMetrics(4.0, 9.0, 0.62, 256_000, 32, 256)),
    (Engine.TRTLLM, {"/metrics": "trtllm-iterations.json"}, EngineMetrics(4.0, 9.0, 0.25, 256_000, 32)),
    (Engine.TRITON, {"/metrics": "triton.prom"}, EngineMetrics(3.0, 4.0, 0.4875, 64 * 6239, 64, 512)),
    (Engine.TRITON, {"/metrics": "triton-old.prom"}, EngineMetrics(6.0, 4.0, 0.25, 256_000, 64, 512)),
    (Engine.TGI, {"/metrics": "tgi.prom"}, EngineMetrics(5.0, 8.0)),
    (Engine.LLAMACPP, {"/metrics": "llamacpp.prom"}, EngineMetrics(8.0, 4.0)),
    (
        Engine.LLAMACPP,
        {"/metrics": "llamacpp.prom", "/slots": "llamacpp-slots.json"},
        EngineMetrics(8.0, 4.0, (479 + 3 * 480) / 2048, 2048, slots=4),
    ),
    (Engine.VLLM, {"/metrics": "vllm-0.4.3.prom"}, EngineMetrics(0.0, 0.0, 0.0, 16 * 7281, 16)),
    (Engine.VLLM, {"/metrics": "vllm-neuron.prom"}, EngineMetrics(0.0, 0.0, 0.0, 4096, 1024, lora=LoraMetrics())),
    (Engine.SGLANG, {"/metrics": "sglang-0.4.prom"}, EngineMetrics(2826.0, 162.0, 0.28)),
    (Engine.SGLANG, {"/metrics": "sglang-0.5.10.prom"}, EngineMetrics(0.0, 0.0, 0.25, 430_839)),
    (Engine.TGI, {"/metrics": "tgi-recorded.prom"}, EngineMetrics(0.0, 0.0)),
    (Engine.TRITON, {"/metrics": "triton-23.11.prom"}, EngineMetrics(0.0, 1.0, 1 / 6239, 64 * 6239, 64, 512)),
    (
        Engine.TRTLLM,
        {"/metrics": "trtllm-iterations-1.0.json"},
        EngineMetrics(None, 1.0, 3 / 101256, 32 * 101256, 32),
    ),
    (Engine.OLLAMA, {"/api/ps": "ollama-ps.json"}, EngineMetrics(models=("all-minilm:22m", "mistral:latest"))),
]


@pytest.mark.parametrize(("engine", "files", "expected"), EXPECTED, ids=lambda value: str(value)[:40])
def test_an_engines_pages_are_understood(engine: Engine, files: dict[str, str], expected: EngineMetrics) -> None:
    assert read_metrics(engine, {path: page(name) for path, name in files.items()}) == expected
    assert set(files) <= set(pages_of(engine))


RECOGNISED = {"vllm": 3.0, "sglang": 6.0, "triton": 3.0, "tgi": 5.0, "trtllm": 4.0, "llamacpp": 8.0}


@pytest.mark.parametrize(("name", "waiting"), RECOGNISED.items())
def test_a_server_that_is_not_named_is_recognised_by_its_gauges(name: str, waiting: float) -> None:
    assert read_metrics(Engine.OPENAI, {"/metrics": page(f"{name}.prom")}).waiting == waiting


def test_a_page_without_any_gauge_that_is_known_says_nothing() -> None:
    for engine in (Engine.VLLM, Engine.SGLANG, Engine.TRITON, Engine.TGI, Engine.LLAMACPP, Engine.OPENAI):
        assert read_metrics(engine, {"/metrics": b"<html>404 page not found</html>\n"}) == EngineMetrics()


def test_vllm_s_own_word_on_its_cache_goes_before_blocks_times_their_size() -> None:
    body = b'vllm:cache_config_info{block_size="4",kv_cache_size_tokens="1021696",num_gpu_blocks="3991"} 1\n'
    assert read_metrics(Engine.VLLM, {"/metrics": body}).kv_tokens == 1_021_696
    assert read_metrics(Engine.VLLM, {"/metrics": body.replace(b"1021696", b"None")}).kv_tokens == 4 * 3991


def test_vllm_s_reasons_for_waiting_are_not_added_to_what_waits() -> None:
    body = (
        b'vllm:num_requests_waiting{engine="0"} 44.0\n'
        b'vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 3.0\n'
        b'vllm:num_requests_waiting_by_reason{engine="0",reason="deferred"} 41.0\n'
    )
    assert read_metrics(Engine.VLLM, {"/metrics": body}).waiting == 44.0


def test_sglang_s_page_size_is_a_gauge_of_its_own_in_newer_versions() -> None:
    body = (
        b'sglang:page_size{tp_rank="0",priority=""} 16\nsglang:max_total_num_tokens{tp_rank="0",priority=""} 1000000\n'
    )
    assert read_metrics(Engine.SGLANG, {"/metrics": body}) == EngineMetrics(kv_tokens=1_000_000, block_tokens=16)


def test_trtllm_s_iterations_say_what_its_gauges_do_not() -> None:
    pages = {
        "/prometheus/metrics": b'trtllm_kv_cache_utilization{engine_type="trtllm"} 0.5\n',
        "/metrics": page("trtllm-iterations.json"),
    }
    assert not is_enough(Engine.TRTLLM, pages)
    assert read_metrics(Engine.TRTLLM, pages) == EngineMetrics(4.0, 9.0, 0.5, 256_000, 32)
    assert is_enough(Engine.TRTLLM, {"/prometheus/metrics": page("trtllm.prom")})
    assert not is_enough(Engine.TRTLLM, {}) and not is_enough(Engine.LLAMACPP, {})


def test_trtllm_s_ranks_of_data_parallel_attention_add_up() -> None:
    def entry(rank: int, queued: int, used: int, most: int) -> str:
        cache = f'"kvCacheStats": {{"usedNumBlocks": {used}, "maxNumBlocks": {most}, "tokensPerBlock": 32}}'
        return f'{{"attentionDpRank": {rank}, "numQueuedRequests": {queued}, "numActiveRequests": 2, {cache}}}'

    iterations = [entry(0, 9, 0, 10), entry(1, 9, 0, 20), entry(0, 1, 4, 10), entry(1, 2, 6, 20)]
    body = f"[{', '.join(iterations)}]".encode()
    assert read_metrics(Engine.TRTLLM, {"/metrics": body}) == EngineMetrics(3.0, 4.0, 10 / 30, 960, 32)


def test_names_of_ones_own_with_labels() -> None:
    names = MetricNames("jobs{state=waiting}", 'jobs{state="active", pool=gpu}', "cache_share", "cache_tokens")
    body = b"""
jobs{pool="cpu",state="active"} 100
jobs{pool="gpu",state="active"} 3
jobs{pool="gpu",state="waiting"} 7
jobs{pool="cpu",state="waiting"} 1
cache_share 0.3 1795284905000
cache_share{gpu="1"} 0.5
cache_tokens 64000
"""
    assert read_metrics(Engine.VLLM, {"/metrics": body}, names) == EngineMetrics(8.0, 3.0, 0.4, 64_000)
    assert read_metrics(Engine.VLLM, {"/metrics": body}, MetricNames()) == EngineMetrics()
    for wrong in ("jobs{state}", "jobs{", "two words", "{a=b}"):
        with pytest.raises(MetricsError, match="names no metric"):
            read_metrics(Engine.VLLM, {"/metrics": body}, MetricNames(waiting=wrong))


def test_a_page_that_is_not_served_is_named() -> None:
    with pytest.raises(MetricsError, match="none of /metrics, /slots is served"):
        read_metrics(Engine.LLAMACPP, {})
    with pytest.raises(MetricsError, match="/metrics is not served"):
        read_metrics(Engine.LLAMACPP, {"/slots": b"[]"})


@pytest.mark.parametrize("body", [b"", b"{", b"[1, 2", b'{"models": 3}', b"null", b"[" * 100_000, b"\xff\xfe"])
def test_json_that_is_no_such_page_is_refused(body: bytes) -> None:
    with pytest.raises(MetricsError):
        read_metrics(Engine.OLLAMA, {"/api/ps": body})


def test_entries_of_json_that_are_nonsense_count_as_not_said() -> None:
    slots = b'[{"n_ctx": "x", "is_processing": true}, 5, {"n_ctx": 512, "is_processing": true, "next_token": []}]'
    metrics = read_metrics(Engine.LLAMACPP, {"/metrics": page("llamacpp.prom"), "/slots": slots})
    assert metrics == EngineMetrics(8.0, 4.0, None, 512, slots=2)
    iterations = b'[{"numActiveRequests": true, "numQueuedRequests": -3, "kvCacheStats": {"maxNumBlocks": 0}}]'
    assert read_metrics(Engine.TRTLLM, {"/metrics": iterations}) == EngineMetrics()
    assert read_metrics(Engine.TRTLLM, {"/metrics": b"[]"}) == EngineMetrics()
