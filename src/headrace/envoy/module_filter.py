"""The native module as Envoy's configuration names it.

Called by `translate.hcm` and `translate.pools`, which decide where its parts stand, and by `envoy.module`, which tries
them out; apart from all so that the agent, which only tries them out, need not load the whole translation at its start.
"""

from __future__ import annotations

import json
from typing import Any

from envoy.config.core.v3 import extension_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.dynamic_modules.v3 import dynamic_modules_pb2 as module_pb2
from envoy.extensions.filters.http.dynamic_modules.v3 import dynamic_modules_pb2 as module_filter_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf import any_pb2, wrappers_pb2
from google.protobuf.message import Message
from xds.type.v3 import typed_struct_pb2

MODULE_NAME = "headrace_envoy"
"""The native module: Envoy looks for `libheadrace_envoy.so` in ENVOY_DYNAMIC_MODULES_SEARCH_PATH."""
MODULE_FILTER = "noop"
POOL = "pool"
"""What the module calls its filter and its load-balancing policy for pools of model servers."""
POOL_FILTER = "headrace.pool"
KEEPALIVE = "keepalive"
"""What the module calls the filter by which clients hear something while they wait."""
KEEPALIVE_FILTER = "headrace.keepalive"
ATTEMPT = "attempt"
"""What the module calls its filter between the router and the endpoints, which withholds what nobody has seen yet."""
ATTEMPT_FILTER = "headrace.attempt"
GUARD = "guard"
"""What the module calls its network filter, and its HTTP filter, that end what revoked peers have under way."""
GUARD_FILTER = "headrace.guard"
_NETWORK_FILTER = "type.googleapis.com/envoy.extensions.filters.network.dynamic_modules.v3.DynamicModuleNetworkFilter"
_LB_POLICY = "envoy.load_balancing_policies.dynamic_modules"
_LB_CONFIG = (
    "type.googleapis.com/envoy.extensions.load_balancing_policies.dynamic_modules.v3.DynamicModulesLoadBalancerConfig"
)
_STRING = "type.googleapis.com/google.protobuf.StringValue"


def module_filter() -> Any:
    """Headrace's native module as an HTTP filter."""
    return _filter("envoy.filters.http.dynamic_modules", MODULE_FILTER)


def pool_filter(*, metadata: bool = True) -> Any:
    """The module's HTTP filter that reads, holds and observes requests to pools. Stands directly before the router; the
    settings are those of the pools' clusters, so that a change of them replaces no listener. `metadata`: whether
    anybody reads the dynamic metadata that it can write of each request."""
    return _filter(POOL_FILTER, POOL, "" if metadata else json.dumps({"metadata": "none"}))


def keepalive_filter() -> Any:
    """The module's HTTP filter through which `pool` tells clients of streams, while they wait, that they are not
    forgotten. Stands directly before it."""
    return _filter(KEEPALIVE_FILTER, KEEPALIVE)


def attempt_filter() -> Any:
    """The module's filter for one attempt of a request: first of a cluster's upstream filters."""
    return _filter(ATTEMPT_FILTER, ATTEMPT)


def guard_filter() -> Any:
    """The module's HTTP filter that ends requests to servers that are revoked. On the ways out of a proxy."""
    return _filter(GUARD_FILTER, GUARD)


def guard_network_filter() -> Any:
    """The module's network filter that closes connections of clients that are revoked. First of a chain that ends the
    mesh's TLS. xds-protos 1.85 lacks its message, so it goes as a TypedStruct."""
    config = typed_struct_pb2.TypedStruct(type_url=_NETWORK_FILTER)
    config.value.update({"dynamic_module_config": {"name": MODULE_NAME, "do_not_close": True}, "filter_name": GUARD})
    return listener_components_pb2.Filter(name=GUARD_FILTER, typed_config=_packed(config))


def pool_balancer(settings: str) -> Any:
    """The module's load-balancing policy, as a cluster's TypedExtensionConfig; `settings` is its JSON
    (docs/reference/module-config.md). xds-protos 1.85 lacks its message, so it goes as a TypedStruct."""
    config = typed_struct_pb2.TypedStruct(type_url=_LB_CONFIG)
    config.value.update(
        {
            "dynamic_module_config": {"name": MODULE_NAME, "do_not_close": True},
            "lb_policy_name": POOL,
            "lb_policy_config": {"@type": _STRING, "value": settings},
        }
    )
    return extension_pb2.TypedExtensionConfig(name=_LB_POLICY, typed_config=_packed(config))


def _filter(name: str, filter_name: str, settings: str = "") -> Any:
    config = module_filter_pb2.DynamicModuleFilter(
        dynamic_module_config=module_pb2.DynamicModuleConfig(name=MODULE_NAME, do_not_close=True),
        filter_name=filter_name,
    )
    if settings:
        config.filter_config.CopyFrom(_packed(wrappers_pb2.StringValue(value=settings)))
    return hcm_pb2.HttpFilter(name=name, typed_config=_packed(config))


def _packed(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message, deterministic=True)
    return packed
