"""Whatever an InferencePolicy may say, the native module takes: random policies, and each value at its bounds, become
clusters that the real Envoy accepts. Two places know the bounds, in two languages; here they meet."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from tests.unit.envoy.translate.test_pools import gateway, settings_of, snapshot, translated

from headrace.envoy.module import check_module
from headrace.envoy.validation import refusal

_MODULE = check_module()
pytestmark = pytest.mark.skipif(not _MODULE.usable, reason=_MODULE.problem or "the native module is usable")

SEED, COUNT = 20261122, 120
WORDS = ["a", "gold", "müller", 'with "quotes"', "back\\slash", "tab\tbed", "日本", "x" * 256, "é" * 128, "{}", "a b"]
HEADERS = ["x-tenant", "X-Team", "!#$%&'*+.^_`|~", "h" * 256]


def one_of(source: random.Random, *values: Any) -> Any:
    return source.choice(values)


def maybe(source: random.Random, found: dict[str, Any]) -> dict[str, Any]:
    """Some of the fields."""
    return {name: value for name, value in found.items() if source.random() < 0.6}


def fairness(source: random.Random) -> dict[str, Any]:
    key = one_of(source, "identity", "header", "jwtClaim")
    weights = {source.choice(WORDS): one_of(source, 0.001, 1, 1_000_000) for _ in range(4)}
    if source.random() < 0.1:
        weights = {f"tenant {number}": number + 0.5 for number in range(1000)}
    found: dict[str, Any] = {
        "key": key,
        **maybe(source, {"weights": weights, "tokenCost": one_of(source, 0, 0.5, 1000)}),
    }
    if key == "header":
        found["name"] = source.choice(HEADERS)
    elif key == "jwtClaim":
        found["name"] = source.choice([word for word in WORDS if "\t" not in word])
    return found


def admission(source: random.Random) -> dict[str, Any]:
    levels = source.sample(WORDS, source.randint(1, 8))
    found = maybe(
        source,
        {
            "requestsPerSecond": one_of(source, 0.001, 20, 1_000_000),
            "concurrency": one_of(source, 1, 64, 1_000_000),
            "concurrencyPerEndpoint": one_of(source, 1, 1_000_000),
            "queue": {
                "depth": one_of(source, 0, 1, 100_000),
                "tokens": one_of(source, 1, 1_000_000_000),
                "time": one_of(source, "1ms", "3600s"),
            },
            "priorities": {
                "header": source.choice(HEADERS),
                "levels": levels,
                "starvation": one_of(source, "1ms", "1h"),
            },
            "fairness": fairness(source),
            "firstTokenDeadline": {"header": source.choice(HEADERS), "default": one_of(source, "1ms", "24h")},
            "overflow": {"action": "Redirect", "backend": {"kind": "Service", "name": "spare"}},
        },
    )
    limits = {"requestsPerSecond", "concurrency", "concurrencyPerEndpoint"} & found.keys()
    if not limits:
        found.pop("queue", None)
    if "requestsPerSecond" in found:
        found["burst"] = one_of(source, 1, 1_000_000)
    if found.get("queue", {}).get("depth") and "fairness" in found:
        found["fairness"]["tenantQueue"] = {"depth": one_of(source, 1, 1_000_000), "tokens": 1_000_000_000}
    return found


def policy(source: random.Random, name: str) -> dict[str, Any]:
    between = one_of(source, "1ms", "24h")
    total = "24h" if between == "24h" else one_of(source, "1ms", "24h")
    spec = maybe(
        source,
        {
            "picking": {
                "policy": one_of(source, "predicted-drain", "least-request", "round-robin", "prefix", "random-two"),
                "sessionHeader": source.choice(HEADERS),
                "warmup": one_of(source, "1ms", "1h"),
            },
            "admission": admission(source),
            "timeouts": {"firstToken": "1ms", "betweenTokens": between, "total": total},
            "retries": {"attempts": one_of(source, 0, 1)},
            "observation": {"usage": one_of(source, "Observe", "Inject")},
        },
    )
    if source.random() < 0.5:
        spec.setdefault("timeouts", {})["keepalive"] = one_of(source, "100ms", "1h")
    spec["targetRefs"] = [{"kind": "Service", "name": name}]
    meta = {"name": name, "namespace": "default"}
    return {"apiVersion": "headrace.dev/v1alpha1", "kind": "InferencePolicy", "metadata": meta, "spec": spec}


def service(name: str) -> dict[str, Any]:
    spec = {"selector": {"app": name}, "ports": [{"name": "http", "port": 8000}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


def test_envoy_accepts_whatever_policies_may_say() -> None:
    source = random.Random(SEED)
    names = [f"pool-{number}" for number in range(COUNT)]
    documents = [service("spare")]
    for name in names:
        documents += [service(name), policy(source, name)]
    mesh = snapshot(*(json.dumps(document) for document in documents))
    assert len(mesh.inference_policies) == COUNT, "a policy was refused: the test says what may not be said"
    resources = translated(mesh, gateway())
    assert len(settings_of(resources)) == COUNT
    assert refusal({"random": resources}) is None
