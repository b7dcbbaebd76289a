"""Which workloads a policy is for: by labels, or by the Gateway that it names.

Part of AuthorizationPolicy, RequestAuthentication, EnvoyFilter, Telemetry and the extensions (istio.type.v1beta1). Made
by `config.kinds.policy_scope`, decided by `registry.policies`.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.model.traffic import Pairs

GATEWAY_GROUP = "gateway.networking.k8s.io"
GATEWAY_NAME_LABEL = "gateway.networking.k8s.io/gateway-name"
"""The label of a gateway's proxies that names their Gateway (Gateway API)."""


@dataclass(frozen=True, slots=True, order=True)
class PolicyTarget:
    """PolicyTargetReference: what a policy names, in its own namespace. `group` is "" for core kinds."""

    group: str
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class PolicyScope:
    """`selector` (label pairs, sorted; none: every workload) or `targets`; never both."""

    selector: Pairs = ()
    targets: tuple[PolicyTarget, ...] = ()
