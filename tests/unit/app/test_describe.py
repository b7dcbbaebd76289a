"""`describe` from a snapshot: which policies apply, with their documents, and the timeouts nobody wrote."""

from typing import Any

import pytest
from tests.unit.app.documents import SERVICE, WORKLOAD, revision_of

from headrace.app.control_plane import describe
from headrace.app.control_plane.answers import Refused
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
    described = describe.workload(snapshot, "default", "chat-v1", [row, other])
    assert described["identity"] == "spiffe://cluster.local/ns/default/sa/model"
    assert described["services"] == ["chat.default.svc.cluster.local"]
    assert described["mutual tls"] == "PERMISSIVE"
    assert [item["proxy"] for item in described["replicas"]] == ["default/chat-v1-0"]
    assert "engine_metrics" not in described["replicas"][0]
    busy = {"waiting": 3.0, "running": 4.0, "kv_used": 0.5, "kv_tokens": None, "age_s": 0.4, "problem": None}
    described = describe.workload(snapshot, "default", "chat-v1", [row | {"engine_metrics": busy}])
    assert described["replicas"][0]["engine_metrics"] == busy


def test_an_unknown_name_is_refused_with_what_there_is() -> None:
    snapshot = build_snapshot(revision_of(SERVICE), {})
    with pytest.raises(Refused, match="there are: chat"):
        describe.service(snapshot, "default", "nope")
