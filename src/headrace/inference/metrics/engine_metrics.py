"""The one form in which the mesh knows a model server's load, whatever the server calls it."""

from __future__ import annotations

from dataclasses import dataclass


class MetricsError(Exception):
    """A page is no such page, or too large; the message says which and why, for whoever operates the server."""


@dataclass(frozen=True, slots=True)
class LoraMetrics:
    """LoRA adapters. `most`: how many may run at once (None: not said)."""

    running: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    most: int | None = None


@dataclass(frozen=True, slots=True)
class EngineMetrics:
    """The load of one model server at one moment. None means that the server does not say.

    `waiting`, `running`: requests in its queue and in its batch. `kv_used`: share of the KV cache in use, 0 to 1.
    `kv_tokens`: tokens that the KV cache holds in all. `block_tokens`: tokens of one of its blocks. `slots`: requests
    that it runs at once. `models`: what is loaded, where a server loads on demand.
    """

    waiting: float | None = None
    running: float | None = None
    kv_used: float | None = None
    kv_tokens: int | None = None
    block_tokens: int | None = None
    slots: int | None = None
    models: tuple[str, ...] = ()
    lora: LoraMetrics | None = None
