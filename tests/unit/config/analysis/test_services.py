"""IST0107, IST0108, IST0118, IST0134, IST0135, IST0137, IST0150 and IST0177, and how a document silences a code."""

from __future__ import annotations

import pytest

from headrace.model.problem import Severity


def service(ports: str, name: str = "chat", more: str = "", annotations: str = "{}") -> str:
    return f"""
apiVersion: v1
kind: Service
metadata: {{name: {name}, annotations: {annotations}}}
spec: {{ports: {ports}{more}}}
"""


def entry(ports: str, name: str = "e", more: str = "") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}}}
spec: {{hosts: [a.example.com], resolution: STATIC, ports: {ports}{more}}}
"""


def codes(problems):
    return [(problem.code, problem.field) for problem in problems]


@pytest.mark.parametrize(
    ("port", "clean"),
    [
        ("{name: http, port: 80}", True),
        ("{name: http-api, port: 80}", True),
        ("{name: api, port: 80}", False),
        ("{port: 80}", False),
        ("{name: api, port: 80, appProtocol: http}", True),
        ("{name: db, port: 3306}", True),
    ],
)
def test_port_names(check, port, clean):
    found = check(service(f"[{port}]"))
    assert codes(found) == ([] if clean else [("IST0118", "spec.ports[0]")])
    assert all(problem.severity is Severity.INFO for problem in found)


def test_port_names_of_an_external_name(check):
    external = ", type: ExternalName, externalName: a.example.com"
    assert codes(check(service("[{name: tcp, port: 80}]", more=external))) == [("IST0150", "spec.ports[0]")]
    assert check(service("[{name: https, port: 443}]", more=external)) == []


def test_one_target_with_two_ports(check):
    workload = """
    apiVersion: headrace.dev/v1alpha1
    kind: Workload
    metadata: {name: chat-v1}
    spec: {command: [chat], labels: {app: chat}, ports: [{name: http, port: 8000}]}
    """
    selector = ", selector: {app: chat}"
    first = service("[{name: http, port: 80, targetPort: 8000}]", more=selector)
    other = service("[{name: http, port: 81, targetPort: 8000}]", name="chat2", more=selector)
    assert [problem.code for problem in check(workload, first, other)] == ["IST0137"]
    same = service("[{name: http, port: 80, targetPort: 8000}]", name="chat2", more=selector)
    assert check(workload, first, same) == []


def test_one_port_of_two_transports(check):
    workload = """
    apiVersion: headrace.dev/v1alpha1
    kind: Workload
    metadata: {name: chat-v1}
    spec: {command: [chat], labels: {app: chat}, ports: [{name: http, port: 80}]}
    """
    tcp = service("[{name: http, port: 80}]", more=", selector: {app: chat}")
    udp = service("[{name: udp, port: 80, protocol: UDP}]", name="udp", more=", selector: {app: chat}")
    assert "IST0116" in [problem.code for problem in check(workload, tcp, udp)]
    assert "IST0116" not in [problem.code for problem in check(workload, tcp)]


def test_entries_without_addresses(check):
    assert codes(check(entry("[{number: 9000, name: a, protocol: TCP}]"))) == [("IST0134", "spec.ports[0]")]
    assert check(entry("[{number: 9000, name: a, protocol: TCP}]", more=", addresses: [10.0.0.1]")) == []
    assert check(entry("[{number: 443, name: a, protocol: TLS}]")) == []


def test_entries_that_disagree(check):
    http, tls = "[{number: 443, name: a, protocol: HTTP}]", "[{number: 443, name: a, protocol: TLS}]"
    assert codes(check(entry(http), entry(tls, "f"))) == [("IST0177", "spec.ports")] * 2
    assert check(entry(http), entry(http, "f")) == []
    assert check(entry(http), entry(tls, "f", ", exportTo: [other]")) != []
    assert check(entry(http, more=", exportTo: [.]"), entry(tls, "f", ", exportTo: [other]")) == []


HTTP = "[{name: http, port: 80}]"


@pytest.mark.parametrize(
    ("annotation", "code"),
    [
        ("networking.istio.io/exportTo: .", ""),
        ("example.com/anything: a", ""),
        ("networking.istio.io/exportto: .", "IST0108"),
        ("sidecar.istio.io/proxyCPU: '1'", "IST0107"),
        ("alpha.istio.io/canonical-serviceaccounts: a", "IST0135"),
    ],
)
def test_annotations(check, annotation, code):
    found = check(service(HTTP, annotations=f"{{{annotation}}}"))
    assert [problem.code for problem in found] == ([code] if code else [])
    name = annotation.partition(":")[0]
    assert all(problem.field == f'metadata.annotations["{name}"]' for problem in found)


@pytest.mark.parametrize(
    ("silenced", "left"), [("IST0118", ["IST0108"]), ("'*'", []), ("IST0999", ["IST0108", "IST0118"])]
)
def test_a_document_can_silence_codes(check, silenced, left):
    annotations = f"{{galley.istio.io/analyze-suppress: {silenced}, a.istio.io/unknown: b}}"
    found = check(service("[{name: api, port: 80}]", annotations=annotations))
    assert sorted(problem.code for problem in found) == left


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("hosts: [a.example.com], ports: [{number: 80, name: t, protocol: TCP}]", ["IST0133", "IST0134"]),
        ("hosts: [a.example.com], resolution: DNS, ports: [{number: 80, name: t, protocol: TCP}]", ["IST0134"]),
        ("hosts: [a.example.com], ports: [{number: 80, name: h, protocol: HTTP}]", []),
        ("hosts: ['*a.example.com'], ports: [{number: 80, name: h, protocol: HTTP}]", ["IST0133"]),
        ("hosts: ['*.example.com'], ports: [{number: 80, name: h, protocol: HTTP}]", []),
    ],
)
def test_entries_that_istio_only_warns_of(check, spec, expected):
    text = f"apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e}}\nspec: {{{spec}}}\n"
    assert sorted(problem.code for problem in check(text) if problem.code in ("IST0133", "IST0134")) == expected


@pytest.mark.parametrize("name", ["ISTIO_META_DNS_AUTO_ALLOCATE", "PILOT_ENABLE_IP_AUTOALLOCATE"])
def test_addresses_that_are_given_out(check, name):
    mesh = f"""
    apiVersion: headrace.dev/v1alpha1
    kind: MeshConfig
    metadata: {{name: mesh}}
    spec: {{defaultConfig: {{proxyMetadata: {{ISTIO_META_DNS_CAPTURE: "true", {name}: "true"}}}}}}
    """
    text = entry("[{number: 80, name: t, protocol: TCP}]")
    assert "IST0134" in [problem.code for problem in check(text)]
    assert "IST0134" not in [problem.code for problem in check(text, mesh)]
    assert "IST0134" not in [problem.code for problem in check(text + "status: {addresses: [{value: 240.0.0.1}]}\n")]
