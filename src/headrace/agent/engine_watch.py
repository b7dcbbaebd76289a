"""Follows what the model server of one replica says of its load, off the path of every request.

Run by `agent.replica` as one task for each replica whose Workload names an engine. What it learns goes into
`agent.engine_loads`; nothing that it meets (a missing page, a server that hangs or lies) changes anything else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from headrace.agent.context import HostContext
from headrace.agent.engine_loads import ReplicaLoad
from headrace.agent.prober import ProbeWay
from headrace.agent.scrape import ScrapeError, scrape
from headrace.floor.backoff import Backoff
from headrace.model.workload import Engine, WorkloadPort

PERIOD = 1.0
"""Seconds between two questions."""
_JITTER = 0.2
_MOST_PAUSE = 30.0
METRICS_PORT = "metrics"
"""A port of this name is where the metrics are; without one they are asked for on the first port."""
_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask now: the engine, the way to it, its port on its own 127.0.0.1, and its endpoints' addresses as
    proxies know them."""

    engine: Engine
    way: ProbeWay
    port: int
    addresses: tuple[str, ...]


def engine_of(text: str) -> Engine | None:
    """The engine that is worth asking: one that this agent knows (a newer control plane may know more) and that says
    something of its load (Ollama does not)."""
    known = text in set(Engine) and text != Engine.OLLAMA
    return Engine(text) if known else None


def metrics_port(ports: tuple[WorkloadPort, ...]) -> int:
    """The port of the workload that is asked; 0 stands for the first."""
    return next((port.number for port in ports if port.name == METRICS_PORT), 0)


def endpoint_addresses(address: str, ports: tuple[int, ...]) -> tuple[str, ...]:
    """`address:port` as Envoy writes them."""
    host = f"[{address}]" if ":" in address else address
    return tuple(f"{host}:{port}" for port in ports)


async def watch_engine(replica: str, target: Callable[[], Target | None], context: HostContext) -> None:
    """Ask every second until cancelled, less often while there is no answer. `target` says whom: None while nobody can
    be asked."""
    loads = context.loads
    backoff = Backoff(PERIOD, _MOST_PAUSE, _JITTER, context.source)
    try:
        while True:
            now = target()
            if now is None:
                loads.forget(replica)
                backoff.reset()
            elif await _ask(replica, now, context):
                backoff.reset()
            await asyncio.sleep(backoff.next())
    finally:
        loads.forget(replica)


async def _ask(replica: str, target: Target, context: HostContext) -> bool:
    """Whether there was an answer."""
    before = context.loads.own(replica) or ReplicaLoad(target.addresses)
    asked = context.clock.monotonic()
    try:
        metrics = await scrape(target.way, target.engine, target.port)
    except Exception as error:  # a page that nobody foresaw must not end the replica's other tasks
        problem = str(error) if isinstance(error, ScrapeError) else f"unforeseen {type(error).__name__} in reading it"
        if problem != before.problem:
            _log.warning("engine's metrics not read; the mesh goes by its own books", replica=replica, reason=problem)
        context.loads.set(replica, before.failed(problem))
        return False
    if before.problem:
        _log.info("engine's metrics are read", replica=replica)
    context.loads.set(replica, ReplicaLoad(target.addresses, metrics, asked))
    return True
