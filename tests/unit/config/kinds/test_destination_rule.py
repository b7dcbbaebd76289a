"""DestinationRule: what is accepted, what is refused and where, and what it becomes."""

from __future__ import annotations

import textwrap

import pytest

from headrace.model.destination import (
    ClientTls,
    ConnectionPool,
    ConsistentHash,
    Http2Keepalive,
    LbPolicy,
    LoadBalancer,
    LocalityLb,
    OutlierDetection,
    ProxyProtocol,
    RetryBudget,
    TcpKeepalive,
    TlsMode,
    Tunnel,
    Warmup,
)


def document(spec: str, version: str = "networking.istio.io/v1") -> str:
    head = f"apiVersion: {version}\nkind: DestinationRule\nmetadata: {{name: chat}}\nspec:\n"
    return head + textwrap.indent(textwrap.dedent(spec).strip("\n"), "  ") + "\n"


def policy(text: str) -> str:
    return document(f"host: chat\ntrafficPolicy: {{{text}}}")


TP = "spec.trafficPolicy"


@pytest.mark.parametrize("version", ["v1", "v1beta1", "v1alpha3"])
def test_the_articles_circuit_breaker_is_read_in_every_version(judge, version):
    verdict = judge(
        document(
            """
            host: chat
            trafficPolicy:
              outlierDetection:
                consecutive5xxErrors: 5
                interval: 10s
                baseEjectionTime: 3m
                maxEjectionPercent: 100
            """,
            f"networking.istio.io/{version}",
        )
    )
    assert verdict.problems == ()
    assert verdict.resource.host == "chat.default.svc.cluster.local"
    assert verdict.resource.policy.outlier_detection == OutlierDetection(
        consecutive_5xx_errors=5, interval=10.0, base_ejection_time=180.0, max_ejection_percent=100
    )


REJECTED = {
    "no host": (document("subsets: []"), "spec.host", "required"),
    "empty policy": (policy(""), TP, "at least one block"),
    "unknown balancer": (policy("loadBalancer: {simple: BEST}"), f"{TP}.loadBalancer.simple", "one of its values"),
    "simple and hash": (
        policy("loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}"),
        f"{TP}.loadBalancer.consistentHash",
        "exclude",
    ),
    "two hash keys": (
        policy("loadBalancer: {consistentHash: {httpHeaderName: a, useSourceIp: true}}"),
        f"{TP}.loadBalancer.consistentHash.useSourceIp",
        "exclude",
    ),
    "nameless cookie": (
        policy("loadBalancer: {consistentHash: {httpCookie: {name: ''}}}"),
        f"{TP}.loadBalancer.consistentHash.httpCookie.name",
        "needs a name",
    ),
    "maglev table": (
        policy("loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 1000}}}"),
        f"{TP}.loadBalancer.consistentHash.maglev.tableSize",
        "1000",
    ),
    "ring size twice": (
        policy("loadBalancer: {consistentHash: {minimumRingSize: 10, ringHash: {}}}"),
        f"{TP}.loadBalancer.consistentHash.minimumRingSize",
        "excludes",
    ),
    "locality weights": (
        policy("loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {b: 40, c: 50}}]}}"),
        f"{TP}.loadBalancer.localityLbSetting.distribute[0].to",
        "90",
    ),
    "overlapping localities": (
        policy("loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {b/c: 40, b: 60}}]}}"),
        f"{TP}.loadBalancer.localityLbSetting.distribute[0].to",
        "overlaps",
    ),
    "failover to itself": (
        policy("loadBalancer: {localityLbSetting: {failover: [{from: a, to: a}]}}"),
        f"{TP}.loadBalancer.localityLbSetting.failover[0].to",
        "different",
    ),
    "empty pool": (policy("connectionPool: {}"), f"{TP}.connectionPool", "tcp or http"),
    "negative limit": (
        policy("connectionPool: {http: {http2MaxRequests: -1}}"),
        f"{TP}.connectionPool.http.http2MaxRequests",
        "out of range",
    ),
    "connect timeout 0": (
        policy("connectionPool: {tcp: {connectTimeout: 0s}}"),
        f"{TP}.connectionPool.tcp.connectTimeout",
        "at least 1ms",
    ),
    "upgrade and client protocol": (
        policy("connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}"),
        f"{TP}.connectionPool.http.useClientProtocol",
        "excludes",
    ),
    "half a keepalive": (
        policy("connectionPool: {http: {http2KeepAlive: {interval: 1s}}}"),
        f"{TP}.connectionPool.http.http2KeepAlive.timeout",
        "required",
    ),
    "ejection above 100": (
        policy("outlierDetection: {maxEjectionPercent: 101}"),
        f"{TP}.outlierDetection.maxEjectionPercent",
        "out of range",
    ),
    "local origin without split": (
        policy("outlierDetection: {consecutiveLocalOriginFailures: 5}"),
        f"{TP}.outlierDetection.consecutiveLocalOriginFailures",
        "told apart",
    ),
    "mutual without key": (
        policy("tls: {mode: MUTUAL, clientCertificate: /a}"),
        f"{TP}.tls.privateKey",
        "MUTUAL needs privateKey",
    ),
    "secret and files": (
        policy("tls: {mode: SIMPLE, credentialName: a, caCertificates: /a}"),
        f"{TP}.tls.credentialName",
        "excludes",
    ),
    "unverified and CA": (
        policy("tls: {mode: SIMPLE, insecureSkipVerify: true, caCertificates: /a}"),
        f"{TP}.tls.caCertificates",
        "excludes",
    ),
    "config map elsewhere": (
        policy("tls: {mode: SIMPLE, credentialName: 'configmap://other/a'}"),
        f"{TP}.tls.credentialName",
        "ConfigMap",
    ),
    "tunnel and proxy protocol": (
        policy("tunnel: {targetHost: a.b, targetPort: 80}, proxyProtocol: {}"),
        f"{TP}.proxyProtocol",
        "exclude",
    ),
    "tunnel host": (policy("tunnel: {targetHost: 'a b', targetPort: 80}"), f"{TP}.tunnel.targetHost", "host name"),
    "port without a block": (
        policy("portLevelSettings: [{port: {number: 80}}]"),
        f"{TP}.portLevelSettings[0]",
        "at least one block",
    ),
    "block without a port": (
        policy("portLevelSettings: [{tls: {mode: DISABLE}}]"),
        f"{TP}.portLevelSettings[0].port",
        "required",
    ),
    "subset twice": (document("host: a\nsubsets: [{name: v1}, {name: v1}]"), "spec.subsets[1].name", "twice"),
    "subset name": (document("host: a\nsubsets: [{name: v_1}]"), "spec.subsets[0].name", "subset's name"),
    "subset label": (
        document("host: a\nsubsets: [{name: v1, labels: {version: 'a b'}}]"),
        "spec.subsets[0].labels.version",
        "label value",
    ),
    "selector beyond its namespace": (
        document("host: a\nworkloadSelector: {matchLabels: {a: b}}\nexportTo: ['*']"),
        "spec.exportTo",
        "own namespace",
    ),
    "wildcard selector": (
        document("host: a\nworkloadSelector: {matchLabels: {a: '*'}}"),
        "spec.workloadSelector.matchLabels.a",
        "wildcards",
    ),
}


@pytest.mark.parametrize(("text", "field", "message"), REJECTED.values(), ids=REJECTED.keys())
def test_rejected(judge, text, field, message):
    verdict = judge(text)
    assert verdict.resource is None
    assert (field, "IST0106") in [(problem.field, problem.code) for problem in verdict.errors], verdict.errors
    assert any(message in problem.message for problem in verdict.errors), verdict.errors


NOT_YET = {
    "zone": ("loadBalancer: {zoneAwareLbSetting: {failover: []}}", f"{TP}.loadBalancer.zoneAwareLbSetting"),
}


@pytest.mark.parametrize(("text", "field"), NOT_YET.values(), ids=NOT_YET.keys())
def test_what_is_not_translated_is_named(judge, text, field):
    verdict = judge(policy(text))
    assert ("HR0001", field) in verdict.codes
    assert verdict.errors == []
    assert verdict.resource is not None


def test_a_rule_for_some_workloads(judge):
    verdict = judge(document("host: a\nworkloadSelector: {matchLabels: {a: b}}"))
    assert verdict.problems == ()
    assert verdict.resource.workload_selector == {"a": "b"}


def test_localities_and_warm_up(judge):
    setting = "{distribute: [{from: eu/*, to: {eu/a: 80, us: 20}}], failoverPriority: [gpu]}"
    lines = f"loadBalancer: {{localityLbSetting: {setting}, warmup: {{duration: 30s, aggression: 2}}}}"
    balancer = judge(policy(lines)).resource.policy.load_balancer
    assert balancer.locality == LocalityLb(
        distribute=(("eu/*", (("eu/a", 80), ("us", 20))),), failover_priority=("gpu",)
    )
    assert balancer.warmup == Warmup(30.0, aggression=2.0)
    balancer = judge(policy("loadBalancer: {warmupDurationSecs: 5s, zoneAwareLbSetting: {enabled: false}}")).resource
    assert balancer.policy.load_balancer == LoadBalancer(
        warmup=Warmup(5.0), locality=LocalityLb(enabled=False, zone_aware=True)
    )


def test_passthrough_means_nothing_without_a_network_of_services(judge):
    verdict = judge(policy("loadBalancer: {simple: PASSTHROUGH}"))
    assert verdict.codes == [("HR0002", f"{TP}.loadBalancer.simple")]


def test_others_stand_behind_the_localities_that_are_named(judge):
    shares = "[{from: a/b, to: {'b/*': 60, b/c: 40}}, {from: '*', to: {b: 100}}]"
    lines = f"loadBalancer: {{localityLbSetting: {{distribute: {shares}}}}}"
    (first, last) = judge(policy(lines)).resource.policy.load_balancer.locality.distribute
    assert first == ("a/b", (("b/c", 40), ("b/*", 60)))
    assert last == ("*", (("b", 100),))


EMPTY = {
    "warm-up twice": (
        "loadBalancer: {warmupDurationSecs: 1s, warmup: {duration: 2s}}",
        f"{TP}.loadBalancer.warmupDurationSecs",
    ),
    "no port": (
        "portLevelSettings: [{port: {number: 0}, tls: {mode: DISABLE}}]",
        f"{TP}.portLevelSettings[0].port.number",
    ),
}


@pytest.mark.parametrize(("text", "field"), EMPTY.values(), ids=EMPTY.keys())
def test_what_istio_reads_and_does_not_use(judge, text, field):
    verdict = judge(policy(text))
    assert verdict.codes == [("HR0002", field)]
    assert verdict.resource is not None


def test_a_warm_up_that_no_policy_knows_has_no_effect(judge):
    verdict = judge(policy("loadBalancer: {simple: RANDOM, warmupDurationSecs: 5s}"))
    assert verdict.codes == [("HR0002", f"{TP}.loadBalancer.warmupDurationSecs")]


def test_the_rest_of_a_policy(judge):
    lines = """connectionPool: {http: {http2KeepAlive: {interval: 10s, timeout: 2s}}},
      outlierDetection: {outlierDetectionHttpErrorCodes: [429, 503, 429]}, proxyProtocol: {version: V2},
      retryBudget: {percent: 12.5, budgetInterval: 1s}"""
    verdict = judge(policy(lines))
    found = verdict.resource.policy
    assert verdict.problems == ()
    assert found.connection_pool.http2_keepalive == Http2Keepalive(10.0, 2.0)
    assert found.outlier_detection.http_error_codes == (429, 503)
    assert found.proxy_protocol is ProxyProtocol.V2
    assert found.retry_budget == RetryBudget(12.5, 3, 1.0)
    assert judge(policy("tunnel: {targetHost: a.b, targetPort: 80}")).resource.policy.tunnel == Tunnel("a.b", 80)


def test_deprecated_fields_are_warned_of(judge):
    assert ("IST0133", f"{TP}.outlierDetection.consecutiveErrors") in judge(
        policy("outlierDetection: {consecutiveErrors: 5}")
    ).codes
    assert ("IST0133", f"{TP}.loadBalancer.consistentHash.minimumRingSize") in judge(
        policy("loadBalancer: {consistentHash: {useSourceIp: true, minimumRingSize: 2048}}")
    ).codes


def test_a_policy_is_lowered(judge):
    found = judge(
        document("""
        host: api.example.com
        exportTo: [.]
        trafficPolicy:
          loadBalancer: {simple: LEAST_CONN}
          connectionPool:
            tcp: {maxConnections: 100, connectTimeout: 30ms, idleTimeout: 0s, tcpKeepalive: {time: 2h, interval: 75s}}
            http: {http1MaxPendingRequests: 1, maxRetries: 0, idleTimeout: 90s, h2UpgradePolicy: 2}
          portLevelSettings:
          - port: {number: 443}
            tls: {mode: SIMPLE, sni: a.b, subjectAltNames: [a.b], caCertificates: /ca.pem}
        subsets:
        - name: v1
          labels: {version: v1, app: chat}
          trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}
        """)
    ).resource
    assert found.host == "api.example.com"
    assert found.export_to == (".",)
    assert found.policy.load_balancer.simple is LbPolicy.LEAST_REQUEST
    assert found.policy.connection_pool == ConnectionPool(
        max_connections=100,
        connect_timeout=0.03,
        tcp_keepalive=TcpKeepalive(None, 7200.0, 75.0),
        tcp_idle_timeout=0.0,
        http1_max_pending_requests=1,
        http_idle_timeout=90.0,
        h2_upgrade_policy="UPGRADE",
    )
    (port,) = found.policy.ports
    assert (port.port, port.tls) == (
        443,
        ClientTls(TlsMode.SIMPLE, sni="a.b", subject_alt_names=("a.b",), ca_certificates="/ca.pem"),
    )
    (subset,) = found.subsets
    assert subset.labels == (("app", "chat"), ("version", "v1"))
    assert subset.policy.load_balancer.simple is LbPolicy.ROUND_ROBIN


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{httpHeaderName: x-user}", ConsistentHash(header="x-user")),
        (
            "{httpCookie: {name: u, path: /, ttl: 0s, attributes: [{name: SameSite, value: Lax}]}}",
            ConsistentHash(cookie_name="u", cookie_path="/", cookie_ttl=0.0, cookie_attributes=(("SameSite", "Lax"),)),
        ),
        ("{useSourceIp: true, minimumRingSize: 2048}", ConsistentHash(use_source_ip=True, minimum_ring_size=2048)),
        (
            "{httpQueryParameterName: q, maglev: {tableSize: 65537}}",
            ConsistentHash(query_parameter="q", maglev=True, maglev_table_size=65537),
        ),
        ("{}", None),
    ],
)
def test_hashes_are_lowered(judge, text, expected):
    found = judge(policy(f"loadBalancer: {{consistentHash: {text}}}")).resource
    assert found.policy.load_balancer.consistent_hash == expected
