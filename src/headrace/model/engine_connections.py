"""How connections from a sidecar to its own application are kept, so that none is used while the application closes it.

Read by `envoy.translate.inbound`. HTTP/1 servers end idle connections when they like; a request sent at that very
moment is lost, and a POST may not be sent twice. A new connection over the loopback interface costs about 50 µs, so the
sidecar always lets go first.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.model.workload import Engine


@dataclass(frozen=True, slots=True)
class ApplicationConnections:
    """`idle`: seconds after which an unused connection is closed (None: Envoy's hour). `requests`: how many requests
    one connection carries (None: any number)."""

    idle: float | None = None
    requests: int | None = None


DESCRIBED_ELSEWHERE = ApplicationConnections()
"""Workloads that others run: as Istio has it."""
RUN_HERE = ApplicationConnections(idle=1.5)
"""Any process: shorter than the shortest keep-alive of servers in common use (gunicorn 2 s; uvicorn, Node and llama.cpp
5 s)."""
_LLAMACPP = ApplicationConnections(idle=1.5, requests=1)
"""llama.cpp's server closes the connection after every streamed answer, and does not announce it."""


def engine_connections(engine: str) -> ApplicationConnections:
    """How to keep connections to a model server by its engine's name; '' and unknown names: as to any process."""
    return _LLAMACPP if engine == Engine.LLAMACPP else RUN_HERE
