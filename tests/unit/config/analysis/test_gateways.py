"""IST0101 (gateway, selector, credentialName), IST0109, IST0132, IST0138, IST0145, IST0161, IST0162."""

from __future__ import annotations

import base64

import pytest

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{name: http, port: 80}]}
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {name: door-0, namespace: doors, labels: {istio: ingressgateway, app: door}}
spec: {containers: [{name: proxy, image: auto}]}
"""


def gateway(name="door", hosts="['*']", selector="{istio: ingressgateway}", port=80, tls="", namespace="default"):
    protocol = "HTTPS" if tls else "HTTP"
    return f"""
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  selector: {selector}
  servers:
  - port: {{number: {port}, name: p, protocol: {protocol}}}
    hosts: {hosts}
    {f"tls: {tls}" if tls else ""}
"""


def rule(gateways="[door]", hosts="[a.example.com]", name="rule", namespace="default", export=""):
    return f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  hosts: {hosts}
  gateways: {gateways}
  {f"exportTo: {export}" if export else ""}
  http: [{{timeout: 1s, route: [{{destination: {{host: web.default.svc.cluster.local}}}}]}}]
"""


def secret(certificate: str, namespace: str = "istio-system") -> str:
    data = base64.b64encode(certificate.encode()).decode()
    key = base64.b64encode(b"-----BEGIN PRIVATE KEY-----\n").decode()
    return f"""
apiVersion: v1
kind: Secret
metadata: {{name: cert, namespace: {namespace}}}
data: {{tls.crt: {data}, tls.key: {key}}}
"""


def codes(problems):
    return [(problem.code, problem.kind, problem.field) for problem in problems]


def test_a_gateway_that_is_not_there(check):
    assert codes(check(SERVICE, rule())) == [("IST0101", "VirtualService", "spec.gateways[0]")]
    assert codes(check(SERVICE, rule(gateways="[mesh]"))) == []


def test_a_gateway_of_another_namespace(check):
    assert codes(check(SERVICE, gateway(namespace="doors"), rule(gateways="[doors/door]"))) == []
    assert codes(check(SERVICE, gateway(namespace="doors"), rule())) == [
        ("IST0101", "VirtualService", "spec.gateways[0]")
    ]


@pytest.mark.parametrize(
    ("served", "wanted", "clean"),
    [
        ("['*']", "[a.example.com]", True),
        ("['*.example.com']", "[a.example.com]", True),
        ("[a.example.com]", "['*.example.com']", True),
        ("[b.example.com]", "[a.example.com]", False),
        ("[other/*]", "[a.example.com]", False),
        ("[./a.example.com]", "[a.example.com]", True),
    ],
)
def test_hosts_that_the_gateway_serves(check, served, wanted, clean):
    expected = [] if clean else [("IST0132", "VirtualService", "spec.gateways[0]")]
    assert codes(check(SERVICE, gateway(hosts=served), rule(hosts=wanted))) == expected


def test_a_selector_without_a_proxy_gets_one_unless_a_cluster_is_described(check):
    text = gateway(selector="{app: typo}")
    assert check(text) == []
    assert codes(check(text, POD)) == [("IST0101", "Gateway", "spec.selector")]
    assert check(gateway(selector="{app: door}", port=80).replace("default", "doors"), POD)[0].code == "IST0162"


def test_credentials_live_beside_the_proxy(check):
    tls = "{mode: SIMPLE, credentialName: cert}"
    good = "-----BEGIN CERTIFICATE-----\n"
    place = "spec.servers[0].tls.credentialName"
    assert codes(check(gateway(tls=tls))) == [("IST0101", "Gateway", place)]
    assert check(gateway(tls=tls), secret(good)) == []
    assert codes(check(gateway(tls=tls), secret(good, "default"))) == [("IST0101", "Gateway", place)]
    assert codes(check(gateway(tls=tls), secret("no certificate"))) == [("IST0161", "Gateway", place)]


def test_ports_that_the_gateways_service_has_not(check):
    front = """
    apiVersion: v1
    kind: Service
    metadata: {name: door, namespace: doors}
    spec: {selector: {app: door}, ports: [{name: http, port: 80, targetPort: 8080}]}
    """
    assert check(gateway(port=80), POD, front) == []
    assert check(gateway(port=8080), POD, front) == []
    assert codes(check(gateway(port=81), POD, front)) == [("IST0162", "Gateway", "spec.servers[0].port")]


@pytest.mark.parametrize(
    ("other", "clash"),
    [
        ({}, True),
        ({"port": 81}, False),
        ({"hosts": "[a.example.com]"}, False),
        ({"selector": "{app: another}"}, False),
        ({"hosts": "['default/*']"}, True),
    ],
)
def test_two_gateways_for_one_door(check, other, clash):
    found = check(gateway(), gateway(name="second", **other))
    assert [problem.code for problem in found] == (["IST0145", "IST0145"] if clash else [])


def test_a_certificate_in_two_gateways(check):
    tls = "{mode: SIMPLE, credentialName: cert}"
    first = gateway(hosts="[a.example.com]", tls=tls)
    second = gateway(name="second", hosts="[b.example.com]", tls=tls)
    found = check(first, second, secret("-----BEGIN CERTIFICATE-----\n"))
    assert codes(found) == [("IST0138", "Gateway", "spec.servers[0].tls")] * 2


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        ({}, {}, True),
        ({}, {"hosts": "[b.example.com]"}, False),
        ({}, {"gateways": "[door]"}, False),
        ({"export": "[.]"}, {"export": "[.]"}, True),
        ({"export": "[.]"}, {"export": "[.]", "namespace": "other"}, False),
        ({"export": "[.]"}, {"namespace": "other"}, True),
        ({"export": "[other]"}, {"export": "[.]", "namespace": "other"}, True),
        ({"hosts": "['*.example.com']"}, {}, False),
        ({"hosts": "['*.example.com']"}, {"export": "[.]"}, True),
        ({"hosts": "[a.example.com]"}, {"export": "[.]", "hosts": "['*.com']"}, True),
        ({"hosts": "['*.example.org']"}, {"export": "[.]"}, False),
    ],
)
def test_two_rules_for_one_host(check, one, other, clash):
    first = rule(**{"gateways": "[mesh]", **one})
    second = rule(**{"gateways": "[mesh]", "name": "second", **other})
    found = check(SERVICE, gateway(), first, second)
    assert [problem.code for problem in found] == (["IST0109", "IST0109"] if clash else [])
