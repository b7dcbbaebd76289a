"""Explicit timeouts for calls to model servers, where nobody wrote any ("never trust default timeouts").

Read by `envoy.translate` (routes and clusters) and shown by `headrace describe`. Envoy's own defaults (15 s for an
answer, 5 min for a silent stream) and Istio's (none at all) are both wrong for a model server: an answer takes minutes,
and a server that is stuck must not hold its callers for ever.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.model.workload import Engine


@dataclass(frozen=True, slots=True)
class EngineTimeouts:
    """Seconds. `total`: from the end of the request to the end of the answer. `idle`: the longest silence on a stream,
    which a call without streaming spends in the queue, in prefill and in the whole generation. `connect`: for the TCP
    and TLS handshake."""

    total: float
    idle: float
    connect: float


_SERVED_BY_GPU = EngineTimeouts(total=600.0, idle=300.0, connect=2.0)
"""600 s is also what the openai client waits by default, so that the mesh gives up no earlier than its callers."""
_LOADS_ON_DEMAND = EngineTimeouts(total=900.0, idle=600.0, connect=2.0)
"""llama.cpp and Ollama run on a CPU too, and Ollama loads a model at its first request."""
_REMOTE = EngineTimeouts(total=600.0, idle=300.0, connect=5.0)
"""A hosted API is reached over the internet."""

_BY_ENGINE = {
    Engine.VLLM: _SERVED_BY_GPU,
    Engine.SGLANG: _SERVED_BY_GPU,
    Engine.TGI: _SERVED_BY_GPU,
    Engine.TRTLLM: _SERVED_BY_GPU,
    Engine.TRITON: _SERVED_BY_GPU,
    Engine.LLAMACPP: _LOADS_ON_DEMAND,
    Engine.OLLAMA: _LOADS_ON_DEMAND,
    Engine.OPENAI: _REMOTE,
}


def engine_timeouts(engine: str) -> EngineTimeouts | None:
    """The timeouts of an engine by its name (`Service.engine`); None for '' and for a name that is not known."""
    try:
        return _BY_ENGINE[Engine(engine)]
    except ValueError:
        return None
