"""Code that proxies run for a workload (istio.extensions.v1alpha1 WasmPlugin and TrafficExtension).

Made by `config.kinds.wasm_plugin` and `config.kinds.traffic_extension`, chosen by `registry.extensions`, put among the
filters by `envoy.translate.extensions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from headrace.model.policy import PolicyScope
from headrace.model.resource import Metadata
from headrace.model.telemetry import WorkloadMode
from headrace.model.traffic import Pairs


class Phase(StrEnum):
    """Where among the filters: before authentication, before authorization, before statistics, or last."""

    UNSPECIFIED = "UNSPECIFIED"
    AUTHN = "AUTHN"
    AUTHZ = "AUTHZ"
    STATS = "STATS"


@dataclass(frozen=True, slots=True)
class Wasm:
    """A WebAssembly module from a file. `configuration` is JSON text ('' : none). `failure` is FAIL_CLOSED, FAIL_OPEN
    or FAIL_RELOAD; `inherited` are names of variables of the proxy's own environment."""

    path: str
    root_id: str = ""
    configuration: str = ""
    failure: str = "FAIL_CLOSED"
    variables: Pairs = ()
    inherited: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TrafficMatch:
    """What an extension looks at: one side's connections, on some ports (none named: on all)."""

    mode: WorkloadMode = WorkloadMode.CLIENT_AND_SERVER
    ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Extension:
    """A WasmPlugin or a TrafficExtension: a Wasm module or a Lua program (`wasm` None). `network`: it looks at bytes
    instead of requests."""

    meta: Metadata
    scope: PolicyScope
    phase: Phase = Phase.UNSPECIFIED
    priority: int | None = None
    matches: tuple[TrafficMatch, ...] = ()
    wasm: Wasm | None = None
    lua: str = ""
    network: bool = False

    def looks_at(self, server: bool, port: int) -> bool:
        """Whether it looks at what one side of a proxy does on a port (0: nobody knows which)."""
        side = WorkloadMode.SERVER if server else WorkloadMode.CLIENT
        return not self.matches or any(
            match.mode in (WorkloadMode.CLIENT_AND_SERVER, side) and (not match.ports or port in match.ports)
            for match in self.matches
        )
