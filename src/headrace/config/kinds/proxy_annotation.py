"""The annotation `proxy.istio.io/config`: settings of one workload's proxy, as YAML of a ProxyConfig.

Used by the kinds that describe workloads. A value that is none says nothing: `config.analysis.annotations` names it
(IST0125). Only `gatewayTopology`, `concurrency` and `proxyMetadata` are acted on.
"""

from __future__ import annotations

from pydantic import ValidationError

from headrace.config.kinds.proxy_config import ProxyConfigSpec, lower_topology
from headrace.config.text import Parsed, parse
from headrace.model.mesh import GatewayTopology
from headrace.model.proxy_config import ANNOTATION, UNSET, ProxySettings
from headrace.model.resource import Labels

_LONGEST = 64 * 1024


def topology_of(annotations: Labels) -> GatewayTopology | None:
    """What the annotation says of what stands before the gateway; None where it says nothing."""
    spec = _spec(annotations)
    return lower_topology(spec) if spec is not None and spec.gateway_topology is not None else None


def settings_of(annotations: Labels) -> ProxySettings:
    """What the annotation says of the threads and the environment of the proxy."""
    return proxy_settings(_spec(annotations))


def _spec(annotations: Labels) -> ProxyConfigSpec | None:
    text = annotations.get(ANNOTATION, "")
    if not text or len(text) > _LONGEST:
        return None
    parts = parse(text)
    if len(parts) != 1 or not isinstance(parts[0], Parsed):
        return None
    try:
        return ProxyConfigSpec.model_validate(parts[0].data)
    except ValidationError:
        return None


def proxy_settings(spec: ProxyConfigSpec | None) -> ProxySettings:
    """What MeshConfig.defaultConfig, or an annotation of the same form, says of proxies."""
    if spec is None:
        return UNSET
    return ProxySettings(spec.concurrency, tuple(sorted(spec.proxy_metadata.items())))
