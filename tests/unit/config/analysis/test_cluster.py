"""Judgements of documents of a cluster: IST0102, IST0103, IST0116, IST0123, IST0125 ... and IST0176."""

from __future__ import annotations

import json

import pytest
from tests.unit.config.analysis.conftest import Check

from headrace.model.problem import Problem


def namespace(labels: str, name: str = "shop") -> str:
    return f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {labels}}}\n"


def pod(spec: str = "{containers: [{name: app}]}", labels: str = "{app: a}", annotations: str = "{}") -> str:
    head = f"{{name: p, namespace: shop, labels: {labels}, annotations: {annotations}}}"
    return f"apiVersion: v1\nkind: Pod\nmetadata: {head}\nspec: {spec}\n"


def deployment(template: str = "{containers: [{name: app}]}", labels: str = "{}", inject: str = "true") -> str:
    return f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: d, namespace: shop, labels: {labels}}}
spec:
  selector: {{matchLabels: {{app: a}}}}
  template:
    metadata: {{labels: {{app: a, sidecar.istio.io/inject: "{inject}"}}}}
    spec: {template}
"""


def service(ports: str, name: str = "s") -> str:
    return f"""
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{selector: {{app: a}}, ports: {ports}}}
"""


def codes(problems: list[Problem]) -> list[tuple[str, str]]:
    return [(item.code, item.field) for item in problems if item.code.startswith("IST")]


ENABLED = namespace("{istio-injection: enabled}")
WORKLOAD = "apiVersion: headrace.dev/v1alpha1\nkind: Workload\nmetadata: {name: w}\nspec: {command: [run]}\n"


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("{}", [("IST0102", "metadata.name")]),
        ("{istio-injection: enabled}", []),
        ("{istio-injection: disabled}", []),
        ("{istio.io/rev: canary}", []),
        ("{istio.io/dataplane-mode: ambient}", []),
        ("{istio-injection: enabled, istio.io/rev: canary}", [("IST0123", 'metadata.labels["istio.io/rev"]')]),
        ("{istio-injection: disabled, istio.io/rev: canary}", []),
    ],
)
def test_namespaces_say_whether_they_are_injected(check: Check, labels: str, expected: list[tuple[str, str]]) -> None:
    assert codes(check(namespace(labels))) == expected
    assert codes(check(namespace(labels), WORKLOAD)) == [], "where Headrace runs them, every workload has its proxy"


def test_namespaces_of_the_cluster_itself_are_left_alone(check: Check) -> None:
    assert codes(check(namespace("{}", "kube-system"))) == []


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        (pod(), True),
        (pod("{containers: [{name: app}, {name: istio-proxy, image: proxy}]}"), False),
        (pod("{containers: [{name: app}], initContainers: [{name: istio-proxy, image: proxy}]}"), False),
        (pod("{containers: [{name: app}], hostNetwork: true}"), False),
        (pod(labels='{sidecar.istio.io/inject: "false"}'), False),
        (pod(labels='{sidecar.istio.io/inject: "true"}'), True),
    ],
)
def test_pods_without_a_proxy(check: Check, text: str, missing: bool) -> None:
    assert codes(check(ENABLED, text)) == ([("IST0103", "spec.containers")] if missing else [])
    assert codes(check(namespace("{istio-injection: disabled}"), text)) == []


def injector(values: object, name: str = "istio-sidecar-injector") -> str:
    text = json.dumps(json.dumps(values))
    meta = f"{{name: {name}, namespace: istio-system}}"
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata: {meta}\ndata: {{values: {text}}}\n"


def test_injection_by_default(check: Check) -> None:
    config = injector({"sidecarInjectorWebhook": {"enableNamespacesByDefault": True}})
    assert codes(check(namespace("{}"), config)) == [("IST0148", "metadata.name")]


@pytest.mark.parametrize(
    ("image", "variant", "fits"),
    [
        ("hub/proxyv2:1", "", True),
        ("hub/proxyv2:2", "", False),
        ("hub/proxyv2:1-distroless", "", False),
        ("hub/proxyv2:1-distroless", "distroless", True),
    ],
)
def test_images_of_proxies(check: Check, image: str, variant: str, fits: bool) -> None:
    config = injector({"global": {"hub": "hub", "tag": "1", "proxy": {"image": "proxyv2"}}})
    annotations = f'{{proxy.istio.io/config: "image: {{imageType: {variant}}}"}}' if variant else "{}"
    running = pod(f"{{containers: [{{name: istio-proxy, image: '{image}'}}]}}", annotations=annotations)
    assert codes(check(ENABLED, running, config)) == ([] if fits else [("IST0158", "metadata.name")])


AUTO = "{containers: [{name: istio-proxy, image: auto}]}"
WEBHOOK = """
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: NAME}
webhooks:
- name: rev.istio.io
  clientConfig: {service: {name: istiod, namespace: istio-system}}
  namespaceSelector: {matchLabels: {istio-injection: enabled}}
  objectSelector: {matchExpressions: [{key: sidecar.istio.io/inject, operator: NotIn, values: ["false"]}]}
"""
ISTIOD = """
apiVersion: v1
kind: Service
metadata: {name: istiod, namespace: istio-system}
spec: {ports: [{name: https-webhook, port: 443}]}
"""


def test_images_that_injection_is_to_fill_in(check: Check) -> None:
    webhook = WEBHOOK.replace("NAME", "injector")
    place = "spec.template.spec.containers[0].image"
    assert codes(check(ENABLED, deployment(AUTO), webhook, ISTIOD)) == []
    assert codes(check(ENABLED, deployment(AUTO, inject="false"), webhook, ISTIOD)) == [("IST0146", place)]
    assert codes(check(ENABLED, pod(AUTO), webhook, ISTIOD)) == [("IST0147", "spec.containers[0].image")]


def test_webhooks_that_overlap_or_call_nobody(check: Check) -> None:
    one, other = WEBHOOK.replace("NAME", "one"), WEBHOOK.replace("NAME", "other")
    assert codes(check(one, ISTIOD)) == []
    assert codes(check(one)) == [("IST0139", "webhooks[0].clientConfig.service")]
    assert codes(check(one, other, ISTIOD)) == [("IST0139", "webhooks[0]")] * 2
    apart = other.replace("istio-injection: enabled", "istio-injection: disabled")
    assert codes(check(one, apart, ISTIOD)) == []


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        ("{url: 'https://istiod.example.com/inject'}", []),
        ("{url: 'https://10.0.0.1/inject'}", [("IST0164", "webhooks[0].clientConfig.url")]),
        ("{url: 'https://[::1/inject'}", [("IST0163", "webhooks[0].clientConfig.url")]),
        ("{}", [("IST0163", "webhooks[0].clientConfig")]),
    ],
)
def test_urls_of_an_external_control_plane(check: Check, client: str, expected: list[tuple[str, str]]) -> None:
    text = WEBHOOK.replace("NAME", "istio-sidecar-injector-far")
    text = text.replace("{service: {name: istiod, namespace: istio-system}}", client)
    assert codes(check(text)) == expected


def test_services_that_contradict_each_other_about_a_deployment(check: Check) -> None:
    web = service("[{name: http, port: 80, targetPort: 8080}]")
    assert codes(check(deployment(), web)) == []
    twice = service("[{name: http, port: 81, targetPort: 8080}]", "t")
    assert codes(check(deployment(), web, twice)) == [("IST0137", "metadata.name")]
    assert codes(check(deployment(inject="false"), web, twice)) == []
    datagrams = service("[{name: udp, port: 80, protocol: UDP, targetPort: 9}]", "t")
    assert codes(check(deployment(), web, datagrams)) == [("IST0116", "metadata.name")]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (pod("{containers: [{name: app}], securityContext: {runAsUser: 1337}}"), "spec.securityContext.runAsUser"),
        (
            deployment("{containers: [{name: app, securityContext: {runAsUser: 1337}}]}"),
            "spec.template.spec.containers[0].securityContext.runAsUser",
        ),
        (pod("{containers: [{name: istio-proxy, securityContext: {runAsUser: 1337}}]}"), ""),
        (pod("{containers: [{name: app, securityContext: {runAsUser: 1338}}]}"), ""),
    ],
)
def test_users_that_the_proxy_needs(check: Check, text: str, field: str) -> None:
    assert codes(check(text)) == ([("IST0144", field)] if field else [])


def test_keys_fetched_from_anywhere(check: Check) -> None:
    istiod = deployment(labels="{app: istiod}")
    rule = """
    apiVersion: security.istio.io/v1
    kind: RequestAuthentication
    metadata: {name: jwt, namespace: shop}
    spec: {jwtRules: [{issuer: me}]}
    """
    assert codes(check(istiod)) == []
    assert codes(check(istiod, rule)) == [("IST0175", "spec.template.spec.containers")]
    blocked = "{containers: [{name: d, env: [{name: BLOCKED_CIDRS_IN_JWKS_URIS, value: 10.0.0.0/8}]}]}"
    assert codes(check(deployment(blocked, "{app: istiod}"), rule)) == []


@pytest.mark.parametrize(
    ("annotation", "good"),
    [
        ("sidecar.istio.io/interceptionMode: TPROXY", True),
        ("sidecar.istio.io/interceptionMode: tproxy", False),
        ("traffic.sidecar.istio.io/includeInboundPorts: '*'", True),
        ("traffic.sidecar.istio.io/excludeInboundPorts: '80, 81'", True),
        ("traffic.sidecar.istio.io/excludeInboundPorts: '*'", False),
        ("traffic.sidecar.istio.io/includeOutboundIPRanges: 10.0.0.0/8", True),
        ("traffic.sidecar.istio.io/includeOutboundIPRanges: 10.0.0.0", False),
        ("traffic.sidecar.istio.io/excludeInterfaces: 'eth0,eth1'", True),
        ("traffic.sidecar.istio.io/excludeInterfaces: 'eth/0'", False),
        ("prometheus.istio.io/merge-metrics: 'yes'", False),
        ("sidecar.istio.io/proxyCPU: 100m", True),
        ("sidecar.istio.io/proxyCPU: much", False),
        ("readiness.status.sidecar.istio.io/periodSeconds: '-1'", False),
        ("proxy.istio.io/config: 'concurrency: 2'", True),
        ("proxy.istio.io/config: 'concurency: 2'", False),
        ("proxy.istio.io/config: '['", False),
    ],
)
def test_values_of_annotations(check: Check, annotation: str, good: bool) -> None:
    name = annotation.partition(":")[0]
    found = codes(check(pod(annotations=f"{{{annotation}}}")))
    assert found == ([] if good else [("IST0125", f'metadata.annotations["{name}"]')])


def test_conditions_that_say_no(check: Check) -> None:
    status = "status: {conditions: [{type: istio.io/WaypointBound, status: STATUS, reason: R, message: M}]}\n"
    ports = "[{name: http, port: 80}]"
    assert codes(check(service(ports) + status.replace("STATUS", '"True"'))) == []
    assert codes(check(service(ports) + status.replace("STATUS", '"False"'))) == [("IST0171", "status.conditions[0]")]


def test_definitions_that_are_too_old(check: Check) -> None:
    text = """
    apiVersion: apiextensions.k8s.io/v1
    kind: CustomResourceDefinition
    metadata:
      name: tlsroutes.gateway.networking.k8s.io
      annotations: {gateway.networking.k8s.io/bundle-version: VERSION}
    spec: {group: gateway.networking.k8s.io, names: {kind: TLSRoute}}
    """
    assert [code for code, _ in codes(check(text.replace("VERSION", "v1.4.1")))] == ["IST0176"]
    assert codes(check(text.replace("VERSION", "v1.10.0"))) == []
    assert codes(check(text.replace("VERSION", "newest"))) == []


def test_registries_of_networks(check: Check) -> None:
    networks = "networks: {far: {endpoints: [{fromRegistry: REGISTRY}]}}"
    text = f"""
    apiVersion: v1
    kind: ConfigMap
    metadata: {{name: istio, namespace: istio-system}}
    data: {{meshNetworks: "{networks}"}}
    """
    secret = """
    apiVersion: v1
    kind: Secret
    metadata: {name: far, labels: {istio/multiCluster: "true"}}
    stringData: {cluster-b: ""}
    """
    assert codes(check(text.replace("REGISTRY", "Kubernetes"))) == []
    assert codes(check(text.replace("REGISTRY", "cluster-b"))) == [("IST0126", "data.meshNetworks")]
    assert codes(check(text.replace("REGISTRY", "cluster-b"), secret)) == []


def test_a_document_silences_codes(check: Check) -> None:
    quiet = ENABLED + "---\n" + pod(annotations="{galley.istio.io/analyze-suppress: IST0103}")
    assert codes(check(quiet)) == []
