"""IST0101, IST0112 and IST0140: where VirtualServices send requests."""

from __future__ import annotations

import pytest

from headrace.model.problem import Severity

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: chat}
spec: {ports: [{name: http, port: 8000}]}
"""
TWO_PORTS = """
apiVersion: v1
kind: Service
metadata: {name: two}
spec: {ports: [{name: http, port: 80}, {name: http-b, port: 81}]}
"""
SUBSETS = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: chat}
spec: {host: chat, subsets: [{name: v1, labels: {version: v1}}]}
"""


def rule(destination: str, rest: str = "", namespace: str = "default") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: rule, namespace: {namespace}}}
spec:
  hosts: [front.example.com]
  http:
  - route:
    - destination: {{{destination}}}
    timeout: 1s
    {rest}
"""


def codes(problems):
    return [(problem.code, problem.field) for problem in problems]


POD = """
apiVersion: v1
kind: Pod
metadata: {name: chat-v1-0, labels: {app: chat, version: v1}}
spec: {containers: [{name: chat}]}
"""
AT = "spec.http[0].route[0].destination"


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        ("host: chat", []),
        ("host: chat.default.svc.cluster.local, port: {number: 8000}", []),
        ("host: chat, subset: v1", []),
        ("host: chta", [("IST0101", f"{AT}.host")]),
        ("host: chat.other.svc.cluster.local", [("IST0101", f"{AT}.host")]),
        ("host: chat, port: {number: 8001}", [("IST0101", f"{AT}.port")]),
        ("host: chat, subset: v2", [("IST0101", f"{AT}.subset")]),
        ("host: two", [("IST0112", f"{AT}.host")]),
        ("host: two, port: {number: 81}", []),
    ],
)
def test_hosts_ports_and_subsets(check, destination, expected):
    found = check(SERVICE, TWO_PORTS, SUBSETS, POD, rule(destination))
    assert codes(found) == expected
    assert all(problem.severity is Severity.ERROR and problem.kind == "VirtualService" for problem in found)


def test_the_problem_stands_at_the_line_of_the_destination(check):
    text = rule("host: chta")
    (problem,) = check(text)
    wanted = next(at for at, line in enumerate(text.strip("\n").splitlines(), 1) if "chta" in line)
    assert (problem.line, problem.file) == (wanted, "file.yaml")
    assert '"chta.default.svc.cluster.local"' in problem.message


def test_mirrors_are_looked_up_too(check):
    found = check(SERVICE, rule("host: chat", "mirrors: [{destination: {host: copy, subset: v9}}]"))
    places = {(problem.code, problem.field.rpartition(".")[2]) for problem in found}
    assert places == {("IST0101", "host"), ("IST0101", "subset")}
    assert any("mirror host" in problem.message for problem in found)


def test_tcp_routes_are_looked_up_too(check):
    text = """
    apiVersion: networking.istio.io/v1
    kind: VirtualService
    metadata: {name: rule}
    spec:
      hosts: [front.example.com]
      tcp: [{route: [{destination: {host: nowhere}}]}]
    """
    assert "IST0101" in [problem.code for problem in check(text)]


@pytest.mark.parametrize(
    ("hosts", "destination", "found"),
    [
        ("[api.example.com]", "api.example.com", True),
        ("['*.example.com']", "api.example.com", True),
        ("['*.example.com']", "example.com", False),
    ],
)
def test_service_entries_are_destinations(check, hosts, destination, found):
    entry = f"""
    apiVersion: networking.istio.io/v1
    kind: ServiceEntry
    metadata: {{name: outside}}
    spec: {{hosts: {hosts}, resolution: STATIC, ports: [{{number: 443, name: tls, protocol: TLS}}]}}
    """
    problems = check(entry, rule(f"host: {destination}"))
    assert ([problem.code for problem in problems] == []) is found


@pytest.mark.parametrize(("number", "found"), [(80, True), (443, True), (81, False)])
def test_ports_of_entries_for_one_host(check, number, found):
    entries = [
        f"""
        apiVersion: networking.istio.io/v1
        kind: ServiceEntry
        metadata: {{name: e{port}}}
        spec: {{hosts: [out.example.com], resolution: DNS, ports: [{{number: {port}, name: p, protocol: TLS}}]}}
        """
        for port in (80, 443)
    ]
    problems = check(*entries, rule(f"host: out.example.com, port: {{number: {number}}}"))
    assert [problem.code for problem in problems] == ([] if found else ["IST0101"])


def test_a_service_of_another_namespace_must_be_exported(check):
    hidden = """
    apiVersion: v1
    kind: Service
    metadata: {name: chat, namespace: models, annotations: {networking.istio.io/exportTo: .}}
    spec: {ports: [{name: http, port: 8000}]}
    """
    assert codes(check(hidden, rule("host: chat.models.svc.cluster.local"))) == [("IST0101", f"{AT}.host")]
    assert codes(check(hidden, rule("host: chat", namespace="models"))) == []


def test_subsets_chosen_for_sidecars_do_not_reach_the_gateway(check):
    canary = """
    apiVersion: networking.istio.io/v1
    kind: VirtualService
    metadata: {name: canary}
    spec: {hosts: [chat], http: [{timeout: 1s, route: [{destination: {host: chat, subset: v1}}]}]}
    """
    public = """
    apiVersion: networking.istio.io/v1
    kind: VirtualService
    metadata: {name: public}
    spec: {hosts: ['*'], gateways: [door], http: [{timeout: 1s, route: [{destination: {host: chat}}]}]}
    """
    door = """
    apiVersion: networking.istio.io/v1
    kind: Gateway
    metadata: {name: door}
    spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}
    """
    (problem,) = check(SERVICE, SUBSETS, POD, canary, public, door)
    assert (problem.code, problem.name, problem.severity) == ("IST0140", "public", Severity.WARNING)
    with_subset = public.replace("{host: chat}", "{host: chat, subset: v1}")
    assert check(SERVICE, SUBSETS, POD, canary, with_subset, door) == []
