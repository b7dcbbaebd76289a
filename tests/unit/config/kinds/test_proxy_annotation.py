"""`proxy.istio.io/config` on a gateway's workload: what stands before it."""

from __future__ import annotations

import pytest

from headrace.config.kinds.proxy_annotation import topology_of
from headrace.model.mesh import GatewayTopology

ANNOTATION = "proxy.istio.io/config"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gatewayTopology: {numTrustedProxies: 2}", GatewayTopology(trusted_proxies=2)),
        ('{"gatewayTopology": {"proxyProtocol": {}}}', GatewayTopology(proxy_protocol=True)),
        (
            "gatewayTopology:\n  forwardClientCertDetails: SANITIZE\nconcurrency: 2\n",
            GatewayTopology(client_certificates="SANITIZE"),
        ),
        ("concurrency: 2", None),
        ("gatewayTopology: {numTrustedProxy: 2}", None),
        ("gatewayTopology: {", None),
        ("- a", None),
        ("a: 1\n---\ngatewayTopology: {numTrustedProxies: 2}", None),
        ("", None),
    ],
)
def test_what_the_annotation_says(text: str, expected: GatewayTopology | None) -> None:
    assert topology_of({ANNOTATION: text}) == expected


def test_it_stands_on_the_workload(judge):
    found = judge(
        "apiVersion: headrace.dev/v1alpha1\nkind: Workload\n"
        'metadata: {name: door, annotations: {proxy.istio.io/config: "gatewayTopology: {numTrustedProxies: 1}"}}\n'
        "spec: {role: gateway, labels: {istio: ingressgateway}}\n"
    ).resource
    assert found.topology == GatewayTopology(trusted_proxies=1)
