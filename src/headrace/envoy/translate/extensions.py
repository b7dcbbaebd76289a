"""Code that documents put among a proxy's filters: WebAssembly modules and Lua programs.

Called by `hcm` and `tcp_proxy`. The places are Istio's: AUTHN before tokens are looked at, AUTHZ before policies, STATS
and all others after them; within a phase by priority (`registry.extensions` has sorted them).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.filters.http.lua.v3 import lua_pb2
from envoy.extensions.filters.http.wasm.v3 import wasm_pb2 as http_wasm_pb2
from envoy.extensions.filters.network.wasm.v3 import wasm_pb2 as network_wasm_pb2
from envoy.extensions.wasm.v3 import wasm_pb2
from google.protobuf import wrappers_pb2

from headrace.envoy.translate.authorization import HTTP_RBAC
from headrace.envoy.translate.authorizers import HTTP_AUTHORIZER
from headrace.envoy.translate.jwt_claims import JWT_FILTER
from headrace.envoy.translate.messages import http_filter, packed
from headrace.model.extension import Extension, Phase, Wasm
from headrace.model.mesh import MeshConfig

_RUNTIME = "envoy.wasm.runtime.v8"
_LAST = (Phase.STATS, Phase.UNSPECIFIED)


def with_extensions(first: Sequence[Any], mesh: MeshConfig, *, server: bool, port: int) -> list[Any]:
    """The HTTP filters `first` (policies among them) with the extensions for one side and port in their places."""
    code = [item for item in mesh.extensions if not item.network and item.looks_at(server, port)]
    if not code:
        return list(first)
    names = [item.name for item in first]
    tokens = _place(names, JWT_FILTER)
    authn = names.index(JWT_FILTER) if tokens else _place(names, HTTP_AUTHORIZER)
    if not authn and not tokens:
        authn = names.index(HTTP_RBAC) if HTTP_RBAC in names else len(names)
    authz = max(tokens, authn)
    return [
        *first[:authn],
        *_http(code, (Phase.AUTHN,)),
        *first[authn:authz],
        *_http(code, (Phase.AUTHZ,)),
        *first[authz:],
        *_http(code, _LAST),
    ]


def network_extensions(mesh: MeshConfig, *, server: bool, port: int, guards: Sequence[Any] = ()) -> list[Any]:
    """The network filters of a chain before the one that ends it: its `guards`, and the extensions around them."""
    code = [item for item in mesh.extensions if item.network and item.looks_at(server, port)]
    return [*_network(code, (Phase.AUTHN, Phase.AUTHZ)), *guards, *_network(code, _LAST)]


def _place(names: Sequence[str], name: str) -> int:
    """The place behind the last filter of this name; 0: there is none."""
    return max((at + 1 for at, found in enumerate(names) if found == name), default=0)


def _http(code: Iterable[Extension], phases: Sequence[Phase]) -> list[Any]:
    found = []
    for phase in phases:
        for item in code:
            if item.phase is not phase:
                continue
            if item.wasm is not None:
                found.append(http_filter(_name(item), http_wasm_pb2.Wasm(config=_plugin(item, item.wasm))))
            elif item.lua:
                program = lua_pb2.Lua()
                program.default_source_code.inline_string = item.lua
                found.append(http_filter(_name(item), program))
    return found


def _network(code: Iterable[Extension], phases: Sequence[Phase]) -> list[Any]:
    return [
        listener_components_pb2.Filter(
            name=_name(item), typed_config=packed(network_wasm_pb2.Wasm(config=_plugin(item, item.wasm)))
        )
        for phase in phases
        for item in code
        if item.phase is phase and item.wasm is not None
    ]


def _name(item: Extension) -> str:
    return f"extensions.istio.io/trafficextension/{item.meta.namespace}.{item.meta.name}"


def _plugin(item: Extension, wasm: Wasm) -> Any:
    kind = wasm_pb2.FailurePolicy
    config = wasm_pb2.PluginConfig(
        name=f"{item.meta.namespace}.{item.meta.name}", root_id=wasm.root_id, failure_policy=kind.Value(wasm.failure)
    )
    if wasm.configuration:
        config.configuration.CopyFrom(packed(wrappers_pb2.StringValue(value=wasm.configuration)))
    machine = config.vm_config
    machine.runtime = _RUNTIME
    machine.code.local.filename = wasm.path
    if wasm.variables or wasm.inherited:
        machine.environment_variables.key_values.update(dict(wasm.variables))
        machine.environment_variables.host_env_keys.extend(wasm.inherited)
    return config
