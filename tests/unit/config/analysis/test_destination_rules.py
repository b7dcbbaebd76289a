"""IST0113, IST0128, IST0129, IST0173 and IST0174: DestinationRules against services, workloads and policies."""

from __future__ import annotations

import pytest

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: chat}
spec: {selector: {app: chat}, ports: [{name: http, port: 8000}]}
"""
WORKLOAD = """
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {name: chat-v1}
spec: {command: [chat], labels: {app: chat, version: v1}, ports: [{name: http, port: 8000}]}
"""


def rule(rest: str, host: str = "chat") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: rule}}
spec: {{host: {host}, {rest}}}
"""


def peers(mode: str, namespace: str = "default", selector: str = "", name: str = "p") -> str:
    return f"""
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{mtls: {{mode: {mode}}}{f", selector: {{matchLabels: {selector}}}" if selector else ""}}}
"""


def codes(problems):
    return [(problem.code, problem.field) for problem in problems]


def test_hosts(check):
    assert check(SERVICE, rule("subsets: []")) == []
    assert codes(check(SERVICE, rule("subsets: []", host="chta"))) == [("IST0174", "spec.host")]
    wide = rule("subsets: []", host="'*.svc.cluster.local'")
    assert codes(check(SERVICE, wide)) == [("IST0174", "spec.host")], "as Istio: it is no service's own name"


def test_subsets_that_select_nothing(check):
    subsets = "subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]"
    assert codes(check(SERVICE, WORKLOAD, rule(subsets))) == [("IST0173", "spec.subsets[1].labels")]
    others = WORKLOAD.replace("app: chat", "app: client")
    assert check(SERVICE, others, rule(subsets)) == [], "workloads of others say nothing"


def pod(labels, node=""):
    return f"""
    apiVersion: v1
    kind: Pod
    metadata: {{name: one, namespace: elsewhere, labels: {labels}}}
    spec: {{containers: [{{name: c}}]{f", nodeName: {node}" if node else ""}}}
    """


NODE = """
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/zone: a}}
"""


@pytest.mark.parametrize(
    ("labels", "texts", "empty"),
    [
        ("{version: v1}", [], True),
        ("{version: v1}", [pod("{version: v1}")], False),
        ("{version: v1}", [pod("{version: v2}")], True),
        ("{}", [pod("{version: v2}")], False),
        ("{topology.kubernetes.io/zone: a}", [pod("{}", "n1"), NODE], False),
        ("{topology.kubernetes.io/zone: b}", [pod("{}", "n1"), NODE], True),
        ("{topology.kubernetes.io/zone: a}", [pod("{}"), NODE], True),
        ("{kubernetes.io/hostname: n1}", [pod("{}", "n1")], False),
    ],
)
def test_subsets_of_a_cluster_are_looked_for_in_all_pods(check, labels, texts, empty):
    found = check(SERVICE, rule(f"subsets: [{{name: s, labels: {labels}}}]"), *texts)
    assert ("IST0173" in [problem.code for problem in found]) is empty


def test_servers_that_nobody_verifies(check):
    top = "trafficPolicy: {tls: {mode: SIMPLE}}"
    assert codes(check(SERVICE, rule(top))) == [("IST0128", "spec.trafficPolicy.tls")]
    port = "trafficPolicy: {portLevelSettings: [{port: {number: 8000}, tls: {mode: SIMPLE}}]}"
    assert codes(check(SERVICE, rule(port))) == [("IST0129", "spec.trafficPolicy.portLevelSettings[0].tls")]
    assert check(SERVICE, rule("trafficPolicy: {tls: {mode: SIMPLE, caCertificates: /ca.pem}}")) == []
    assert check(SERVICE, rule("trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}")) == []


CONFLICT = [("IST0113", "spec.trafficPolicy.tls.mode")]


@pytest.mark.parametrize(
    ("tls", "policies", "expected"),
    [
        ("DISABLE", [], []),
        ("DISABLE", [peers("STRICT")], CONFLICT),
        ("DISABLE", [peers("PERMISSIVE")], []),
        ("DISABLE", [peers("STRICT", "istio-system")], CONFLICT),
        ("DISABLE", [peers("STRICT", "istio-system"), peers("PERMISSIVE")], []),
        ("DISABLE", [peers("PERMISSIVE"), peers("STRICT", selector="{app: chat}", name="own")], CONFLICT),
        ("DISABLE", [peers("STRICT", selector="{app: other}")], []),
        ("DISABLE", [peers("STRICT", "other")], []),
        ("ISTIO_MUTUAL", [peers("STRICT")], []),
        ("ISTIO_MUTUAL", [peers("DISABLE")], CONFLICT),
    ],
)
def test_mutual_tls_of_both_sides(check, tls, policies, expected):
    found = check(SERVICE, WORKLOAD, rule(f"trafficPolicy: {{tls: {{mode: {tls}}}}}"), *policies)
    assert codes(found) == expected
