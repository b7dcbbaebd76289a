"""The kinds of Kubernetes' core: what they become, and what they refuse."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from headrace.config.documents import read_text
from headrace.config.kinds.service import protocol_of
from headrace.config.schema import Validated, validate
from headrace.model.kube import Namespace, ServiceAccount
from headrace.model.problem import Severity
from headrace.model.security import Secret
from headrace.model.service import DeclaredAddresses, DeclaredEndpoints, Protocol, Resolution, Service, ServicePort
from headrace.model.workload import StaticWorkload, WorkloadPort


def judge(text: str) -> Validated:
    (document,) = read_text(text, "a.yaml", "test").documents
    return validate(document)


def good(text: str) -> Any:
    result = judge(text)
    assert [problem.as_line() for problem in result.problems] == []
    return result.resource


def found(text: str) -> list[tuple[str, str]]:
    """(field, code) of every problem."""
    return [(problem.field, problem.code) for problem in judge(text).problems]


def service(spec: str, metadata: str = "{name: chat, namespace: ai}") -> str:
    return f"apiVersion: v1\nkind: Service\nmetadata: {metadata}\nspec: {spec}\n"


def test_a_service_becomes_a_host_with_ports() -> None:
    resource = good(
        service(
            "{selector: {b: x, a: y}, clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 'fd00::1'], ports: ["
            "{name: http-api, port: 80, targetPort: web}, {name: x, port: 81, targetPort: '8081', appProtocol: grpc},"
            "{name: tcp, port: 82}]}",
            "{name: chat, namespace: ai, annotations: {networking.istio.io/exportTo: '., other'}}",
        )
    )
    assert isinstance(resource, Service)
    assert (resource.host, resource.namespace) == ("chat.ai.svc.cluster.local", "ai")
    assert resource.ports == (
        ServicePort(80, "http-api", Protocol.HTTP, 0, "web"),
        ServicePort(81, "x", Protocol.GRPC, 8081),
        ServicePort(82, "tcp", Protocol.TCP, 82),
    )
    assert resource.addresses == ("10.0.0.1", "fd00::1")
    assert list((resource.selector or {}).items()) == [("a", "y"), ("b", "x")]
    assert resource.export_to == (".", "other")
    assert (resource.resolution, resource.headless, resource.external) == (Resolution.MESH, False, False)


def test_headless_and_external_services() -> None:
    headless = good(service("{clusterIP: None, selector: {a: b}}"))
    assert (headless.headless, headless.addresses) == (True, ())
    external = good(service("{type: ExternalName, externalName: api.example.com, ports: [{port: 443}]}"))
    assert (external.external, external.external_name, external.selector) == (True, "api.example.com", None)
    assert external.resolution is Resolution.DNS


@pytest.mark.parametrize(
    ("number", "name", "app_protocol", "transport", "expected"),
    [
        (80, "http", "", "TCP", Protocol.HTTP),
        (80, "http-web", "", "TCP", Protocol.HTTP),
        (80, "HTTP2-web", "", "TCP", Protocol.HTTP2),
        (80, "grpc-web", "", "TCP", Protocol.GRPC_WEB),
        (80, "grpc-web-x", "", "TCP", Protocol.GRPC_WEB),
        (80, "grpc-webb", "", "TCP", Protocol.GRPC_WEB),
        (80, "grpc-x", "", "TCP", Protocol.GRPC),
        (80, "httpx", "", "TCP", Protocol.UNDECLARED),
        (80, "", "", "TCP", Protocol.UNDECLARED),
        (80, "http", "tcp", "TCP", Protocol.TCP),
        (80, "http", "kubernetes.io/h2c", "TCP", Protocol.HTTP2),
        (80, "http", "kubernetes.io/wss", "TCP", Protocol.HTTPS),
        (80, "http", "example.com/own", "TCP", Protocol.UNDECLARED),
        (3306, "db", "", "TCP", Protocol.TCP),
        (3306, "http", "", "TCP", Protocol.HTTP),
        (3306, "http", "mysql", "TCP", Protocol.MYSQL),
        (53, "http", "http", "UDP", Protocol.UDP),
    ],
)
def test_protocol_selection_is_istios(
    number: int, name: str, app_protocol: str, transport: str, expected: Protocol
) -> None:
    assert protocol_of(number, name, app_protocol, transport) is expected


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ("{ports: [{}]}", "spec.ports[0].port"),
        ("{ports: [{port: 80, name: a}, {port: 80, name: b}]}", "spec.ports[1].port"),
        ("{ports: [{port: 80, name: A_b}]}", "spec.ports[0].name"),
        ("{ports: [{port: 80, targetPort: '123456789012345678'}]}", "spec.ports[0].targetPort"),
        ("{ports: [{port: 80, targetPort: waytoolongportname}]}", "spec.ports[0].targetPort"),
        ("{ports: [{port: 80}], clusterIP: here}", "spec.clusterIP"),
        ("{ports: [{port: 80}], type: External}", "spec.type"),
        ("{type: ExternalName}", "spec.externalName"),
        ("{ports: [{port: 80}], selector: {a: 1}}", "spec.selector.a"),
        ("{ports: [{port: 80}], sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}}", "spec.sessionAffinityConfig"),
    ],
)
def test_services_that_are_refused(spec: str, field: str) -> None:
    result = judge(service(spec))
    assert result.resource is None
    assert any(problem.field.startswith(field) and problem.severity is Severity.ERROR for problem in result.problems)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (service("{}"), "spec.ports"),
        (service("{ports: [{port: 80}, {port: 81, name: a}]}"), "spec.ports[0].name"),
        (service("{ports: [{port: 80, protocol: HTTP}]}"), "spec.ports[0].protocol"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n", "containers"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: []}\n", "spec.containers"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{}]}\n", "spec.containers[0].name"),
        ("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ntype: kubernetes.io/ssh-auth\n", "ssh-privatekey"),
    ],
)
def test_what_only_a_cluster_would_refuse(text: str, field: str) -> None:
    result = judge(text)
    assert result.resource is not None
    assert [(problem.field, problem.code, problem.severity) for problem in result.problems] == [
        (field, "HR0008", Severity.WARNING)
    ]


def test_what_a_service_cannot_do_here_is_said() -> None:
    text = service(
        "{ports: [{port: 53, protocol: UDP, nodePort: 30000}], sessionAffinity: ClientIP, externalIPs: [1.2.3.4]}"
    )
    assert found(text) == [
        ("spec.externalIPs", "HR0002"),
        ("spec.ports[0].nodePort", "HR0002"),
        ("spec.ports[0].protocol", "HR0002"),
        ("spec.sessionAffinity", "HR0002"),
    ]


def test_namespace_and_service_account() -> None:
    namespace = good("{apiVersion: v1, kind: Namespace, metadata: {name: ai, labels: {team: a}}}")
    assert isinstance(namespace, Namespace)
    assert (str(namespace.meta.key), namespace.meta.labels) == ("Namespace ai", {"team": "a"})
    account = good("{apiVersion: v1, kind: ServiceAccount, metadata: {name: chat}, imagePullSecrets: [{name: a}]}")
    assert isinstance(account, ServiceAccount)
    assert found("{apiVersion: v1, kind: Namespace, metadata: {name: ai}, data: {}}") == [("data", "IST0106")]


def test_a_secret_is_decoded_and_never_shown() -> None:
    text = base64.b64encode(b"certificate").decode()
    secret = good(
        "{apiVersion: v1, kind: Secret, metadata: {name: tls}, type: kubernetes.io/tls,"
        f"data: {{tls.crt: {text}, tls.key: 'b2xk'}}, stringData: {{tls.key: hidden}}}}"
    )
    assert isinstance(secret, Secret)
    assert secret.data == {"tls.crt": b"certificate", "tls.key": b"hidden"}
    assert "hidden" not in repr(secret)
    assert "certificate" not in repr(secret)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ("data: {a: hidden!}", "data.a"),
        ("data: {a: 31337}", "data.a"),
        ("data: {a: [hidden]}", "data.a"),
        ("stringData: {a: 31337}", "stringData.a"),
        ("data: {'a b': aGlkZGVu}", 'data["a b"]'),
        ("data: hidden", "data"),
        ("type: kubernetes.io/tls, data: {tls.crt: aGlkZGVu}", 'data["tls.key"]'),
        ("dat: {a: hidden}", "dat"),
        (f"stringData: {{a: {'hidden' * 200000}}}", "data"),
    ],
)
def test_a_bad_secret_is_refused_without_its_values(fields: str, field: str) -> None:
    result = judge(f"{{apiVersion: v1, kind: Secret, metadata: {{name: a}}, {fields}}}")
    assert [problem.field for problem in result.problems] == [field]
    said = " ".join(problem.as_line() for problem in result.problems)
    assert not any(value in said for value in ("hidden", "aGlkZGVu", "31337"))


def test_yaml_errors_in_a_secret_do_not_show_its_values() -> None:
    for value in ("9" * 40, "!!int hidden", "!hidden", "*hidden", "1e9999", '"hidden', "[hidden", "|hidden"):
        result = read_text(f"kind: Secret\nstringData:\n  a: {value}\n", "a.yaml", "test")
        said = " ".join(problem.as_line() for problem in result.problems)
        assert said
        assert not any(word in said for word in ("9999", "hidden"))


def test_endpoints_and_slices_declare_addresses() -> None:
    endpoints = good(
        "{apiVersion: v1, kind: Endpoints, metadata: {name: db}, subsets: [{"
        "addresses: [{ip: 10.0.0.1}, {ip: 10.0.0.2}], notReadyAddresses: [{ip: 10.0.0.3}],"
        "ports: [{name: sql, port: 5432}, {name: u, port: 1, protocol: UDP}]}]}"
    )
    assert isinstance(endpoints, DeclaredEndpoints)
    assert endpoints.service == "db"
    assert endpoints.groups == (
        DeclaredAddresses(("10.0.0.1", "10.0.0.2"), (("sql", 5432),)),
        DeclaredAddresses(("10.0.0.3",), (("sql", 5432),), ready=False),
    )
    piece = good(
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: db-1,"
        "labels: {kubernetes.io/service-name: db}}, addressType: IPv4, ports: [{port: 5432}],"
        "endpoints: [{addresses: [10.0.0.1], zone: a}, {addresses: [10.0.0.2], conditions: {ready: false}}]}"
    )
    assert piece.service == "db"
    assert piece.groups == (
        DeclaredAddresses(("10.0.0.1",), (("", 5432),), zone="a"),
        DeclaredAddresses(("10.0.0.2",), (("", 5432),), ready=False),
    )


@pytest.mark.parametrize(
    ("text", "field", "code"),
    [
        ("kind: Endpoints, subsets: [{addresses: [{ip: here}]}]", "subsets[0].addresses[0].ip", "IST0106"),
        ("kind: Endpoints, subsets: [{addresses: [], ports: [{}]}]", "subsets[0].ports[0].port", "IST0106"),
    ],
)
def test_endpoints_that_are_refused(text: str, field: str, code: str) -> None:
    assert found(f"{{apiVersion: v1, metadata: {{name: db}}, {text}}}") == [(field, code)]


def test_a_slice_of_another_family_or_without_service() -> None:
    text = (
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a}, addressType: IPv6,"
        "endpoints: [{addresses: [10.0.0.1]}]}"
    )
    assert found(text) == [("metadata.labels", "HR0002"), ("endpoints[0].addresses[0]", "IST0106")]


def pod(spec: str, metadata: str = "{name: chat-0, labels: {app: chat}}", status: str = "{podIP: 10.1.0.1}") -> str:
    return f"{{apiVersion: v1, kind: Pod, metadata: {metadata}, spec: {spec}, status: {status}}}"


def test_a_pod_is_a_workload_of_somebody_else() -> None:
    workload = good(
        pod(
            "{serviceAccountName: chat, nodeName: n, volumes: [{name: v}], containers: [{name: c, image: i, ports: ["
            "{containerPort: 8000, name: http}, {containerPort: 53, protocol: UDP}]}]}",
            "{name: chat-0, labels: {app: chat, istio-locality: eu.a.b}}",
        )
    )
    assert isinstance(workload, StaticWorkload)
    assert (workload.address, workload.service_account, workload.proxied, workload.ready) == (
        "10.1.0.1",
        "chat",
        True,
        True,
    )
    assert workload.ports == (WorkloadPort(8000, "http"),)
    assert (workload.labels["app"], workload.locality) == ("chat", "eu/a/b")


@pytest.mark.parametrize(
    ("metadata", "status", "proxied", "ready"),
    [
        ("{name: a, labels: {sidecar.istio.io/inject: 'false'}}", "{}", False, True),
        ("{name: a, annotations: {sidecar.istio.io/inject: 'false'}}", "{}", False, True),
        ("{name: a}", "{phase: Pending}", True, False),
        ("{name: a}", "{conditions: [{type: Ready, status: 'False'}]}", True, False),
        ("{name: a}", "{conditions: [{type: Ready, status: 'True'}], phase: Running}", True, True),
    ],
)
def test_pods_with_and_without_proxy_and_readiness(metadata: str, status: str, proxied: bool, ready: bool) -> None:
    workload = good(pod("{containers: [{name: c}]}", metadata, status))
    assert (workload.proxied, workload.ready) == (proxied, ready)


@pytest.mark.parametrize(
    ("spec", "status", "field"),
    [
        ("{containers: [{name: c, ports: [{containerPort: 0}]}]}", "{}", "spec.containers[0].ports[0].containerPort"),
        ("{containers: [{name: C}]}", "{}", "spec.containers[0].name"),
        ("{containers: [{name: c}]}", "{podIP: x}", "status.podIP"),
        ("{containers: [{name: c}]}", "[]", "status"),
    ],
)
def test_pods_that_are_refused(spec: str, status: str, field: str) -> None:
    assert found(pod(spec, status=status)) == [(field, "IST0106")]
