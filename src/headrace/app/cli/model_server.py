"""`headrace model-server`: a model server to put behind the mesh, simulated or llama.cpp with a small model."""

from __future__ import annotations

import os
import signal
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from headrace.app.cli import CommandFailed

app = typer.Typer(add_completion=False)


class EngineKind(StrEnum):
    """What computes the answers."""

    SIMULATED = "simulated"
    LLAMACPP = "llamacpp"


class TimingKind(StrEnum):
    """How long a simulated server takes."""

    SLOTS = "slots"
    ENGINE = "engine"


def model_cache() -> Path:
    """Where generated models are kept: $HEADRACE_CACHE, else the user's cache directory."""
    override = os.environ.get("HEADRACE_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(override) if override else base / "headrace"


@app.command(name="model-server")
def model_server(
    engine: Annotated[EngineKind, typer.Option(help="simulated, or llamacpp with a small generated model.")] = (
        EngineKind.SIMULATED
    ),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="PORT", min=1, max=65535, help="Port to listen on.")] = 8000,
    model: Annotated[str, typer.Option(help="Name of the served model.")] = "simulated",
    slots: Annotated[int, typer.Option(min=1, max=1024, help="Requests that run at once; others wait.")] = 4,
    seed: Annotated[int, typer.Option(help="Simulated: answers are the same for the same seed and prompt.")] = 0,
    prefill_rate: Annotated[float, typer.Option(min=1, help="Simulated: prompt tokens a second.")] = 20_000.0,
    decode_rate: Annotated[float, typer.Option(min=0.1, help="Simulated: answer tokens a second, a request.")] = 200.0,
    timing: Annotated[
        TimingKind,
        typer.Option(help="Simulated: fixed rates in slots, or the steps of an H100's engine."),
    ] = TimingKind.SLOTS,
    time_scale: Annotated[float, typer.Option(min=0.001, help="Timing engine: 2 is twice as slow.")] = 1.0,
    kv_tokens: Annotated[int, typer.Option(min=1024, help="Timing engine: tokens of KV cache.")] = 400_000,
    adapter: Annotated[
        list[str] | None, typer.Option(help="Simulated: an adapter (LoRA) that is served beside the model; repeatable.")
    ] = None,
    max_adapters: Annotated[int, typer.Option(min=1, help="Simulated: adapters that can be loaded at once.")] = 1,
    text: Annotated[str, typer.Option(help="llamacpp: the text the model is made of (river, forge).")] = "river",
    threads: Annotated[int, typer.Option(min=1, max=256, help="llamacpp: cores that compute.")] = 1,
    context: Annotated[int, typer.Option(min=64, help="llamacpp: tokens of context for each slot.")] = 2048,
) -> None:
    """Serve OpenAI's API (chat completions, completions, streaming, usage, /metrics). $PORT is honoured.

    Faults on demand, to try out circuit breaking: the simulated server takes them at PUT /faults; the llamacpp one
    answers 500 from SIGUSR1 to SIGUSR2 (its /health stays good: sick, not dead).
    """
    if engine is EngineKind.SIMULATED:
        from headrace.inference.engine_driver import EngineSettings
        from headrace.inference.simulated_server import ServerSettings

        steps = EngineSettings(kv_tokens=kv_tokens, time_scale=time_scale) if timing is TimingKind.ENGINE else None
        _run_simulated(
            ServerSettings(
                model,
                slots,
                prefill_rate,
                decode_rate,
                seed=seed,
                engine=steps,
                adapters=tuple(adapter or ()),
                most_adapters=max_adapters,
            ),
            host,
            port,
        )
        return
    _run_llama(text, model, (host, port), (slots, context, threads))


def _run_simulated(settings: object, host: str, port: int) -> None:
    import asyncio

    from aiohttp import web

    from headrace.inference.simulate import CoreMissing
    from headrace.inference.simulated_server import ServerSettings, SimulatedServer

    assert isinstance(settings, ServerSettings)

    async def serve() -> None:
        runner = web.AppRunner(
            SimulatedServer(settings).app(), access_log=None, handler_cancellation=True, shutdown_timeout=5.0
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise CommandFailed(f"cannot listen on {host}:{port} ({error.strerror}): choose another --port") from error
        print(f"simulated model server on http://{host}:{port}", flush=True)
        stopped = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        await stopped.wait()
        await runner.cleanup()

    try:
        asyncio.run(serve())
    except CoreMissing as error:
        raise CommandFailed(str(error)) from None


def _run_llama(text: str, model: str, address: tuple[str, int], size: tuple[int, int, int]) -> None:
    from headrace.inference.llamacpp_server import EngineMissing, LlamaServer, LlamaSettings
    from headrace.inference.tiny_model import TinyModel, ensure_model

    host, port = address
    slots, context, threads = size
    try:
        path = ensure_model(TinyModel(text), model_cache())
        server = LlamaServer(LlamaSettings(path, model, host, port, slots, context, threads))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: server.stop())
        signal.signal(signal.SIGUSR1, lambda *_: server.fall_sick())
        signal.signal(signal.SIGUSR2, lambda *_: server.recover())
        server.run(lambda line: print(line, flush=True))
    except ImportError:
        raise CommandFailed("the llamacpp engine is not installed: pip install 'headrace[models]'") from None
    except (EngineMissing, ValueError, OSError) as error:
        raise CommandFailed(str(error)) from error
