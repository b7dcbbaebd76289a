"""`headrace trace`: both ends of a request, the documents behind each step, refusals with the policy and a remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headrace.app.cli import main

DOCUMENTS = """\
apiVersion: v1
kind: Service
metadata: {name: chat, namespace: shop}
spec: {selector: {app: chat}, clusterIP: 10.1.1.1, ports: [{name: http, port: 8000}, {name: tcp, port: 9000}]}
---
apiVersion: v1
kind: Pod
metadata: {name: chat-1, namespace: shop, labels: {app: chat, version: v1}}
spec: {serviceAccountName: chat, containers: [{name: c}]}
status: {podIP: 10.2.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: chat-2, namespace: shop, labels: {app: chat, version: v2}}
spec: {serviceAccountName: chat, containers: [{name: c}]}
status: {podIP: 10.2.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {serviceAccountName: web, containers: [{name: c}]}
status: {podIP: 10.9.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: bare, namespace: shop, annotations: {sidecar.istio.io/inject: "false"}}
spec: {containers: [{name: c}]}
status: {podIP: 10.9.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: far, namespace: other}
spec: {containers: [{name: c}]}
status: {podIP: 10.9.0.3}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: chat, namespace: shop}
spec: {host: chat, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: chat, namespace: shop}
spec:
  hosts: [chat, chat.example]
  gateways: [mesh, door]
  http:
  - name: canary
    match: [{headers: {x-canary: {exact: "yes"}}}]
    route: [{destination: {host: chat, subset: v2, port: {number: 8000}}}]
  - match: [{uri: {prefix: /v1}}]
    rewrite: {uri: /api}
    route:
    - {destination: {host: chat, subset: v1, port: {number: 8000}}, weight: 90}
    - {destination: {host: chat, subset: v2, port: {number: 8000}}, weight: 10}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: door, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: shop}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-secrets, namespace: shop}
spec:
  selector: {matchLabels: {app: chat}}
  action: DENY
  rules:
  - to: [{operation: {paths: [/never]}}]
  - from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]
    to: [{operation: {paths: [/api/secret]}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: private, namespace: shop}
spec:
  hosts: [private.example]
  exportTo: ["."]
  addresses: [10.7.0.1]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
"""


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    path = tmp_path / "shop.yaml"
    path.write_text(DOCUMENTS)

    def asked(*words: str) -> tuple[int, Any]:
        with pytest.raises(SystemExit) as end:
            main(["trace", *words, "-o", "json", str(path)])
        shown = capsys.readouterr()
        return int(end.value.code or 0), json.loads(shown.out) if shown.out else shown.err

    return asked


def line_of(text: str) -> int:
    return DOCUMENTS[: DOCUMENTS.index(text)].count("\n") + 1


def step(holder: dict[str, Any], what: str) -> dict[str, str]:
    found: dict[str, str] = next(item for item in holder["steps"] if item["what"] == what)
    return found


def test_both_ends_and_the_rule_behind_the_route(ask: Any) -> None:
    code, answer = ask("--from", "web", "--to", "chat:8000/v1/x")
    assert code == 0
    assert step(answer, "listener")["name"] == "0.0.0.0_8000"
    assert step(answer, "virtual host")["name"] == "chat.shop.svc.cluster.local:8000"
    assert step(answer, "not taken")["why"] == "header x-canary is missing"
    route = step(answer, "route")["document"]
    assert route.startswith("VirtualService shop/chat http[1] (")
    assert route.endswith(f"shop.yaml:{line_of('  - match: [{uri:')})")
    assert [(item["cluster"], item["share"]) for item in answer["destinations"]] == [
        ("outbound|8000|v1|chat.shop.svc.cluster.local", "90%"),
        ("outbound|8000|v2|chat.shop.svc.cluster.local", "10%"),
    ]
    first = answer["destinations"][0]
    assert first["policy"].startswith("DestinationRule shop/chat (")
    (callee,) = first["callees"]
    assert callee["proxy"] == "sidecar/shop/chat-1"
    assert step(callee, "filter chain")["name"] == "0.0.0.0_8000"
    assert callee["delivered"] == "inbound|8000||"


def test_a_header_takes_the_canary(ask: Any) -> None:
    _, answer = ask("--from", "shop/web", "--to", "http://chat:8000", "--header", "x-canary: yes", "--path", "/any")
    assert step(answer, "route")["name"] == "canary"
    assert [item["cluster"] for item in answer["destinations"]] == ["outbound|8000|v2|chat.shop.svc.cluster.local"]


def test_a_policy_refuses_what_was_rewritten(ask: Any) -> None:
    code, answer = ask("--from", "web", "--to", "chat:8000", "--path", "/v1/secret")
    assert code == 1
    refused = answer["refused"]
    assert (refused["at"], refused["code"], refused["status"]) == ("sidecar/shop/chat-1", "denied", 403)
    assert refused["policy"].startswith("AuthorizationPolicy shop/no-secrets rule 2 (")
    assert refused["remedy"]


def test_strict_mutual_tls_refuses_a_caller_without_a_proxy(ask: Any) -> None:
    code, answer = ask("--from", "bare", "--to", "tcp://chat", "--port", "9000")
    assert code == 1
    assert answer["refused"]["code"] == "mutual-tls-required"
    assert "PeerAuthentication shop/strict" in answer["refused"]["policy"]


def test_a_deny_rule_about_http_refuses_connections_whole(ask: Any) -> None:
    code, answer = ask("--from", "web", "--to", "tcp://chat", "--port", "9000")
    assert code == 1
    assert answer["refused"]["code"] == "denied"
    assert "status" not in answer["refused"]
    assert "rule 1" in answer["refused"]["policy"]


def test_from_outside_through_the_gateway(ask: Any) -> None:
    code, answer = ask("--from", "outside", "--to", "http://chat.example/v1/m")
    assert code == 0
    assert answer["proxy"].startswith("gateway/")
    code, answer = ask("--from", "outside", "--to", "http://chat.example/nothing")
    assert code == 1
    assert (answer["refused"]["code"], answer["refused"]["status"]) == ("no-route", 404)
    code, answer = ask("--from", "outside", "--to", "http://chat.example:81/")
    assert answer["refused"]["code"] == "no-listener"


def test_what_is_not_exported_to_the_caller_is_said(ask: Any, tmp_path: Path) -> None:
    mesh = tmp_path / "mesh.yml"
    mesh.write_text("outboundTrafficPolicy: {mode: REGISTRY_ONLY}\n")
    code, answer = ask("--from", "far", "--to", "http://private.example", "--mesh-config", str(mesh))
    assert code == 1
    assert answer["refused"]["code"] == "unknown-host"
    assert "is exported to ., which leaves out namespace other" in answer["refused"]["policy"]
    code, answer = ask("--from", "web", "--to", "http://private.example", "--mesh-config", str(mesh))
    assert code == 0
    assert answer["destinations"][0]["cluster"] == "outbound|80||private.example"
    code, answer = ask("--from", "far", "--to", "http://nobody.example", "--mesh-config", str(mesh))
    assert answer["refused"]["remedy"].startswith("Add a Service or ServiceEntry")


def test_unknown_hosts_pass_through(ask: Any) -> None:
    code, answer = ask("--from", "web", "--to", "https://api.example/")
    assert code == 0
    assert answer["destinations"][0]["cluster"] == "PassthroughCluster"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--from", "nobody", "--to", "chat"), "names no workload"),
        (("--from", "web", "--to", "chat"), "say which with --port"),
        (("--from", "web", "--to", "ftp://chat"), "is no host or URL"),
        (("--from", "web", "--to", "chat:99999"), "is no host or URL"),
        (("--from", "web", "--to", "chat:8000", "--header", "broken"), "write NAME:VALUE"),
        (("--from", "web", "--to", "chat:8000", "--claims", "[]"), "must be a JSON object"),
        (("--from", "web", "--to", "tcp://nobody"), "add --port"),
    ],
)
def test_questions_that_name_nothing(ask: Any, words: tuple[str, ...], said: str) -> None:
    code, answer = ask(*words)
    assert code == 1
    assert said in answer


def test_the_table_reads_as_a_story(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(DOCUMENTS)
    with pytest.raises(SystemExit) as end:
        main(["trace", "--from", "web", "--to", "chat:8000/v1/secret", str(path)])
    assert end.value.code == 1
    shown = capsys.readouterr().out
    assert "sidecar/shop/web -> http://chat:8000/v1/secret (10.1.1.1:8000)" in shown
    assert "REFUSED" in shown
    assert "from AuthorizationPolicy shop/no-secrets rule 2" in shown


def test_without_mutual_tls_undeclared_ports_take_any_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = """---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: plain, namespace: shop}
spec: {selector: {matchLabels: {app: web}}, mtls: {mode: DISABLE}}
"""
    path = tmp_path / "shop.yaml"
    path.write_text(DOCUMENTS + plain)
    for scheme in ("tcp", "tls", "http", "https"):
        with pytest.raises(SystemExit) as end:
            main(["trace", "--from", "bare", "--to", f"{scheme}://10.9.0.1:7777", "-o", "json", str(path)])
        answer = json.loads(capsys.readouterr().out)
        assert not end.value.code, scheme
        assert answer["destinations"][0]["callees"][0]["delivered"] == "InboundPassthroughCluster"
