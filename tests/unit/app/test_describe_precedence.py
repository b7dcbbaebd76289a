"""`describe`: of several documents for one thing, which counts and why the others do not; also from files alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.app.documents import SERVICE, revision_of

from headrace.app.cli import main
from headrace.app.control_plane.answers import Refused
from headrace.app.control_plane.described import described
from headrace.registry.build import build_snapshot

RULE = "http: [{route: [{destination: {host: chat.default.svc.cluster.local}}]}]"


def virtual_service(name: str, host: str = "chat", namespace: str = "default", more: str = "") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  hosts: ["{host}"]
  {more}
  {RULE}
"""


def destination_rule(name: str, host: str, namespace: str = "default", more: str = "") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  host: "{host}"
  {more}
  subsets: [{{name: {name}}}]
"""


def about(kind: str, name: str, *texts: str) -> dict[str, Any]:
    return described(build_snapshot(revision_of(SERVICE, *texts), {}), kind, "default", name)


def standings(rows: list[dict[str, Any]], key: str) -> dict[str, str]:
    return {row[key].rpartition("/")[2]: row["standing"] for row in rows}


def test_of_virtual_services_the_oldest_and_most_specific_counts() -> None:
    answer = about(
        "service",
        "chat",
        virtual_service("wild", "*.default.svc.cluster.local"),
        virtual_service("first"),
        virtual_service("second"),
        virtual_service("door", more="gateways: [door]"),
        virtual_service("far", "chat.default.svc.cluster.local", "other", 'exportTo: ["."]'),
        virtual_service("sender", "api.example"),
    )
    found = standings(answer["routes"], "virtual_service")
    assert found["first"] == "in force"
    assert found["second"].startswith("shadowed for sidecars by default/first (older)")
    assert "more specific than *.default.svc.cluster.local" in found["wild"]
    assert found["door"] == "in force at its gateways only"
    assert found["far"] == "no effect in namespace default: exported to ."
    assert found["sender"] == "sends requests to it"
    assert next(iter(found)) == "first"


def test_of_destination_rules_namespaces_and_hosts_decide() -> None:
    answer = about(
        "service",
        "chat",
        destination_rule("one", "chat"),
        destination_rule("two", "chat"),
        destination_rule("wide", "*.default.svc.cluster.local"),
        destination_rule("root", "*.cluster.local", "istio-system"),
        destination_rule("theirs", "chat.default.svc.cluster.local", "other"),
        destination_rule("some", "chat", more="workloadSelector: {matchLabels: {app: web}}"),
    )
    found = standings(answer["destination_rules"], "destination_rule")
    assert found["one"] == "in force"
    assert found["two"].startswith("in force, merged into default/one")
    assert found["wide"] == "shadowed by default/one: its host chat.default.svc.cluster.local is more specific"
    assert found["root"] == "shadowed by default/one: rules of namespace default come first"
    assert found["theirs"] == "in force for callers in namespace other only"
    assert found["some"] == "in force for callers that its workloadSelector selects"


def test_a_route_says_what_is_never_reached() -> None:
    rules = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: split}
spec:
  hosts: [chat, api.example]
  gateways: [mesh, door, lost]
  http:
  - match: [{uri: {prefix: /a}}]
    route: [{destination: {host: chat}}]
  - match: [{uri: {prefix: /}}]
    route: [{destination: {host: chat}}]
  - route: [{destination: {host: chat}}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: door}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
---
""" + virtual_service("too", "api.example", more="gateways: [door]")
    answer = about("route", "split", rules.replace("gateways: [mesh, door, lost]", "gateways: [mesh, door]"))
    assert [rule.get("standing", "") for rule in answer["rules"]] == [
        "",
        "",
        "never reached: rule 2 takes every request",
    ]
    assert answer["hosts"][0] == "chat.default.svc.cluster.local (service Service default/chat): in force"
    assert answer["gateways"][0] == "mesh: sidecars"
    assert "shares hosts with default/too" in answer["gateways"][1]


def test_rules_of_connections_are_told_too() -> None:
    text = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: db}
spec:
  hosts: [db.example]
  tls:
  - match: [{sniHosts: [db.example], port: 443}]
    route: [{destination: {host: chat}}]
  tcp:
  - match: [{destinationSubnets: [10.0.0.0/8], sourceLabels: {app: web}}]
    route: [{destination: {host: chat}, weight: 25}, {destination: {host: db.example}, weight: 75}]
"""
    rules = about("route", "db", text)["rules"]
    chat = "chat.default.svc.cluster.local"
    assert [(rule["when"], rule["then"]) for rule in rules] == [
        ("TLS: server name db.example and port 443", f"to {chat}"),
        ("TCP: to 10.0.0.0/8 and from app=web", f"25% to {chat}, 75% to db.example"),
    ]
    assert standings(about("service", "chat", text)["routes"], "virtual_service") == {"db": "sends requests to it"}


def test_a_pod_is_a_workload_and_shows_what_extends_its_proxy() -> None:
    texts = """
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {serviceAccountName: web, containers: [{name: app}]}
status: {podIP: 10.0.0.1}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: all}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: own}
spec: {selector: {matchLabels: {app: web}}, mtls: {mode: DISABLE}}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: narrow}
spec: {egress: [{hosts: ["./*"]}]}
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: patch}
spec:
  configPatches:
  - applyTo: CLUSTER
    match: {context: SIDECAR_OUTBOUND}
    patch: {operation: MERGE, value: {connect_timeout: 1s}}
"""
    answer = about("workload", "web", texts)
    assert answer["identity"] == "spiffe://cluster.local/ns/default/sa/web"
    assert answer["mutual tls"] == "DISABLE"
    standings = {line.split(" ")[0]: line for line in answer["peer authentications"]}
    assert "in force" in standings["default/own"]
    assert "shadowed" in standings["default/all"]
    assert answer["sidecar"][0].startswith("default/narrow test.yaml:")
    assert answer["envoy filters"][0].startswith("default/patch test.yaml:")
    assert "telemetries" not in answer


@pytest.mark.parametrize("kind", ["service", "workload", "route"])
def test_a_name_that_is_nobodys(kind: str) -> None:
    with pytest.raises(Refused, match="there are"):
        about(kind, "nope")


def test_documents_without_a_running_mesh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "all.yaml"
    path.write_text(SERVICE + "---" + virtual_service("first"))
    with pytest.raises(SystemExit) as end:
        main(["describe", "service", "default/chat", str(path), "-o", "json"])
    assert not end.value.code
    answer = json.loads(capsys.readouterr().out)
    assert answer["routes"][0]["document"].startswith(str(path))
    with pytest.raises(SystemExit) as end:
        main(["describe", "route", "nope", str(path)])
    assert end.value.code == 1
    assert "there are: default/first" in capsys.readouterr().err
