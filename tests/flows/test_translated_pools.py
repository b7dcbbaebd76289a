"""What pools become for proxies with the native module is what the real Envoy, with the module, accepts."""

from __future__ import annotations

import pytest
from tests.unit.envoy.translate.test_engine_pools import PLAIN_RULE, WORKLOAD
from tests.unit.envoy.translate.test_overflow import POOLS, RULE, SUBSET
from tests.unit.envoy.translate.test_pools import SERVICE, gateway, sidecar, snapshot, translated

from headrace.envoy.module import check_module
from headrace.envoy.resources import ResourceSet
from headrace.envoy.validation import refusal
from headrace.model.proxy import CaptureKind

_MODULE = check_module()
pytestmark = pytest.mark.skipif(not _MODULE.usable, reason=_MODULE.problem or "the native module is usable")

POLICY = """
apiVersion: headrace.dev/v1alpha1
kind: InferencePolicy
metadata: {name: big}
spec:
  targetRefs: [{group: inference.networking.k8s.io, kind: InferencePool, name: big}]
  picking: {policy: predicted-drain, sessionHeader: x-session, warmup: 30s}
  admission:
    requestsPerSecond: 20
    concurrency: 64
    concurrencyPerEndpoint: 8
    queue: {depth: 30, tokens: 90000, time: 10m}
    priorities: {header: x-priority, levels: [chat, batch], starvation: 10s}
    fairness: FAIRNESS
    firstTokenDeadline: {header: x-slo, default: 5s}
    overflow:
      action: Redirect
      backend: {group: inference.networking.k8s.io, kind: InferencePool, name: spare, subset: v2}
  timeouts: {firstToken: 30s, betweenTokens: 10s, total: 600s, keepalive: 15s}
  retries: {attempts: 1}
  observation: {usage: Inject}
"""
TENANTS = {
    "identity": "{key: identity, tenantQueue: {depth: 5, tokens: 1000}, tokenCost: 0.5}",
    "header": "{key: header, name: x-team, weights: {gold: 4}}",
    "claim": "{key: jwtClaim, name: org.team, weights: {gold: 4}}",
}


def test_envoy_accepts_all_that_a_policy_can_say() -> None:
    sets: dict[str, ResourceSet] = {}
    proxies = {"gateway": gateway()} | {kind.value: sidecar(kind) for kind in CaptureKind}
    for key, fairness in TENANTS.items():
        mesh = snapshot(SERVICE, POOLS, RULE, SUBSET, POLICY.replace("FAIRNESS", fairness))
        sets |= {f"{key}/{name}": translated(mesh, proxy) for name, proxy in proxies.items()}
    assert refusal(sets) is None


def test_envoy_accepts_a_service_that_is_a_pool_by_its_engine() -> None:
    mesh = snapshot(PLAIN_RULE, WORKLOAD)
    assert refusal({"gateway": translated(mesh, gateway())}) is None
