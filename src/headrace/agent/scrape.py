"""Asks one model server what it says of its load, directly at its own port, beside it on this host.

Called by `agent.engine_watch`. The server is not trusted: time and bytes are bounded, redirections are not followed,
and what it answers is only ever parsed.
"""

from __future__ import annotations

import asyncio

import aiohttp

from headrace.agent.capture import APP_ADDRESS
from headrace.agent.prober import ProbeWay
from headrace.inference.metrics import EngineMetrics, MetricsError, is_enough, pages_of, read_metrics
from headrace.model.workload import Engine

MOST_BYTES = 2 << 20
"""Of one page. vLLM's are about 100 KB, with many data-parallel engines a few times that."""
SECONDS = 2.0
"""For all pages of one server together."""
_PIECE = 64 << 10
_HEADERS = {"User-Agent": "headrace-metrics/1", "Accept": "text/plain, application/json", "Accept-Encoding": "identity"}
_NOT_SERVED = frozenset({404, 405, 501})
_REMEDIES = {
    Engine.LLAMACPP: "start llama.cpp with --metrics (and --slots)",
    Engine.SGLANG: "start SGLang with --enable-metrics",
    Engine.TRTLLM: "start trtllm-serve with return_perf_metrics: true, or enable_iter_perf_stats: true",
    Engine.TRITON: "name the port of Triton's metrics (8002) `metrics` in the Workload's ports",
}
_REMEDY = "if they are on another port, name that one `metrics` in the Workload's ports"


class ScrapeError(Exception):
    """The server cannot be asked; the message says why and what to do, for people."""


async def scrape(way: ProbeWay, engine: Engine, port: int) -> EngineMetrics:
    """What the engine at the application's own 127.0.0.1:`port` says of itself now. Raises ScrapeError."""
    pages: dict[str, bytes] = {}
    try:
        async with asyncio.timeout(SECONDS):
            for path in pages_of(engine):
                page = await _fetch(way, f"http://{APP_ADDRESS}:{port}{path}", path)
                if page is not None:
                    pages[path] = page
                if is_enough(engine, pages):
                    break
    except TimeoutError:
        raise ScrapeError(f"no answer within {SECONDS:g} s: the server hangs, or is too busy to tell") from None
    except aiohttp.ClientConnectorError:
        raise ScrapeError(f"nothing listens on {APP_ADDRESS}:{port}; {_REMEDY}") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise ScrapeError(f"no HTTP answer ({type(error).__name__}): only plain HTTP is asked") from None
    try:
        metrics = read_metrics(engine, pages)
    except MetricsError as error:
        raise ScrapeError(f"{error}; {_REMEDIES.get(engine, _REMEDY)}") from None
    if metrics == EngineMetrics() and engine is not Engine.TRTLLM:
        raise ScrapeError(
            f"the page has none of the names of engine {engine.value}: is `engine` of the Workload right?"
        )
    return metrics


async def _fetch(way: ProbeWay, url: str, path: str) -> bytes | None:
    """The page's bytes; None where the server has no such page."""
    async with way.client() as session, session.get(url, headers=_HEADERS, allow_redirects=False) as response:
        if response.status in _NOT_SERVED:
            return None
        if response.status in (401, 403):
            raise ScrapeError(f"{path} answered {response.status}: the mesh asks without a key; serve it without one")
        if response.status != 200:
            raise ScrapeError(f"{path} answered {response.status}")
        page = bytearray()
        async for piece in response.content.iter_chunked(_PIECE):
            page += piece
            if len(page) > MOST_BYTES:
                raise ScrapeError(f"{path} has more than {MOST_BYTES >> 20} MiB, which are not read")
        return bytes(page)
