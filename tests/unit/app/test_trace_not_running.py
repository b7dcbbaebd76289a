"""`headrace trace` where nothing runs yet: workloads without addresses, Sidecars, routes of the Gateway API."""

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
spec: {selector: {app: chat}, clusterIP: 10.1.1.1, ports: [{name: http, port: 80, targetPort: 8000}]}
---
apiVersion: v1
kind: Service
metadata: {name: other, namespace: shop}
spec: {selector: {app: other}, clusterIP: 10.1.1.2, ports: [{name: http, port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: chat-v1, namespace: shop}
spec:
  selector: {matchLabels: {app: chat}}
  template: {metadata: {labels: {app: chat, version: v1}}, spec: {containers: [{name: c}]}}
---
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {name: chat-v2, namespace: shop}
spec: {command: [serve], labels: {app: chat, version: v2}, ports: [{name: http, containerPort: 8000}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: chat, namespace: shop}
spec: {host: chat, subsets: [{name: v2, labels: {version: v2}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: chat, namespace: shop}
spec:
  hosts: [chat]
  http:
  - match: [{uri: {prefix: /two}}]
    route: [{destination: {host: chat, subset: v2}}]
  - route: [{destination: {host: chat}}]
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {containers: [{name: c}]}
status: {podIP: 10.9.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: narrow, namespace: shop, labels: {app: narrow}}
spec: {containers: [{name: c}]}
status: {podIP: 10.9.0.2}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: narrow, namespace: shop}
spec:
  workloadSelector: {labels: {app: narrow}}
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
  egress: [{hosts: [./chat.shop.svc.cluster.local]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: front, namespace: shop}
spec: {gatewayClassName: istio, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: public, namespace: shop}
spec:
  parentRefs: [{name: front}]
  hostnames: [public.example]
  rules:
  - matches: [{path: {type: PathPrefix, value: /a}}]
    backendRefs: [{name: chat, port: 80, weight: 3}, {name: other, port: 80, weight: 1}]
"""


@pytest.fixture
def said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    path = tmp_path / "shop.yaml"
    path.write_text(DOCUMENTS)

    def asked(*words: str) -> Any:
        with pytest.raises(SystemExit):
            main([*words, "-o", "json", str(path)] if words[0] == "trace" else [*words, str(path), "-o", "json"])
        return json.loads(capsys.readouterr().out)

    return asked


def test_described_workloads_are_where_requests_will_go(said: Any) -> None:
    (destination,) = said("trace", "--from", "web", "--to", "http://chat")["destinations"]
    assert [callee["proxy"] for callee in destination["callees"]] == ["sidecar/shop/chat-v1", "sidecar/shop/chat-v2"]
    assert {callee["delivered"] for callee in destination["callees"]} == {"inbound|8000||"}
    assert all(":8000 shop/chat-v" in line and "mutual TLS" in line for line in destination["endpoints"])


def test_a_subset_chooses_among_described_workloads(said: Any) -> None:
    (destination,) = said("trace", "--from", "web", "--to", "http://chat/two")["destinations"]
    assert [callee["proxy"] for callee in destination["callees"]] == ["sidecar/shop/chat-v2"]


def test_nobody_behind_a_service_is_said(said: Any) -> None:
    refused = said("trace", "--from", "web", "--to", "http://other")["refused"]
    assert (refused["code"], refused["status"]) == ("no-endpoints", 503)


def test_the_sidecar_that_hides_a_service_is_named(said: Any) -> None:
    refused = said("trace", "--from", "narrow", "--to", "http://other")["refused"]
    assert refused["code"] == "unknown-host"
    assert "Sidecar shop/narrow" in refused["policy"]
    assert refused["remedy"] == "Add shop/other.shop.svc.cluster.local to the hosts of its egress."
    refused = said("trace", "--from", "narrow", "--to", "http://nobody.example")["refused"]
    assert "REGISTRY_ONLY" in refused["policy"]


def test_routes_of_the_gateway_api_are_named_as_they_are_written(said: Any) -> None:
    answer = said("trace", "--from", "outside", "--to", "http://public.example/a")
    step = next(item for item in answer["steps"] if item["what"] == "route")
    assert step["document"].startswith("HTTPRoute shop/public rules[0] (")
    assert [item["share"] for item in answer["destinations"]] == ["75%", "25%"]
    described = said("describe", "route", "shop/public")
    assert described["kind"] == "HTTPRoute"
    assert described["rules"][0]["then"].startswith("75% to chat.shop.svc.cluster.local port 80, 25% to other")


EGRESS = """\
apiVersion: v1
kind: Service
metadata: {name: way-out, namespace: egress}
spec: {selector: {istio: egressgateway}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: app, namespace: shop}
spec: {containers: [{name: c}]}
status: {podIP: 10.2.0.1}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: way-out, namespace: egress}
spec:
  selector: {istio: egressgateway}
  servers: [{port: {number: PORT, name: http, protocol: HTTP}, hosts: [api.example]}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api, namespace: shop}
spec: {hosts: [api.example], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: api, namespace: shop}
spec:
  hosts: [api.example]
  gateways: [mesh, egress/way-out]
  http:
  - match: [{gateways: [mesh]}]
    route: [{destination: {host: way-out.egress.svc.cluster.local, port: {number: 80}}}]
  - match: [{gateways: [egress/way-out]}]
    route: [{destination: {host: api.example, port: {number: 80}}}]
---
"""
DESCRIBED = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: way-out, namespace: egress}
spec:
  selector: {matchLabels: {istio: egressgateway}}
  template: {metadata: {labels: {istio: egressgateway}}, spec: {containers: [{name: c}]}}
"""
STARTED = """\
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {name: way-out, namespace: egress}
spec: {role: gateway, labels: {istio: egressgateway}}
"""


@pytest.mark.parametrize(("gateway", "port"), [(DESCRIBED, "80"), (STARTED, "8080")])
def test_a_gateway_on_the_way_is_followed(
    gateway: str, port: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "egress.yaml").write_text(EGRESS.replace("PORT", port) + gateway)
    with pytest.raises(SystemExit) as ended:
        main(["trace", "--from", "app", "--to", "http://api.example/", str(tmp_path), "-o", "json"])
    answer = json.loads(capsys.readouterr().out)
    (destination,) = answer["destinations"]
    (callee,) = destination["callees"]
    assert (ended.value.code, len(destination["endpoints"])) == (0, 1), (
        "no second gateway is assumed beside the described one"
    )
    assert (callee["proxy"], callee["delivered"]) == ("gateway/egress/way-out", "outbound|80||api.example")
    documents = [step["document"] for step in callee["steps"] if step["what"] == "route"]
    assert "VirtualService shop/api http[1]" in documents[0]


BEHIND_A_SERVICE = """\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: door, namespace: shop}
spec:
  gatewayClassName: istio
  addresses: [{type: Hostname, value: door}]
  listeners: [{name: http, port: 80, protocol: HTTP}]
---
apiVersion: v1
kind: Service
metadata: {name: door, namespace: shop}
spec: {selector: {app: door}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: door-1, namespace: shop, labels: {app: door}}
spec: {containers: [{name: c}]}
status: {podIP: 10.2.0.9}
"""


def test_a_gateway_behind_the_service_that_its_document_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "door.yaml").write_text(BEHIND_A_SERVICE)
    with pytest.raises(SystemExit):
        main(["trace", "--from", "outside", "--to", "http://any.example/", str(tmp_path), "-o", "json"])
    answer = json.loads(capsys.readouterr().out)
    assert (answer["proxy"], answer["connection"]) == ("gateway/shop/door-1", "10.2.0.9:8080")
