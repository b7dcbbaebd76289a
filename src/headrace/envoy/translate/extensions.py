"""Code that documents put among a proxy's filters: WebAssembly modules and Lua programs.

Called by `hcm` and `tcp_proxy`, and by `translate` for the modules themselves (`resources`): they are sent apart from
listeners, so that a module that Envoy cannot load takes no listener along. Until it has one, the filter lets everything
or nothing pass, as `failStrategy` says (Istio's rule). The places are Istio's: AUTHN before tokens are looked at, AUTHZ
before policies, STATS and all others after them; within a phase by priority (`registry.extensions` has sorted them).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from envoy.config.core.v3 import config_source_pb2, extension_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.lua.v3 import lua_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.http.wasm.v3 import wasm_pb2 as http_wasm_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2
from envoy.extensions.filters.network.wasm.v3 import wasm_pb2 as network_wasm_pb2
from envoy.extensions.wasm.v3 import wasm_pb2
from google.protobuf import wrappers_pb2

from headrace.envoy.resources import EXTENSION, XdsResource
from headrace.envoy.translate.authorization import HTTP_RBAC
from headrace.envoy.translate.authorizers import HTTP_AUTHORIZER
from headrace.envoy.translate.jwt_claims import JWT_FILTER
from headrace.envoy.translate.memo import Memo, resource_of
from headrace.envoy.translate.messages import ads, http_filter, packed
from headrace.model.extension import Extension, Phase, Wasm
from headrace.model.mesh import MeshConfig

_PREFIX = "type.googleapis.com/"
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


def resources(memo: Memo, mesh: MeshConfig) -> list[XdsResource]:
    """The WebAssembly modules of a proxy with their settings."""
    return [
        memo.get("extension", item, _extension, item, item.wasm) for item in mesh.extensions if item.wasm is not None
    ]


def _extension(item: Extension, wasm: Wasm) -> XdsResource:
    kind = network_wasm_pb2.Wasm if item.network else http_wasm_pb2.Wasm
    config = packed(kind(config=_plugin(item, wasm)))
    name = _name(item)
    return resource_of(EXTENSION, name, extension_pb2.TypedExtensionConfig(name=name, typed_config=config))


def _discovered(item: Extension, wasm: Wasm) -> Any:
    """Where a filter's module comes from, and what stands there as long as it has not come."""
    kind = network_wasm_pb2.Wasm if item.network else http_wasm_pb2.Wasm
    rules = None if wasm.failure == "FAIL_OPEN" else rbac_pb2.RBAC()  # without policies they allow nothing
    if item.network:
        instead = packed(network_rbac_pb2.RBAC(rules=rules, stat_prefix="extension."))
    else:
        instead = packed(http_rbac_pb2.RBAC(rules=rules))
    return config_source_pb2.ExtensionConfigSource(
        config_source=ads(None),
        default_config=instead,
        type_urls=[_PREFIX + kind.DESCRIPTOR.full_name, instead.type_url],
    )


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
                found.append(hcm_pb2.HttpFilter(name=_name(item), config_discovery=_discovered(item, item.wasm)))
            elif item.lua:
                program = lua_pb2.Lua()
                program.default_source_code.inline_string = item.lua
                found.append(http_filter(_name(item), program))
    return found


def _network(code: Iterable[Extension], phases: Sequence[Phase]) -> list[Any]:
    return [
        listener_components_pb2.Filter(name=_name(item), config_discovery=_discovered(item, item.wasm))
        for phase in phases
        for item in code
        if item.phase is phase and item.wasm is not None
    ]


def _name(item: Extension) -> str:
    """Istio's name. A module for bytes has another, as Envoy takes no two types of filter by one name."""
    ending = ".network" if item.network else ""
    return f"extensions.istio.io/trafficextension/{item.meta.namespace}.{item.meta.name}{ending}"


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
