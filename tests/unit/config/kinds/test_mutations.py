"""Documents that went wrong in every way: a clear verdict each, never an exception, never an endless judgement."""

from __future__ import annotations

import copy
import json
import random
import time
from typing import Any

import pytest

from headrace.config.analysis import analyse
from headrace.config.documents import read_text
from headrace.config.schema import validate
from headrace.model.mesh import MeshConfig

VIRTUAL_SERVICE = {
    "hosts": ["chat", "a.example.com"],
    "gateways": ["mesh", "ns/door"],
    "exportTo": ["."],
    "http": [
        {
            "name": "r",
            "match": [
                {"uri": {"prefix": "/v1"}, "headers": {"a": {"regex": "b.*"}}, "sourceLabels": {"app": "x"}, "port": 80}
            ],
            "route": [
                {"destination": {"host": "chat", "subset": "v1", "port": {"number": 80}}, "weight": 1},
                {"destination": {"host": "chat"}, "weight": 2, "headers": {"request": {"set": {"a": "%REQ(x)%"}}}},
            ],
            "timeout": "1s",
            "retries": {"attempts": 2, "perTryTimeout": "1s", "retryOn": "5xx"},
            "fault": {"delay": {"fixedDelay": "1s", "percentage": {"value": 1}}},
            "mirrors": [{"destination": {"host": "chat"}, "percentage": {"value": 5}}],
            "corsPolicy": {"allowOrigins": [{"exact": "a"}], "maxAge": "1h"},
        },
        {"redirect": {"uri": "/", "redirectCode": 301}},
        {"directResponse": {"status": 503, "body": {"string": "a"}}},
    ],
    "tls": [{"match": [{"sniHosts": ["a.example.com"]}], "route": [{"destination": {"host": "chat"}}]}],
}
POLICY = {
    "loadBalancer": {"consistentHash": {"httpCookie": {"name": "a", "ttl": "0s"}, "maglev": {"tableSize": 5}}},
    "connectionPool": {"tcp": {"maxConnections": 1, "tcpKeepalive": {"time": "1s"}}, "http": {"maxRetries": 1}},
    "outlierDetection": {"consecutive5xxErrors": 5, "interval": "1s", "maxEjectionPercent": 50},
    "tls": {"mode": "SIMPLE", "subjectAltNames": ["a"]},
}
SAMPLES = [
    ("networking.istio.io/v1", "VirtualService", VIRTUAL_SERVICE),
    (
        "networking.istio.io/v1",
        "DestinationRule",
        {
            "host": "chat",
            "trafficPolicy": {**POLICY, "portLevelSettings": [{"port": {"number": 80}, **POLICY}]},
            "subsets": [{"name": "v1", "labels": {"v": "1"}, "trafficPolicy": POLICY}],
        },
    ),
    (
        "networking.istio.io/v1",
        "Gateway",
        {
            "selector": {"istio": "ingressgateway"},
            "servers": [
                {
                    "port": {"number": 443, "name": "a", "protocol": "HTTPS"},
                    "hosts": ["*", "ns/a.b"],
                    "tls": {"mode": "MUTUAL", "credentialName": "c", "cipherSuites": ["AES128-SHA"]},
                }
            ],
        },
    ),
    (
        "networking.istio.io/v1",
        "ServiceEntry",
        {
            "hosts": ["a.b"],
            "addresses": ["10.0.0.0/8"],
            "ports": [{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": 81}],
            "resolution": "STATIC",
            "endpoints": [{"address": "1.2.3.4", "ports": {"http": 81}, "labels": {"a": "b"}, "weight": 1}],
        },
    ),
    ("networking.istio.io/v1", "WorkloadEntry", {"address": "1.2.3.4", "ports": {"http": 1}, "labels": {"a": "b"}}),
    (
        "security.istio.io/v1",
        "PeerAuthentication",
        {
            "selector": {"matchLabels": {"a": "b"}},
            "mtls": {"mode": "STRICT"},
            "portLevelMtls": {"80": {"mode": "DISABLE"}},
        },
    ),
]
JUNK: list[Any] = [
    None,
    True,
    -1,
    0,
    2**70,
    1e300,
    "",
    "*",
    "\x00",
    "é" * 300,
    "a" * 5000,
    "(((((",
    "%",
    "-1s",
    "9" * 40,
    [],
    {},
    [[[]]],
    {"": ""},
    [None],
    {"a": {"b": {"c": []}}},
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path below a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, item in inner:
        found += [(*path, key), *places(item, (*path, key))]
    return found


def mutated(source: random.Random, document: Any) -> Any:
    """A copy with one to three changes: something replaced, taken out, doubled or renamed."""
    result = copy.deepcopy(document)
    for _ in range(source.randint(1, 3)):
        every = places(result)
        if not every:
            return result
        *above, last = source.choice(every)
        holder = result
        for key in above:
            holder = holder[key]
        action = source.random()
        if action < 0.6:
            holder[last] = copy.deepcopy(source.choice(JUNK))
        elif action < 0.75:
            del holder[last]
        elif isinstance(holder, list):
            holder.append(copy.deepcopy(holder[last]))
        else:
            holder[source.choice(["unknown", "Host", "x" * 300])] = holder.pop(last)
    return result


@pytest.mark.parametrize(("api", "kind", "spec"), SAMPLES, ids=[sample[1] for sample in SAMPLES])
def test_a_sample_is_good_before_it_is_mutated(api, kind, spec):
    text = json.dumps({"apiVersion": api, "kind": kind, "metadata": {"name": "a"}, "spec": spec})
    (document,) = read_text(text, "file.json", "test").documents
    assert validate(document).resource is not None


@pytest.mark.parametrize("seed", range(4))
def test_mutated_documents_are_judged(seed):
    source = random.Random(seed)
    started = time.monotonic()
    resources, refused = [], 0
    for number in range(150):
        api, kind, spec = SAMPLES[number % len(SAMPLES)]
        text = json.dumps(
            {"apiVersion": api, "kind": kind, "metadata": {"name": f"a{number}"}, "spec": mutated(source, spec)}
        )
        for document in read_text(text, "file.json", "test").documents:
            verdict = validate(document)
            if verdict.resource is None:
                refused += 1
                assert verdict.problems, text
            else:
                resources.append(verdict.resource)
            for problem in verdict.problems:
                assert problem.message and problem.line > 0, problem
                assert problem.code != "IST0001", (problem.message, text)
                assert len(problem.message) < 1000 and "pydantic" not in problem.message
    assert refused > 50, "the mutations do damage"
    for problem in analyse(resources, MeshConfig(), {}):
        assert problem.message and problem.remedy
    assert time.monotonic() - started < 20
