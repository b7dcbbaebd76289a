"""What HTTP filters do on one route only: injected faults and cross-origin rules.

Called by `routes`. Both go into `typed_per_filter_config`; the filters themselves are in every connection manager.
"""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.common.fault.v3 import fault_pb2 as common_fault_pb2
from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.type.v3 import percent_pb2

from headrace.envoy.translate.messages import boolean, duration, packed
from headrace.envoy.translate.route_match import string_matcher
from headrace.model.traffic import Cors, Fault

FAULT = "envoy.filters.http.fault"
CORS = "envoy.filters.http.cors"
_MILLION = 10_000
"""Parts per million in one percent."""


def per_million(percent: float) -> Any:
    """A percentage as a fraction per million."""
    return percent_pb2.FractionalPercent(
        numerator=round(percent * _MILLION), denominator=percent_pb2.FractionalPercent.MILLION
    )


def runtime_fraction(percent: float) -> Any:
    """A percentage as a RuntimeFractionalPercent without a runtime key."""
    return base_pb2.RuntimeFractionalPercent(default_value=per_million(percent))


def apply_filters(route: Any, fault: Fault | None, cors: Cors | None) -> None:
    """Put the route's fault and CORS policy into it, where they do something."""
    if fault is not None:
        injected = _fault(fault)
        if injected is not None:
            route.typed_per_filter_config[FAULT].CopyFrom(packed(injected))
    if cors is not None:
        route.typed_per_filter_config[CORS].CopyFrom(packed(_cors(cors)))


def _fault(fault: Fault) -> Any | None:
    """The HTTPFault; None where neither part has an effect (a part without a percentage does nothing)."""
    found = fault_pb2.HTTPFault()
    if fault.delay is not None and fault.delay_percent > 0:
        found.delay.CopyFrom(
            common_fault_pb2.FaultDelay(fixed_delay=duration(fault.delay), percentage=per_million(fault.delay_percent))
        )
    if fault.abort_percent > 0 and fault.abort_status is not None:
        found.abort.http_status = fault.abort_status
        found.abort.percentage.CopyFrom(per_million(fault.abort_percent))
    elif fault.abort_percent > 0 and fault.abort_grpc_status is not None:
        found.abort.grpc_status = fault.abort_grpc_status
        found.abort.percentage.CopyFrom(per_million(fault.abort_percent))
    return found if found.ByteSize() else None


def _cors(cors: Cors) -> Any:
    found = cors_pb2.CorsPolicy(
        allow_origin_string_match=[string_matcher(origin) for origin in cors.allow_origins],
        allow_methods=",".join(cors.allow_methods),
        allow_headers=",".join(cors.allow_headers),
        expose_headers=",".join(cors.expose_headers),
        filter_enabled=base_pb2.RuntimeFractionalPercent(
            default_value=percent_pb2.FractionalPercent(
                numerator=100, denominator=percent_pb2.FractionalPercent.HUNDRED
            )
        ),
        forward_not_matching_preflights=boolean(cors.unmatched_preflights != "IGNORE"),
    )
    if cors.max_age is not None:
        found.max_age = str(int(cors.max_age))
    if cors.allow_credentials is not None:
        found.allow_credentials.CopyFrom(boolean(cors.allow_credentials))
    return found
