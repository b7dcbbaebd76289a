"""The annotation `proxy.istio.io/config`: settings of one workload's proxy, as YAML of a ProxyConfig.

Used by the kinds that describe workloads. A value that is none says nothing: `config.analysis.annotations` names it
(IST0125). Only `gatewayTopology` is acted on.
"""

from __future__ import annotations

from pydantic import ValidationError

from headrace.config.kinds.proxy_config import ProxyConfigSpec, lower_topology
from headrace.config.text import Parsed, parse
from headrace.model.mesh import GatewayTopology
from headrace.model.proxy_config import ANNOTATION
from headrace.model.resource import Labels

_LONGEST = 64 * 1024


def topology_of(annotations: Labels) -> GatewayTopology | None:
    """What the annotation says of what stands before the gateway; None where it says nothing."""
    text = annotations.get(ANNOTATION, "")
    if not text or len(text) > _LONGEST:
        return None
    parts = parse(text)
    if len(parts) != 1 or not isinstance(parts[0], Parsed):
        return None
    try:
        spec = ProxyConfigSpec.model_validate(parts[0].data)
    except ValidationError:
        return None
    return lower_topology(spec) if spec.gateway_topology is not None else None
