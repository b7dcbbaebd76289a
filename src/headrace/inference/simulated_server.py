"""A model server that needs no model: OpenAI's API with a real queue, real streaming and made-up words.

For tests, demos and capacity questions: answers depend only on the seed and the prompt, times on the settings. Called
by `headrace model-server` (engine `simulated`). A request waits for one of a fixed number of slots (first come, first
served), is "prefilled", then yields a token at a time, as a continuous-batching engine's client would see it. With an
`engine` in its settings, times are those of the step-based engine instead: one GPU shared by all requests.

APIs: OpenAI chat completions and completions (unary and SSE, `stream_options.include_usage`), `/v1/models`, `/health`,
`/metrics` with vLLM's names. Faults on demand: `PUT /faults` (see `Faults`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from aiohttp import web

from headrace.inference.engine_driver import EngineDriver, EngineSettings, TooLong
from headrace.inference.simulated_adapters import Adapters

BODY_LIMIT = 16 * 1024 * 1024
"""Longest request body read, in bytes."""
_WORDS = [
    "amber",
    "basin",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "harbor",
    "inlet",
    "juniper",
    "kelp",
    "lagoon",
    "meadow",
    "north",
    "orchard",
    "prairie",
    "quarry",
    "ridge",
    "slate",
    "tundra",
    "upland",
    "valley",
    "willow",
    "yonder",
    "zephyr",
]
_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96)
_MOST_TOKENS = 100_000


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How the server behaves. Rates in tokens per second; `slots` requests run at once, the others wait. `adapters` are
    served beside the model, so many at once."""

    model: str = "simulated"
    slots: int = 4
    prefill_rate: float = 20_000.0
    decode_rate: float = 200.0
    default_tokens: int = 16
    seed: int = 0
    engine: EngineSettings | None = None
    adapters: tuple[str, ...] = ()
    most_adapters: int = 1


@dataclass(slots=True)
class Faults:
    """Faults on demand (`PUT /faults` with these fields as JSON; `{}` clears them).

    `status`: answer with this code instead (0: none) to the next `remaining` requests (-1: all). `delay`: seconds
    added before the answer. `hang`: never answer. `cut_after`: break the connection after that many tokens (-1:
    never). `unhealthy`: /health answers 503. `claimed_waiting`: /metrics says that so many wait, and as many run, in a
    full cache (0: an empty one), whatever is true (-1: the truth). `mute`: /metrics never answers.
    """

    status: int = 0
    remaining: int = -1
    delay: float = 0.0
    hang: bool = False
    cut_after: int = -1
    unhealthy: bool = False
    claimed_waiting: int = -1
    mute: bool = False

    @classmethod
    def parse(cls, data: object) -> Faults:
        """Faults from decoded JSON; ValueError that names an unknown field or a wrong type."""
        if not isinstance(data, dict):
            raise ValueError("faults are a JSON object")
        known = {item.name: type(getattr(cls(), item.name)) for item in fields(cls)}
        for name, value in data.items():
            if name not in known:
                raise ValueError(f"no fault called {name!r}: there are {', '.join(sorted(known))}")
            wanted = (int, float) if known[name] is float else known[name]
            if not isinstance(value, wanted) or (isinstance(value, bool) and known[name] is not bool):
                raise ValueError(f"{name} is a {known[name].__name__}")
        return cls(**data)

    def take_status(self) -> int:
        """The status to answer with now (0: none); counts `remaining` down."""
        if not self.status or self.remaining == 0:
            return 0
        if self.remaining > 0:
            self.remaining -= 1
        return self.status


@dataclass(slots=True)
class _Histogram:
    """A Prometheus histogram of seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(_BUCKETS) + 1))
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        at = next((at for at, bound in enumerate(_BUCKETS) if seconds <= bound), len(_BUCKETS))
        self.counts[at] += 1
        self.total += seconds

    def lines(self, name: str, label: str) -> list[str]:
        rows, below = [f"# TYPE {name} histogram"], 0
        for bound, count in zip([*map(str, _BUCKETS), "+Inf"], self.counts, strict=True):
            below += count
            rows.append(f'{name}_bucket{{{label},le="{bound}"}} {below}')
        return [*rows, f"{name}_sum{{{label}}} {self.total:.6f}", f"{name}_count{{{label}}} {below}"]


@dataclass(slots=True)
class _Figures:
    """What /metrics shows (vLLM's names)."""

    waiting: int = 0
    running: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    finished: int = 0
    queue_time: _Histogram = field(default_factory=_Histogram)
    prefill_time: _Histogram = field(default_factory=_Histogram)
    first_token: _Histogram = field(default_factory=_Histogram)
    inter_token: _Histogram = field(default_factory=_Histogram)


@dataclass(frozen=True, slots=True)
class _Job:
    """One understood request."""

    chat: bool
    model: str
    prompt: str
    prompt_tokens: int
    tokens: int
    stream: bool
    include_usage: bool
    seed: int

    @property
    def usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.tokens,
            "total_tokens": self.prompt_tokens + self.tokens,
        }

    def words(self) -> list[str]:
        """The answer's tokens: the same for the same seed and prompt."""
        digest = hashlib.blake2b(f"{self.seed}\0{self.prompt}".encode(), digest_size=8).digest()
        source = random.Random(int.from_bytes(digest, "big"))  # noqa: S311 - words, not secrets
        return [source.choice(_WORDS) + " " for _ in range(self.tokens)]


class BadRequest(Exception):
    """The request is not what OpenAI's API takes; the message says why."""


def _text(content: object) -> str:
    """The text of a message's content: a string, or parts of which only text counts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return ""


def parse_job(body: bytes, chat: bool, settings: ServerSettings) -> _Job:
    """The request in `body`; BadRequest where it is not one."""
    try:
        data: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON") from None
    if not isinstance(data, dict):
        raise BadRequest("the body is not a JSON object")
    if chat:
        messages = data.get("messages")
        if not isinstance(messages, list) or not messages or not all(isinstance(item, dict) for item in messages):
            raise BadRequest("'messages' must be a list of at least one message")
        prompt = "\n".join(f"{item.get('role', '')}: {_text(item.get('content'))}" for item in messages)
    else:
        prompt = data.get("prompt", "")
        if isinstance(prompt, list) and all(isinstance(item, str) for item in prompt):
            prompt = "\n".join(prompt)
        if not isinstance(prompt, str):
            raise BadRequest("'prompt' must be a string or a list of strings")
    tokens = data.get("max_completion_tokens") or data.get("max_tokens") or settings.default_tokens
    if not isinstance(tokens, int) or isinstance(tokens, bool) or not 1 <= tokens <= _MOST_TOKENS:
        raise BadRequest(f"'max_tokens' must be 1 to {_MOST_TOKENS}")
    options = data.get("stream_options")
    seed = data.get("seed")
    return _Job(
        chat=chat,
        model=str(data.get("model", settings.model))[:200],
        prompt=prompt,
        prompt_tokens=max(1, len(prompt.split())),
        tokens=tokens,
        stream=data.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        seed=settings.seed if not isinstance(seed, int) else settings.seed ^ seed,
    )


class SimulatedServer:
    """One server: `app()` is its aiohttp application."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._slots = asyncio.Semaphore(settings.slots)
        self._engine = EngineDriver(settings.engine) if settings.engine is not None else None
        self._figures = _Figures()
        self._adapters = Adapters(settings.adapters, settings.most_adapters)
        self._faults = Faults()
        self._serial = 0

    def app(self) -> web.Application:
        """The routes of the server."""
        app = web.Application(client_max_size=BODY_LIMIT)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/faults", self._show_faults)
        app.router.add_put("/faults", self._set_faults)
        app.cleanup_ctx.append(self._drive)
        return app

    async def _drive(self, _: web.Application) -> AsyncIterator[None]:
        """Keeps the engine's steps going as long as the server runs."""
        if self._engine is None:
            yield
            return
        steps = asyncio.create_task(self._engine.run(), name="engine steps")
        try:
            yield
        finally:
            steps.cancel()
            await asyncio.wait([steps])

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, chat=True)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, chat=False)

    async def _answer(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        try:
            job = parse_job(await request.read(), chat, self._settings)
        except BadRequest as error:
            return _error(400, str(error), "invalid_request_error")
        faults = self._faults
        status = faults.take_status()
        if faults.delay:
            await asyncio.sleep(faults.delay)
        if faults.hang:
            await asyncio.Event().wait()
        if status:
            return _error(status, "a fault was asked for", "injected_fault")
        self._serial += 1
        name = f"{'chatcmpl' if chat else 'cmpl'}-{self._settings.seed}-{self._serial}"
        model = job.model if job.model in self._adapters.names else self._settings.model
        head = {"id": name, "created": int(time.time()), "model": model}
        if self._engine is None:
            words = self._run(job, faults.cut_after)
        else:
            words = self._run_engine(self._engine, job, faults.cut_after)
        words = self._adapted(job.model, words)
        if job.stream:
            return await self._stream(request, job, head, words)
        try:
            text = "".join([word async for word in words])
        except ConnectionResetError:
            _cut(request)
            raise
        except TooLong:
            return _error(400, "the prompt and 'max_tokens' are longer than the KV cache", "invalid_request_error")
        body = {"object": "chat.completion" if chat else "text_completion", **head}
        message = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        choice = {"index": 0, **message, "finish_reason": "length", "logprobs": None}
        return web.json_response({**body, "choices": [choice], "usage": job.usage})

    async def _adapted(self, model: str, words: AsyncIterator[str]) -> AsyncIterator[str]:
        """The tokens, once the model's adapter is loaded."""
        try:
            async with self._adapters.use(model):
                async for word in words:
                    yield word
        finally:
            await words.aclose()  # type: ignore[attr-defined]

    async def _run(self, job: _Job, cut_after: int) -> AsyncIterator[str]:
        """The tokens at their times, first waiting for a slot; books every phase."""
        figures, arrived = self._figures, time.monotonic()
        figures.waiting += 1
        try:
            await self._slots.acquire()
        finally:
            figures.waiting -= 1
        figures.running += 1
        started = time.monotonic()
        figures.queue_time.observe(started - arrived)
        try:
            await asyncio.sleep(job.prompt_tokens / self._settings.prefill_rate)
            figures.prefill_time.observe(time.monotonic() - started)
            figures.prompt_tokens += job.prompt_tokens
            last = time.monotonic()
            due = last
            for at, word in enumerate(job.words()):
                if at == cut_after:
                    raise ConnectionResetError("a fault was asked for")
                due += 1.0 / self._settings.decode_rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                now = time.monotonic()
                (figures.first_token if at == 0 else figures.inter_token).observe(now - (arrived if at == 0 else last))
                last = now
                figures.generation_tokens += 1
                yield word
            figures.finished += 1
        finally:
            figures.running -= 1
            self._slots.release()

    async def _run_engine(self, engine: EngineDriver, job: _Job, cut_after: int) -> AsyncIterator[str]:
        """The tokens when the engine makes them; books every phase. TooLong before the first."""
        figures, arrived = self._figures, time.monotonic()
        words, last = job.words(), arrived
        steps = engine.tokens(job.prompt.split(), job.tokens)
        try:
            at = 0
            async for waited in steps:
                now = time.monotonic()
                if at == 0:
                    figures.queue_time.observe(waited)
                    figures.prefill_time.observe(now - arrived - waited)
                    figures.prompt_tokens += job.prompt_tokens
                if at == cut_after:
                    raise ConnectionResetError("a fault was asked for")
                (figures.first_token if at == 0 else figures.inter_token).observe(now - last)
                figures.generation_tokens += 1
                yield words[at]
                last, at = now, at + 1
            figures.finished += 1
        finally:
            await steps.aclose()  # type: ignore[attr-defined]

    async def _stream(
        self, request: web.Request, job: _Job, head: dict[str, Any], words: AsyncIterator[str]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream", "cache-control": "no-cache"})
        await response.prepare(request)
        kind = "chat.completion.chunk" if job.chat else "text_completion"

        async def send(choices: list[dict[str, Any]], **more: Any) -> None:
            event = {"object": kind, **head, "choices": choices, **more}
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")

        def choice(text: str, finish: str | None = None, **delta: str) -> list[dict[str, Any]]:
            part = {"delta": {**delta, "content": text} if text else delta} if job.chat else {"text": text}
            return [{"index": 0, **part, "finish_reason": finish, "logprobs": None}]

        try:
            if job.chat:
                await send(choice("", role="assistant"))
            async for word in words:
                await send(choice(word))
            await send(choice("", "length"))
            if job.include_usage:
                await send([], usage=job.usage)
            await response.write(b"data: [DONE]\n\n")
            await response.write_eof()
        except ConnectionResetError:
            _cut(request)
        finally:
            await words.aclose()  # type: ignore[attr-defined]
        return response

    async def _models(self, _: web.Request) -> web.Response:
        model = {"id": self._settings.model, "object": "model", "created": 0, "owned_by": "headrace"}
        adapters = [{**model, "id": name, "parent": self._settings.model} for name in self._adapters.names]
        return web.json_response({"object": "list", "data": [model, *adapters]})

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=503 if self._faults.unhealthy else 200)

    async def _show_faults(self, _: web.Request) -> web.Response:
        return web.json_response(asdict(self._faults))

    async def _set_faults(self, request: web.Request) -> web.Response:
        try:
            self._faults = Faults.parse(json.loads(await request.read()))
        except ValueError as error:
            return _error(400, str(error), "invalid_request_error")
        return web.json_response(asdict(self._faults))

    async def _metrics(self, _: web.Request) -> web.Response:
        if self._faults.mute:
            await asyncio.Event().wait()
        figures = self._figures
        label = f'model_name="{self._settings.model}"'
        gauges: dict[str, float] = {
            "vllm:num_requests_running": figures.running,
            "vllm:num_requests_waiting": figures.waiting,
            "vllm:kv_cache_usage_perc": round(figures.running / self._settings.slots, 6),
        }
        counters = {
            "vllm:prompt_tokens_total": figures.prompt_tokens,
            "vllm:generation_tokens_total": figures.generation_tokens,
        }
        if self._engine is not None:
            gauges = self._engine.metrics()
            counters |= self._engine.counters()
        if (claimed := self._faults.claimed_waiting) >= 0:
            gauges |= {"vllm:num_requests_running": claimed, "vllm:num_requests_waiting": claimed}
            gauges["vllm:kv_cache_usage_perc"] = min(1.0, float(claimed))
        lines = [
            line for name, value in gauges.items() for line in (f"# TYPE {name} gauge", f"{name}{{{label}}} {value}")
        ]
        for name, value in counters.items():
            lines += [f"# TYPE {name.removesuffix('_total')} counter", f"{name}{{{label}}} {value}"]
        if self._engine is not None:
            config = ",".join(f'{key}="{value}"' for key, value in self._engine.cache_config().items())
            lines += ["# TYPE vllm:cache_config_info gauge", f"vllm:cache_config_info{{{config},{label}}} 1"]
        lines += self._adapters.metric(label)
        lines += ["# TYPE vllm:request_success counter"]
        lines += [f'vllm:request_success_total{{finished_reason="length",{label}}} {figures.finished}']
        lines += figures.queue_time.lines("vllm:request_queue_time_seconds", label)
        lines += figures.prefill_time.lines("vllm:request_prefill_time_seconds", label)
        lines += figures.first_token.lines("vllm:time_to_first_token_seconds", label)
        lines += figures.inter_token.lines("vllm:inter_token_latency_seconds", label)
        return web.Response(text="\n".join(lines) + "\n", content_type="text/plain")


def _error(status: int, message: str, kind: str) -> web.Response:
    """An error in OpenAI's shape."""
    return web.json_response({"error": {"message": message, "type": kind, "code": status}}, status=status)


def _cut(request: web.Request) -> None:
    """Break the connection as a crashed server would."""
    if request.transport is not None:
        request.transport.abort()
