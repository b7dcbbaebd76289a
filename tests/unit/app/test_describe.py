"""`describe` from a snapshot: which policies apply, with their documents, and the timeouts nobody wrote."""

from typing import Any

import pytest
from tests.unit.app.documents import SERVICE, WORKLOAD, revision_of

from headrace.app.control_plane import describe
from headrace.app.control_plane.answers import Refused
from headrace.app.control_plane.describe_workload import workload
from headrace.registry.build import build_snapshot

ROUTES = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: split}
spec:
  hosts: [chat]
  http:
  - match:
    - headers: {x-canary: {exact: v2}, x-any: {}}
    route: [{destination: {host: chat, subset: v2}}]
    timeout: 5s
  - route:
    - {destination: {host: chat, subset: v1}, weight: 90}
    - {destination: {host: chat, subset: v2}, weight: 10}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: breaker}
spec:
  host: chat
  trafficPolicy: {outlierDetection: {consecutive5xxErrors: 5, baseEjectionTime: 3m}}
  subsets: [{name: v1, labels: {version: v1}}]
"""


def service(*texts: str) -> dict[str, Any]:
    return describe.service(build_snapshot(revision_of(SERVICE, *texts), {}), "default", "chat")


def test_routes_are_described_in_order_with_their_lines_and_timeouts() -> None:
    described = service(WORKLOAD, ROUTES)
    first, second = described["routes"][0]["rules"]
    assert "header x-canary exact 'v2'" in first["when"] and "header x-any present" in first["when"]
    assert first["timeout"] == "5 s (written)"
    assert second["when"] == "always"
    assert second["then"].startswith("90% to chat.default.svc.cluster.local subset v1, 10% to")
    assert second["timeout"] == "600 s (explicit default of engine vllm)"
    assert described["routes"][0]["document"].startswith("test.yaml:")


def test_without_an_engine_there_is_no_default_timeout() -> None:
    described = service(WORKLOAD.replace("  engine: vllm\n", ""), ROUTES)
    assert described["routes"][0]["rules"][1]["timeout"] == "none"
    assert "write spec.http[].timeout" in described["timeouts"]["routes without a timeout"]


def test_circuit_breaking_is_shown_with_envoys_own_defaults() -> None:
    (rule,) = service(WORKLOAD, ROUTES)["destination_rules"]
    assert rule["outlier detection"] == "5 consecutive 5xx, interval 10 s, ejection 180 s, at most 10%"


def test_a_workload_shows_identity_services_and_mutual_tls() -> None:
    snapshot = build_snapshot(revision_of(SERVICE, WORKLOAD), {})
    row = {"proxy": "default/chat-v1-0", "state": "ready", "address": "x", "certificate_until": "y", "restarts": 0}
    other = row | {"proxy": "default/chat-v1-big-0"}
    described = workload(snapshot, "default", "chat-v1", [row, other])
    assert described["identity"] == "spiffe://cluster.local/ns/default/sa/model"
    assert described["services"] == ["chat.default.svc.cluster.local"]
    assert described["mutual tls"] == "PERMISSIVE"
    assert [item["proxy"] for item in described["replicas"]] == ["default/chat-v1-0"]
    assert "engine_metrics" not in described["replicas"][0]
    busy = {"waiting": 3.0, "running": 4.0, "kv_used": 0.5, "kv_tokens": None, "age_s": 0.4, "problem": None}
    described = workload(snapshot, "default", "chat-v1", [row | {"engine_metrics": busy}])
    assert described["replicas"][0]["engine_metrics"] == busy


POLICY = """
apiVersion: headrace.dev/v1alpha1
kind: InferencePolicy
metadata: {name: limits}
spec:
  targetRefs: [{kind: Service, name: chat}]
  admission:
    requestsPerSecond: 20
    queue: {depth: 30, time: 1s}
    fairness: {key: jwtClaim, name: org.team}
    overflow: {action: Redirect, backend: {kind: Service, name: spare}}
  timeouts: {total: 90s}
  retries: {attempts: 1}
"""


def test_a_pool_says_what_its_policy_does() -> None:
    described = service(WORKLOAD, POLICY)
    assert described["pool"] == {
        "inference_policy": "default/limits",
        "document": described["pool"]["document"],
        "picking": "predicted-drain",
        "admission": "20 requests a second, 1 at once; 30 may wait, 1 s at most; fair shares by claim org.team",
        "overflow": "to spare.default.svc.cluster.local",
        "sent again": "once, until its first token",
    }
    assert described["timeouts"] == {"total": "90 s (InferencePolicy limits)"}


def test_an_engine_alone_makes_a_pool() -> None:
    assert service(WORKLOAD)["pool"] == {
        "picking": "predicted-drain (a service of engine vllm, without an InferencePolicy)"
    }
    assert service(WORKLOAD.replace("  engine: vllm\n", ""))["pool"] == {}


def test_an_unknown_name_is_refused_with_what_there_is() -> None:
    snapshot = build_snapshot(revision_of(SERVICE), {})
    with pytest.raises(Refused, match="there are: chat"):
        describe.service(snapshot, "default", "nope")


POLICIES = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: a-allows}
spec: {rules: [{}, {}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: b-denies, namespace: istio-system, annotations: {istio.io/dry-run: "true"}}
spec: {action: DENY, rules: [{}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: c-asks}
spec: {action: CUSTOM, provider: {name: asker}, rules: [{}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: others}
spec: {selector: {matchLabels: {app: nobody}}, action: DENY, rules: [{}]}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens}
spec: {jwtRules: [{issuer: i}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: others}
spec: {selector: {matchLabels: {app: nobody}}, mtls: {mode: STRICT}}
"""


def test_a_workload_shows_its_policies_in_the_order_in_which_they_are_asked() -> None:
    snapshot = build_snapshot(revision_of(SERVICE, WORKLOAD, POLICIES), {})
    described = workload(snapshot, "default", "chat-v1", [])
    lines = [line.rpartition(" ")[0] if ".yaml:" in line else line for line in described["authorization policies"]]
    assert lines == [
        "CUSTOM default/c-asks (1 rule, asks asker)",
        "DENY istio-system/b-denies (1 rule, dry run)",
        "ALLOW default/a-allows (2 rules)",
        "everything else is refused",
    ]
    assert [line.rpartition(" ")[0] for line in described["request authentications"]] == ["default/tokens (issuers i)"]
    assert described["peer authentications"] == []
