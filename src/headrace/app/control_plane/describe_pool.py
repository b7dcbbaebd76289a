"""`describe service`: whether a service is a pool of model servers, and what its InferencePolicy says, in words.

Called by `describe`.
"""

from __future__ import annotations

from typing import Any

from headrace.model.inference import Admission, FairnessKey, InferencePolicy, PickPolicy
from headrace.model.service import Service
from headrace.registry.snapshot import MeshSnapshot


def policy_of(snapshot: MeshSnapshot, one: Service) -> InferencePolicy | None:
    """The InferencePolicy that speaks for a service: of several the oldest."""
    for policy in snapshot.inference_policies:
        namespace = policy.meta.namespace
        if namespace == one.namespace and any(target.host(namespace) == one.host for target in policy.targets):
            return policy
    return None


def pool(snapshot: MeshSnapshot, one: Service) -> dict[str, Any]:
    """How requests to the service are picked, held and shed; empty where it is no pool."""
    policy = policy_of(snapshot, one)
    if policy is None:
        if not (one.pool or one.engine):
            return {}
        why = "an InferencePool" if one.pool else f"a service of engine {one.engine}"
        return {"picking": f"{PickPolicy.PREDICTED_DRAIN.value} ({why}, without an InferencePolicy)"}
    found: dict[str, Any] = {
        "inference_policy": f"{policy.meta.namespace}/{policy.meta.name}",
        "document": f"{policy.meta.origin.file}:{policy.meta.origin.line}",
        "picking": policy.picking.policy.value,
        "admission": "; ".join(_admission(policy.admission)) or "nothing is held or refused",
    }
    if policy.redirects is not None:
        found["overflow"] = f"to {policy.redirects.host(policy.meta.namespace)}"
    if policy.retries is not None:
        found["sent again"] = "once, until its first token" if policy.retries else "never"
    return found


def _admission(admission: Admission) -> list[str]:
    found = []
    if admission.rate is not None:
        found.append(f"{admission.rate:g} requests a second, {admission.burst or 1} at once")
    if admission.pool_concurrency is not None:
        found.append(f"{admission.pool_concurrency} in flight")
    if admission.concurrency is not None:
        found.append(f"{admission.concurrency} in flight at each endpoint")
    if admission.learned_concurrency:
        found.append("as many in flight at each endpoint as it is known to run, and one more")
    queue = admission.queue
    if queue is not None and queue.depth:
        found.append(f"{queue.depth} may wait, {queue.time:g} s at most")
    if admission.priorities is not None:
        found.append(f"priorities by header {admission.priorities.header}")
    fairness = admission.fairness
    if fairness is not None:
        named = {FairnessKey.HEADER: f"header {fairness.name}", FairnessKey.JWT_CLAIM: f"claim {fairness.name}"}
        found.append(f"fair shares by {named.get(fairness.key, 'identity')}")
    return found
