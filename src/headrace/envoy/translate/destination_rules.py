"""Which policy holds for one port and subset of a service: the inheritance rules of a DestinationRule.

Called by `clusters`, `assignments` and `routes`. Istio's rules: a subset overrides by block, never by field; settings
of a port replace all blocks wholesale, also with nothing (those of a subset's port keep what a port cannot have).
"""

from __future__ import annotations

from dataclasses import replace

from headrace.model.destination import ConsistentHash, DestinationRule, LbPolicy, Subset, TrafficPolicy
from headrace.model.mesh import MeshTraffic

_NOTHING = TrafficPolicy()


def with_mesh_defaults(policy: TrafficPolicy, mesh: MeshTraffic) -> TrafficPolicy:
    """The policy, with the mesh's connection pool and ejection where it has none of its own (whole blocks: Istio)."""
    pool = policy.connection_pool or mesh.pool
    outliers = policy.outlier_detection or mesh.outliers
    if pool is policy.connection_pool and outliers is policy.outlier_detection:
        return policy
    return replace(policy, connection_pool=pool, outlier_detection=outliers)


def effective_policy(rule: DestinationRule | None, port: int, subset: Subset | None = None) -> TrafficPolicy:
    """The blocks that hold for `port` of the rule's service, and for a subset of it."""
    if rule is None:
        return _NOTHING
    whole, _ = _for_port(rule.policy, port)
    if subset is None or subset.policy is None:
        return whole
    own, replaces = _for_port(subset.policy, port)
    shared = own if replaces else whole
    return TrafficPolicy(
        load_balancer=own.load_balancer or shared.load_balancer,
        connection_pool=own.connection_pool or shared.connection_pool,
        outlier_detection=own.outlier_detection or shared.outlier_detection,
        tls=own.tls or shared.tls,
        proxy_protocol=own.proxy_protocol or whole.proxy_protocol,
        retry_budget=own.retry_budget or whole.retry_budget,
    )


def passes_through(policy: TrafficPolicy, *, routed: bool) -> bool:
    """Whether connections go to the address that the caller meant (`routed`: `MeshConfig.routed`)."""
    return routed and policy.load_balancer is not None and policy.load_balancer.simple is LbPolicy.PASSTHROUGH


def _for_port(policy: TrafficPolicy | None, port: int) -> tuple[TrafficPolicy, bool]:
    """The policy's blocks for a port, and whether port settings replaced them."""
    if policy is None:
        return _NOTHING, False
    for own in policy.ports:
        if own.port == port:
            return TrafficPolicy(own.load_balancer, own.connection_pool, own.outlier_detection, own.tls), True
    return policy, False


def subset_named(rule: DestinationRule | None, name: str) -> Subset | None:
    """The rule's subset of that name."""
    if rule is None or not name:
        return None
    return next((subset for subset in rule.subsets if subset.name == name), None)


def consistent_hash(rule: DestinationRule | None, port: int, subset: str = "") -> ConsistentHash | None:
    """The key by which calls to a port and subset stick to an endpoint (None: they do not)."""
    balancer = effective_policy(rule, port, subset_named(rule, subset)).load_balancer
    return balancer.consistent_hash if balancer else None
