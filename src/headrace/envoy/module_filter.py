"""The native module as Envoy's configuration names it.

Called by `translate.hcm`, which decides where the filter stands, and by `envoy.module`, which tries it out; apart from
both so that the agent, which only tries it out, need not load the whole translation at its start.
"""

from __future__ import annotations

from typing import Any

from envoy.extensions.dynamic_modules.v3 import dynamic_modules_pb2 as module_pb2
from envoy.extensions.filters.http.dynamic_modules.v3 import dynamic_modules_pb2 as module_filter_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf import any_pb2

MODULE_NAME = "headrace_envoy"
"""The native module: Envoy looks for `libheadrace_envoy.so` in ENVOY_DYNAMIC_MODULES_SEARCH_PATH."""
MODULE_FILTER = "noop"


def module_filter() -> Any:
    """Headrace's native module as an HTTP filter."""
    config = module_filter_pb2.DynamicModuleFilter(
        dynamic_module_config=module_pb2.DynamicModuleConfig(name=MODULE_NAME, do_not_close=True),
        filter_name=MODULE_FILTER,
    )
    packed = any_pb2.Any()
    packed.Pack(config, deterministic=True)
    return hcm_pb2.HttpFilter(name="envoy.filters.http.dynamic_modules", typed_config=packed)
