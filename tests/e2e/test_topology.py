"""A front end, a gateway service and a model: only the gateway service's identity may call the model, whatever the
front end writes into its requests; the refusals are in the model's access log."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import urllib.parse
from pathlib import Path

import pytest
from tests.e2e.conftest import StartMesh
from tests.e2e.running import RunningMesh, until
from tests.e2e.shop import SERVICE, servers
from tests.e2e.strangers import Signer, answer_of, tls

MESH_CONFIG = """\
apiVersion: headrace.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec:
  accessLogFile: /dev/stdout
  accessLogEncoding: JSON
  pathNormalization: {normalization: DECODE_AND_MERGE_SLASHES}
"""
POLICY = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-the-gateway-service}
spec:
  selector: {matchLabels: {app: chat}}
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/gateway]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-metrics}
spec:
  selector: {matchLabels: {app: chat}}
  action: DENY
  rules: [{to: [{operation: {paths: [/metrics], methods: ["*"]}}]}]
"""
GATEWAY_ID = "spiffe://cluster.local/ns/default/sa/gateway"
FRONT_ID = "spiffe://cluster.local/ns/default/sa/front"


def caller(name: str) -> str:
    """A workload that only calls: the test speaks as it."""
    return f"""\
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {{name: {name}}}
spec:
  command: [sleep, infinity]
  serviceAccountName: {name}
  labels: {{app: {name}}}
  terminationGracePeriodSeconds: 3
"""


@pytest.fixture(scope="module")
def mesh(start_mesh: StartMesh) -> RunningMesh:
    return start_mesh(
        {
            "mesh.yaml": MESH_CONFIG,
            "service.yaml": SERVICE,
            "chat.yaml": servers("v1", 1),
            "front.yaml": caller("front"),
            "gateway.yaml": caller("gateway"),
        }
    )


@pytest.fixture(scope="module")
def guarded(mesh: RunningMesh) -> RunningMesh:
    """The same mesh with its policies, once they hold."""
    assert ask(mesh, "front")[0] == 200, "without a policy everybody may"
    mesh.write("policy.yaml", POLICY)
    until(lambda: ask(mesh, "front")[0] == 403, "the policy is in force")
    return mesh


def ask(mesh: RunningMesh, who: str, path: str = "/v1/models", **headers: str) -> tuple[int, str]:
    """A request of a workload's application to the model, through its proxy."""
    proxy = urllib.parse.urlsplit(mesh.proxy_url(f"default/{who}-0"))
    connection = http.client.HTTPConnection(str(proxy.hostname), proxy.port, timeout=10)
    try:
        secret = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
        sent = {"Host": "chat", "Proxy-Authorization": f"Basic {secret}", **headers}
        connection.request("GET", f"http://chat{path}", headers=sent)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def logged(mesh: RunningMesh) -> list[dict[str, object]]:
    """The access log of the model's proxy."""
    lines = []
    for file in mesh.places.logs.glob("*chat-v1-0*"):
        lines += [line for line in file.read_text(errors="replace").splitlines() if line.startswith("{")]
    return [json.loads(line) for line in lines]


def test_only_the_gateway_service_may_call_the_model(guarded: RunningMesh) -> None:
    assert ask(guarded, "gateway")[0] == 200
    assert ask(guarded, "front", "/v1/why") == (403, "RBAC: access denied")

    def named() -> bool:
        return any(
            row.get("path") == "/v1/why"
            and row.get("response_code_details") == "rbac_access_denied_matched_policy[none]"
            for row in logged(guarded)
        )

    until(named, "the refusal is in the model's access log", 40)


def test_a_deny_policy_holds_for_the_one_who_is_allowed_and_is_named(guarded: RunningMesh) -> None:
    for path in ("/metrics", "/metrics?x=1", "/v1/../metrics", "//metrics", "/%2fmetrics", "/%6detrics"):
        assert ask(guarded, "gateway", path)[0] == 403, path
    wanted = "rbac_access_denied_matched_policy[ns[default]-policy[no-metrics]-rule[0]]"
    until(lambda: any(row.get("response_code_details") == wanted for row in logged(guarded)), "the policy is named", 40)


@pytest.mark.parametrize(
    "headers",
    [
        {"x-forwarded-client-cert": f"By=x;URI={GATEWAY_ID}"},
        {"x-forwarded-client-cert": f"URI={GATEWAY_ID},URI={GATEWAY_ID}"},
        {"x-forwarded-for": "127.0.0.1", "x-forwarded-host": "chat"},
        {"authorization": "Bearer eyJhbGciOiJub25lIn0.eyJpc3MiOiJhIn0."},
        {"x-envoy-original-path": "/", "x-original-url": "/", "x-rewrite-url": "/"},
    ],
)
def test_headers_make_nobody_the_gateway_service(guarded: RunningMesh, headers: dict[str, str]) -> None:
    assert ask(guarded, "front", **headers)[0] == 403


def test_the_certificate_decides_at_the_models_own_door(guarded: RunningMesh, tmp_path: Path) -> None:
    door = (str(guarded.row("default/chat-v1-0")["address"]), 8000)
    signer = Signer.load(guarded.places.ca)
    answers = {name: answer_of(door, tls(signer.client(name, tmp_path))) for name in (GATEWAY_ID, FRONT_ID)}
    assert b" 200 " in answers[GATEWAY_ID] and b" 403 " in answers[FRONT_ID], answers
    for name in (f"{GATEWAY_ID}2", "spiffe://cluster.local/ns/other/sa/gateway"):
        assert b" 403 " in answer_of(door, tls(signer.client(name, tmp_path)))


def test_describe_and_status_say_what_holds(guarded: RunningMesh) -> None:
    described = guarded.run("describe", "workload", "chat-v1", "-o", "json").json()
    lines = described["authorization policies"]
    assert [line.split(" ")[:2] for line in lines[:2]] == [
        ["DENY", "default/no-metrics"],
        ["ALLOW", "default/only-the-gateway-service"],
    ]
    assert "policy.yaml:" in lines[0] and lines[-1] == "everything else is refused"


def test_a_policy_that_is_taken_away_holds_no_longer(guarded: RunningMesh) -> None:
    (guarded.documents / "policy.yaml").unlink()
    until(lambda: ask(guarded, "front")[0] == 200, "the front end may again")
    guarded.write("policy.yaml", POLICY)
    until(lambda: ask(guarded, "front")[0] == 403, "the policy is in force again")


def test_a_connection_that_is_open_does_not_outlive_a_policy(guarded: RunningMesh, tmp_path: Path) -> None:
    """Before the policy the front end opens a connection to the model's door and keeps it: after the policy it is good
    for one more request at most."""
    (guarded.documents / "policy.yaml").unlink()
    until(lambda: ask(guarded, "front")[0] == 200, "the front end may again")
    door = (str(guarded.row("default/chat-v1-0")["address"]), 8000)
    certificate = Signer.load(guarded.places.ca).client(FRONT_ID, tmp_path)
    kept = http.client.HTTPSConnection(*door, timeout=10, context=tls(certificate))
    try:
        assert status(kept) == 200
        assert status(kept) == 200, "it is one connection"
        guarded.write("policy.yaml", POLICY)
        until(lambda: ask(guarded, "front")[0] == 403, "the policy is in force")
        kept.auto_open = 0
        passed = 0
        with contextlib.suppress(http.client.HTTPException, OSError):
            while status(kept) == 200:
                passed += 1
        assert passed <= 1
    finally:
        kept.close()


def status(connection: http.client.HTTPSConnection) -> int:
    connection.request("GET", "/v1/models", headers={"Host": "chat"})
    answer = connection.getresponse()
    answer.read()
    return answer.status
