"""ServiceEntry and WorkloadEntry: what is accepted, what is refused and where, and what they become."""

from __future__ import annotations

import textwrap

import pytest

from headrace.model.service import InlineEndpoint, Protocol, Resolution, ServicePort
from headrace.model.workload import WorkloadPort


def entry(spec: str) -> str:
    head = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e}\nspec:\n"
    return head + textwrap.indent(textwrap.dedent(spec).strip("\n"), "  ") + "\n"


def workload(spec: str, labels: str = "{}") -> str:
    head = f"apiVersion: networking.istio.io/v1beta1\nkind: WorkloadEntry\nmetadata: {{name: w, labels: {labels}}}\n"
    return f"{head}spec: {{{spec}}}\n"


HTTP = "ports: [{number: 80, name: http, protocol: HTTP}]"

ACCEPTED = {
    "dns": f"hosts: [api.example.com]\n{HTTP}\nresolution: DNS",
    "static": f"hosts: [a.b]\n{HTTP}\nresolution: STATIC\nendpoints: [{{address: 10.0.0.1, ports: {{http: 8080}}}}]",
    "socket": f"hosts: [a.b]\n{HTTP}\nresolution: STATIC\nendpoints: [{{address: unix:///a}}]",
    "static by labels": f"hosts: [a.b]\n{HTTP}\nresolution: STATIC\nworkloadSelector: {{labels: {{app: a}}}}",
    "no resolution": f"hosts: [a.b]\n{HTTP}",
    "dynamic": f"hosts: ['*.a.b']\n{HTTP}\nresolution: DYNAMIC_DNS",
    "several http hosts": f"hosts: [a.b, '*.c.d']\n{HTTP}\nresolution: STATIC",
    "blocks of addresses": f"hosts: [a.b]\n{HTTP}\nresolution: STATIC\naddresses: [10.0.0.0/8, '2001:db8::1']",
    "endpoints by name": f"hosts: ['*.a.b']\n{HTTP}\nresolution: DNS\nendpoints: [{{address: c.d}}]",
    "for nobody": f"hosts: [a.b]\n{HTTP}\nresolution: DNS\nexportTo: ['~']",
    "enum by number": f"hosts: [a.b]\n{HTTP}\nresolution: 2\nlocation: 1",
}


@pytest.mark.parametrize("spec", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_accepted(judge, spec):
    verdict = judge(entry(spec))
    assert verdict.problems == ()
    assert verdict.resource is not None


REJECTED = {
    "no spec": ("", "spec", "needs a spec"),
    "no hosts": (f"{HTTP}", "spec.hosts", "required"),
    "empty hosts": (f"hosts: []\n{HTTP}", "spec.hosts", "at least one"),
    "star": (f"hosts: ['*']\n{HTTP}\nresolution: STATIC", "spec.hosts[0]", "'*'"),
    "wildcard in DNS": (f"hosts: ['*.a.b']\n{HTTP}\nresolution: DNS", "spec.hosts[0]", "looked up"),
    "port twice": (
        "hosts: [a.b]\nports: [{number: 80, name: a, protocol: HTTP}, {number: 80, name: b, protocol: HTTP}]",
        "spec.ports[1].number",
        "twice",
    ),
    "port name twice": (
        "hosts: [a.b]\nports: [{number: 80, name: a, protocol: HTTP}, {number: 81, name: a, protocol: HTTP}]",
        "spec.ports[1].name",
        "twice",
    ),
    "port name": ("hosts: [a.b]\nports: [{number: 80, name: a_b}]", "spec.ports[0].name", "port's name"),
    "port 0": ("hosts: [a.b]\nports: [{number: 0, name: a}]", "spec.ports[0].number", "out of range"),
    "target port": (
        "hosts: [a.b]\nports: [{number: 1, name: a, targetPort: 70000}]",
        "spec.ports[0].targetPort",
        "range",
    ),
    "protocol": (
        "hosts: [a.b]\nports: [{number: 1, name: a, protocol: X}]",
        "spec.ports[0].protocol",
        "not a protocol",
    ),
    "address": (f"hosts: [a.b]\n{HTTP}\naddresses: [10.0.0]", "spec.addresses[0]", "IP address"),
    "block with DNS": (f"hosts: [a.b]\n{HTTP}\nresolution: DNS\naddresses: [10.0.0.0/8]", "spec.addresses", "single"),
    "endpoints without resolution": (
        f"hosts: [a.b]\n{HTTP}\nendpoints: [{{address: 1.2.3.4}}]",
        "spec.endpoints",
        "NONE",
    ),
    "endpoints and selector": (
        f"hosts: [a.b]\n{HTTP}\nresolution: STATIC\nendpoints: [{{address: 1.2.3.4}}]\n"
        "workloadSelector: {labels: {a: b}}",
        "spec.workloadSelector",
        "exclude",
    ),
    "wildcard selector": (
        f"hosts: [a.b]\n{HTTP}\nresolution: STATIC\nworkloadSelector: {{labels: {{a: '*'}}}}",
        "spec.workloadSelector.labels.a",
        "wildcards",
    ),
    "static by name": (
        f"hosts: [a.b]\n{HTTP}\nresolution: STATIC\nendpoints: [{{address: c.d}}]",
        "spec.endpoints[0].address",
        "not an IP address",
    ),
    "unknown port of an endpoint": (
        f"hosts: [a.b]\n{HTTP}\nresolution: STATIC\nendpoints: [{{address: 1.2.3.4, ports: {{grpc: 1}}}}]",
        "spec.endpoints[0].ports.grpc",
        "no port named",
    ),
    "two of a round robin": (
        f"hosts: [a.b]\n{HTTP}\nresolution: DNS_ROUND_ROBIN\nendpoints: [{{address: a.c}}, {{address: a.d}}]",
        "spec.endpoints[1]",
        "at most one",
    ),
    "several tcp hosts": (
        "hosts: [a.b, c.d]\nports: [{number: 1, name: a, protocol: TCP}]\nresolution: STATIC",
        "spec.ports[0].protocol",
        "several hosts",
    ),
    "dynamic without a wildcard": (f"hosts: [a.b]\n{HTTP}\nresolution: DYNAMIC_DNS", "spec.hosts[0]", "wildcards"),
    "socket of two ports": (
        "hosts: [a.b]\nports: [{number: 1, name: a, protocol: HTTP}, {number: 2, name: b, protocol: HTTP}]\n"
        "resolution: STATIC\nendpoints: [{address: unix:///a}]",
        "spec.endpoints[0].address",
        "exactly one port",
    ),
    "export to everybody and nobody": (f"hosts: [a.b]\n{HTTP}\nexportTo: ['*', '~']", "spec.exportTo", "alone"),
}


@pytest.mark.parametrize(("spec", "field", "message"), REJECTED.values(), ids=REJECTED.keys())
def test_rejected(judge, spec, field, message):
    verdict = judge(entry(spec))
    assert verdict.resource is None
    assert (field, "IST0106") in [(problem.field, problem.code) for problem in verdict.errors], verdict.errors
    assert any(message in problem.message for problem in verdict.errors), verdict.errors


WARNED = {
    "partial wildcard": (f"hosts: ['*a.b']\n{HTTP}\nresolution: STATIC", "IST0133", "spec.hosts[0]"),
    "empty selector": (
        f"hosts: [a.b]\n{HTTP}\nresolution: STATIC\nworkloadSelector: {{}}",
        "IST0133",
        "spec.workloadSelector",
    ),
    "selector without resolution": (
        f"hosts: [a.b]\n{HTTP}\nworkloadSelector: {{labels: {{a: b}}}}",
        "IST0133",
        "spec.workloadSelector",
    ),
    "only a network": (
        f"hosts: [a.b]\n{HTTP}\nresolution: STATIC\nendpoints: [{{network: n}}]",
        "IST0133",
        "spec.endpoints[0].address",
    ),
}


@pytest.mark.parametrize(("spec", "code", "field"), WARNED.values(), ids=WARNED.keys())
def test_warned(judge, spec, code, field):
    verdict = judge(entry(spec))
    assert (code, field) in verdict.codes
    assert verdict.errors == []
    assert verdict.resource is not None


def test_an_entry_is_lowered(judge):
    found = judge(
        entry("""
        hosts: [Api.Example.com]
        location: MESH_INTERNAL
        resolution: STATIC
        ports:
        - {number: 443, name: tls, protocol: tls, targetPort: 8443}
        - {number: 80, name: any}
        endpoints:
        - {address: 10.0.0.1, ports: {tls: 9443}, labels: {b: c, a: b}, locality: r/z, weight: 3, serviceAccount: s}
        exportTo: [.]
        subjectAltNames: [spiffe://x/y]
        """)
    )
    assert found.errors == []
    resource = found.resource
    assert (resource.hosts, resource.external, resource.resolution) == (("api.example.com",), False, Resolution.STATIC)
    assert resource.ports == (
        ServicePort(443, "tls", Protocol.TLS, 8443),
        ServicePort(80, "any", Protocol.UNDECLARED, 80),
    )
    assert resource.endpoints == (
        InlineEndpoint(
            "10.0.0.1",
            ports=(("tls", 9443),),
            labels=(("a", "b"), ("b", "c")),
            locality="r/z",
            weight=3,
            service_account="s",
        ),
    )
    assert (resource.export_to, resource.subject_alt_names) == ((".",), ("spiffe://x/y",))
    assert resource.workload_selector is None


WORKLOADS = {
    "no address": ("", "spec.address", "needs an address"),
    "bad address": ("address: a b", "spec.address", "IP address or host name"),
    "relative socket": ("address: 'unix://a'", "spec.address", "socket's path"),
    "socket with ports": ("address: 'unix:///a', ports: {a: 1}", "spec.ports", "no ports"),
    "port": ("address: 1.2.3.4, ports: {a: 70000}", "spec.ports.a", "out of range"),
    "port name": ("address: 1.2.3.4, ports: {a_b: 1}", "spec.ports.a_b", "port's name"),
    "label": ("address: 1.2.3.4, labels: {a: 'b c'}", "spec.labels.a", "label value"),
    "unknown field": ("address: 1.2.3.4, wieght: 1", "spec.wieght", "unknown field"),
}


@pytest.mark.parametrize(("spec", "field", "message"), WORKLOADS.values(), ids=WORKLOADS.keys())
def test_rejected_workloads(judge, spec, field, message):
    verdict = judge(workload(spec))
    assert verdict.resource is None
    assert field in [problem.field for problem in verdict.errors], verdict.errors
    assert any(message in problem.message for problem in verdict.errors), verdict.errors


def test_a_workload_is_lowered(judge):
    verdict = judge(
        workload(
            "address: vm.example.com, ports: {http: 8080}, labels: {app: a, tier: b}, serviceAccount: sa, weight: 2, "
            "locality: r/z/s, network: n",
            labels="{app: chat}",
        )
    )
    assert verdict.problems == ()
    found = verdict.resource
    assert found.labels == {"app": "chat", "tier": "b"}, "metadata wins, as in Istio"
    assert found.ports == (WorkloadPort(8080, "http"),)
    assert (found.address, found.service_account, found.weight) == ("vm.example.com", "sa", 2)
    assert (found.locality, found.network, found.proxied) == ("r/z/s", "n", True)


@pytest.mark.parametrize(("mode", "proxied"), [("istio", True), ("disabled", False)])
def test_the_label_says_whether_a_proxy_stands_before_it(judge, mode, proxied):
    found = judge(workload("address: 1.2.3.4, serviceAccount: sa", f"{{security.istio.io/tlsMode: {mode}}}")).resource
    assert found.proxied is proxied
