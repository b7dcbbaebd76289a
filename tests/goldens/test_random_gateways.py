"""Gateways of every kind of server, put together at random: translation does not fail, the real Envoy takes the result,
and the order of the documents changes no byte of it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import yaml

from headrace.app import offline
from headrace.envoy.resources import ResourceSet
from headrace.envoy.validation import refusal

MESHES = 24
DOOR = """
apiVersion: v1
kind: Pod
metadata: {name: door, namespace: istio-system, labels: {istio: ingressgateway}}
spec: {serviceAccountName: door, containers: [{name: app}]}
status: {podIP: 10.0.0.2}
---
apiVersion: v1
kind: Service
metadata: {name: store}
spec: {selector: {app: store}, ports: [{name: http, port: 80}, {name: tcp, port: 5432}, {name: tls, port: 443}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: store}
spec: {host: store, subsets: [{name: v1, labels: {version: v1}}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: door, namespace: istio-system}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  rules:
  - from: [{source: {ipBlocks: [10.0.0.0/8], namespaces: [default]}}]
    when: [{key: connection.sni, values: [a.b]}]
"""
HOSTS = ["*", "a.b", "*.b", "default/a.b", "./*.b", "other/*", "*.local", "c.b"]
NAMES = ["a.b", "b.b", "*.b", "c.b", "x.a.b"]
ENDING = [
    {"mode": "SIMPLE", "credentialName": "cert"},
    {"mode": "SIMPLE", "credentialNames": ["cert", "other"], "cipherSuites": ["ECDHE-RSA-AES128-GCM-SHA256"]},
    {"mode": "MUTUAL", "credentialName": "cert", "caCertCredentialName": "ca", "verifyCertificateHash": ["a" * 64]},
    {"mode": "OPTIONAL_MUTUAL", "credentialName": "cert", "insecureSkipVerify": True, "subjectAltNames": ["x.y"]},
    {"mode": "MUTUAL", "serverCertificate": "/c", "privateKey": "/k", "caCertificates": "/r", "caCrl": "/l"},
    {"mode": "ISTIO_MUTUAL"},
]
PASSING = [{"mode": "PASSTHROUGH"}, {"mode": "AUTO_PASSTHROUGH"}]
SERVERS = [
    *(("HTTPS", tls) for tls in [*ENDING, *PASSING]),
    *(("TLS", tls) for tls in [*ENDING, *PASSING]),
    *((name, None) for name in ("HTTP", "HTTP2", "GRPC", "GRPC-Web", "TCP", "Mongo", "Redis", "MySQL", "UDP")),
    ("HTTP", {"httpsRedirect": True}),
]
BINDS = [None, None, None, "10.0.0.2", "::", "unix:///run/door", "unix://@door"]


def documents(chance: random.Random) -> list[dict[str, Any]]:
    """Two Gateways, whose ages tell which comes first, and rules of all three kinds for both."""
    gateways = [
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "Gateway",
            "metadata": {"name": name, "creationTimestamp": f"202{age}-01-01T00:00:00Z"},
            "spec": {
                "selector": {"istio": "ingressgateway"},
                "servers": [server(chance, number) for number in range(chance.randint(1, 5))],
            },
        }
        for age, name in enumerate(("one", "two"))
    ]
    return [*gateways, *(rules(chance, number) for number in range(2))]


def server(chance: random.Random, number: int) -> dict[str, Any]:
    protocol, tls = chance.choice(SERVERS)
    bind = chance.choice(BINDS)
    port = 0 if bind and bind.startswith("unix") else chance.choice([80, 443, 9000])
    found = {"port": {"number": port, "name": f"p{number}", "protocol": protocol}, "hosts": chance.sample(HOSTS, 2)}
    return found | ({"tls": tls} if tls else {}) | ({"bind": bind} if bind else {})


def rules(chance: random.Random, number: int) -> dict[str, Any]:
    route = [{"destination": {"host": "store", "port": {"number": chance.choice([80, 443, 5432])}, "subset": "v1"}}]
    match = chance.choice([{}, {"port": 443}, {"port": 9000}])
    names = [{"sniHosts": [name], **match} for name in chance.sample(NAMES, 2)]
    spec = {
        "hosts": ["*.b"],
        "gateways": ["one", "two"],
        "http": [{"route": route}],
        "tls": [{"match": names, "route": route}],
        "tcp": [{"match": [match or {"port": 80}], "route": route}],
    }
    meta = {"name": f"rules{number}", "creationTimestamp": f"202{number}-01-01T00:00:00Z"}
    return {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": meta, "spec": spec}


def translated(path: Path, items: list[dict[str, Any]]) -> ResourceSet:
    path.write_text("---".join([DOOR, *("\n" + yaml.safe_dump(item) for item in items)]))
    mesh = offline.load([path])
    wrong = [problem.as_line() for problem in mesh.problems if problem.code.startswith("IST0106")]
    assert not wrong, wrong
    return offline.translate(
        mesh, offline.find_proxy(mesh.snapshot, offline.ProxyName.parse("gateway/istio-system/door"))
    )


def test_envoy_accepts_what_random_gateways_become(tmp_path: Path) -> None:
    sets, listeners = {}, 0
    for seed in range(MESHES):
        items = documents(random.Random(seed))
        sets[str(seed)] = found = translated(tmp_path / f"{seed}.yaml", items)
        assert offline.as_data(found) == offline.as_data(translated(tmp_path / "turned.yaml", items[::-1]))
        listeners += len(offline.as_data(found)["listeners"])
    assert listeners > MESHES, "most of the servers open a port, or this test shows nothing"
    assert refusal(sets) is None
