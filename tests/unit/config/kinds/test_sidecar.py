"""Sidecar: what is accepted, what is refused and where, and what it becomes."""

from __future__ import annotations

import textwrap

import pytest

from headrace.model.mesh import OutboundMode
from headrace.model.problem import Severity
from headrace.model.service import Protocol
from headrace.model.sidecar import EgressHost, EgressListener


def sidecar(spec: str) -> str:
    head = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: s, namespace: shop}\nspec:\n"
    return head + textwrap.indent(textwrap.dedent(spec).strip("\n"), "  ") + "\n"


ACCEPTED = {
    "hosts": "egress: [{hosts: ['./*', 'istio-system/*', '~prod/*.internal.example']}]",
    "listeners of its own": """
        egress:
        - {port: {number: 3306, protocol: MySQL}, bind: 127.0.0.1, captureMode: NONE, hosts: ['*/db.example.com']}
        - {port: {number: 0, protocol: HTTP}, bind: 'unix:///run/app.sock', hosts: ['./*']}
        - {hosts: ['./*']}
    """,
    "http proxy": "egress: [{port: {number: 15002, protocol: HTTP_PROXY}, bind: 127.0.0.1, hosts: ['*/*']}]",
    "ingress": """
        ingress:
        - {port: {number: 9080, protocol: HTTP}, defaultEndpoint: 'unix:///run/app.sock'}
        - {port: {number: 9081, protocol: TCP}, defaultEndpoint: '[::1]:80', bind: 10.0.0.1, captureMode: NONE}
        - {port: {number: 9082}, defaultEndpoint: '0.0.0.0:80', connectionPool: {tcp: {maxConnections: 3}}}
    """,
    "ends TLS": """
        ingress:
        - port: {number: 443, protocol: HTTPS}
          tls: {mode: SIMPLE, serverCertificate: /c.pem, privateKey: /k.pem}
    """,
    "outside": "outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: out.edge.svc, port: {number: 80}}}",
    "pool": "inboundConnectionPool: {http: {http1MaxPendingRequests: 1}}",
}


@pytest.mark.parametrize("spec", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_accepted(judge, spec):
    verdict = judge(sidecar(spec))
    assert [problem for problem in verdict.problems if problem.severity is Severity.ERROR] == []
    assert verdict.resource is not None


HOSTS = "hosts: ['./*']"
REJECTED = {
    "nothing": ("{}", "spec"),
    "host without a namespace": ("egress: [{hosts: [a.example.com]}]", "spec.egress[0].hosts[0]"),
    "short name": ("egress: [{hosts: ['./a']}]", "spec.egress[0].hosts[0]"),
    "partial wildcard": ("egress: [{hosts: ['./*a.example.com']}]", "spec.egress[0].hosts[0]"),
    "no hosts": ("egress: [{hosts: []}]", "spec.egress[0].hosts"),
    "namespace": ("egress: [{hosts: ['a_b/*']}]", "spec.egress[0].hosts[0]"),
    "catch-all first": (f"egress: [{{{HOSTS}}}, {{port: {{number: 80}}, {HOSTS}}}]", "spec.egress[0]"),
    "port twice": (
        f"egress: [{{port: {{number: 80}}, {HOSTS}}}, {{port: {{number: 80}}, {HOSTS}}}]",
        "spec.egress[1].port",
    ),
    "no port and no socket": (f"egress: [{{port: {{protocol: HTTP}}, {HOSTS}}}]", "spec.egress[0].bind"),
    "socket for ingress": ("ingress: [{port: {number: 80}, bind: 'unix:///a'}]", "spec.ingress[0].bind"),
    "ingress twice": ("ingress: [{port: {number: 80}}, {port: {number: 80}}]", "spec.ingress[1].port.number"),
    "endpoint elsewhere": (
        "ingress: [{port: {number: 80}, defaultEndpoint: '10.0.0.1:80'}]",
        "spec.ingress[0].defaultEndpoint",
    ),
    "endpoint without a port": (
        "ingress: [{port: {number: 80}, defaultEndpoint: 127.0.0.1}]",
        "spec.ingress[0].defaultEndpoint",
    ),
    "endpoint with a port without end": (
        f"ingress: [{{port: {{number: 80}}, defaultEndpoint: '127.0.0.1:{'8' * 5000}'}}]",
        "spec.ingress[0].defaultEndpoint",
    ),
    "target port": ("ingress: [{port: {number: 80, targetPort: 81}}]", "spec.ingress[0].port.targetPort"),
    "protocol": ("ingress: [{port: {number: 80, protocol: FTP}}]", "spec.ingress[0].port.protocol"),
    "TLS on plain HTTP": (
        "ingress: [{port: {number: 80, protocol: HTTP}, tls: {mode: SIMPLE, serverCertificate: /c, privateKey: /k}}]",
        "spec.ingress[0].tls",
    ),
    "TLS of the mesh": (
        "ingress: [{port: {number: 80, protocol: TLS}, tls: {mode: ISTIO_MUTUAL}}]",
        "spec.ingress[0].tls.mode",
    ),
    "egress proxy without a port": (
        "outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: a.b}}",
        "spec.outboundTrafficPolicy.egressProxy.port",
    ),
    "egress proxy under REGISTRY_ONLY": (
        "outboundTrafficPolicy: {egressProxy: {host: a.b, port: {number: 80}}}",
        "spec.outboundTrafficPolicy.egressProxy",
    ),
    "wildcard in the selector": (
        "workloadSelector: {labels: {app: '*'}}\ninboundConnectionPool: {tcp: {maxConnections: 1}}",
        "spec.workloadSelector.labels.app",
    ),
}


@pytest.mark.parametrize(("spec", "field"), REJECTED.values(), ids=REJECTED.keys())
def test_rejected_where_it_is_wrong(judge, spec, field):
    verdict = judge(sidecar(spec))
    assert verdict.resource is None
    assert field in [problem.field for problem in verdict.problems if problem.severity is Severity.ERROR]


def test_hosts_that_add_nothing_are_named(judge):
    verdict = judge(sidecar("egress: [{hosts: ['*/*', 'prod/a.example.com']}]"))
    assert [problem.code for problem in verdict.problems] == ["IST0133"]


def test_lowered(judge):
    spec = """
        workloadSelector: {labels: {app: web}}
        egress:
        - {port: {number: 0, protocol: http_proxy}, bind: 'unix:///run/a.sock', hosts: ['./A.Example.com', '~*/b.c']}
        - {hosts: ['~/d.e']}
        outboundTrafficPolicy: {}
    """
    found = judge(sidecar(spec)).resource
    assert found.selector == {"app": "web"}
    assert found.outbound_mode is OutboundMode.REGISTRY_ONLY
    assert found.egress == (
        EgressListener(
            hosts=(EgressHost(".", "a.example.com"), EgressHost("*", "b.c", True)),
            protocol=Protocol.HTTP,
            http_proxy=True,
            bind="unix:///run/a.sock",
            captured=False,
        ),
        EgressListener(hosts=(EgressHost("*", "d.e", True),)),
    )
