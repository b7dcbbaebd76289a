"""VirtualServices in front of pools: weights, subsets, canaries by header and mirrors hold, at a gateway and a sidecar,
and each pool of a rule picks by itself. Nothing but the engine of the Workloads makes a pool of the Service here."""

from __future__ import annotations

import json
import time
from collections import Counter

import pytest
from tests.e2e.asking import burst, needs_module
from tests.e2e.conftest import StartMesh
from tests.e2e.load import Target, binomial_bounds
from tests.e2e.load import burst as paced
from tests.e2e.running import RunningMesh, until
from tests.e2e.shop import CLIENT

pytestmark = needs_module
CHAT = "chat.default.svc.cluster.local"
SMALL = "small.default.inference.local"


def servers(name: str, app: str, version: str, replicas: int = 1) -> str:
    return f"""\
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  command: [headrace, model-server, --model, {name}, --slots, "32"]
  engine: vllm
  labels: {{app: {app}, version: {version}}}
  ports: [{{name: http, port: 8000}}]
  readinessProbe: {{httpGet: {{path: /health}}}}
"""


POOLS = f"""\
apiVersion: v1
kind: Service
metadata: {{name: chat}}
spec:
  selector: {{app: chat}}
  ports: [{{name: http, port: 8000}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: chat}}
spec:
  host: chat
  subsets:
  - {{name: v1, labels: {{version: v1}}}}
  - {{name: v2, labels: {{version: v2}}}}
---
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {{name: small}}
spec:
  selector: {{matchLabels: {{app: small}}}}
  targetPorts: [{{number: 8000}}]
---
{servers("chat-v1", "chat", "v1", 2)}---
{servers("chat-v2", "chat", "v2")}---
{servers("small", "small", "v1")}"""
ROUTES = f"""\
  - match: [{{headers: {{x-canary: {{exact: v2}}}}}}]
    route: [{{destination: {{host: chat, subset: v2}}}}]
    timeout: 300s
  - match: [{{headers: {{x-mirror: {{exact: "yes"}}}}}}]
    route: [{{destination: {{host: chat, subset: v1}}}}]
    mirrors: [{{destination: {{host: {SMALL}}}}}]
    timeout: 300s
  - route:
    - {{destination: {{host: chat, subset: v1}}, weight: 50}}
    - {{destination: {{host: chat, subset: v2}}, weight: 30}}
    - {{destination: {{host: {SMALL}}}, weight: 20}}
    timeout: 300s
"""
WAYS = f"""\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: door}}
spec:
  selector: {{istio: ingressgateway}}
  servers: [{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: ["*"]}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: public}}
spec:
  hosts: ["*"]
  gateways: [door]
  http:
{ROUTES}---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: chat}}
spec:
  hosts: [chat]
  http:
{ROUTES}"""
WEIGHTS = {"chat-v1": 0.5, "chat-v2": 0.3, "small": 0.2}
COUNT = 200


@pytest.fixture(scope="module")
def mesh(start_mesh: StartMesh) -> RunningMesh:
    return start_mesh({"pools.yaml": POOLS, "ways.yaml": WAYS, "client.yaml": CLIENT})


def gateway_of(mesh: RunningMesh) -> str:
    return next(name for name in mesh.proxies() if name.startswith("istio-system/"))


def picks(mesh: RunningMesh, proxy: str) -> Counter[str]:
    """What the module of a proxy has picked, by pool, once the numbers stand still."""
    found: Counter[str] = Counter()
    while True:
        before, found = found, Counter()
        for name, value in mesh.stats(proxy, "dynamicmodulescustom.headrace_picks").items():
            found[CHAT if CHAT in name else SMALL if SMALL in name else name] += value
        if found == before and found:
            return found
        time.sleep(0.6)


def in_bounds(models: Counter[str]) -> None:
    for model, share in WEIGHTS.items():
        low, high = binomial_bounds(COUNT, share)
        assert low <= models[model] <= high, models


def test_the_service_is_a_pool_by_the_engine_of_its_workloads(mesh: RunningMesh) -> None:
    dump = json.loads(mesh.admin(gateway_of(mesh), "/config_dump?resource=dynamic_active_clusters"))
    clusters = {item["cluster"]["name"]: item["cluster"] for item in dump["configs"]}
    for subset in ("", "v1", "v2"):
        assert "load_balancing_policy" in clusters[f"outbound|8000|{subset}|{CHAT}"]


def test_weights_over_subsets_and_pools_hold_and_each_picks_for_itself(mesh: RunningMesh) -> None:
    assert burst(mesh.gateway(), ["warm"])[0].status == 200
    before = picks(mesh, gateway_of(mesh))
    answers = burst(mesh.gateway(), [f"weighed {number}" for number in range(COUNT)], 2)
    models = Counter(answer.model for answer in answers)
    assert Counter(answer.status for answer in answers) == {200: COUNT}
    in_bounds(models)
    picked = picks(mesh, gateway_of(mesh)) - before
    assert picked == {CHAT: models["chat-v1"] + models["chat-v2"], SMALL: models["small"]}


def test_a_sidecar_holds_the_same_rules(mesh: RunningMesh) -> None:
    target = Target("http://chat:8000", mesh.proxy_url("default/client-0"))
    tally = paced(target, COUNT)
    assert tally.failed == 0, tally
    in_bounds(tally.models())
    models = tally.models()
    picked = picks(mesh, "default/client-0")
    assert picked == {CHAT: models["chat-v1"] + models["chat-v2"], SMALL: models["small"]}


def test_a_canary_by_header_reaches_its_subset_only(mesh: RunningMesh) -> None:
    answers = burst(mesh.gateway(), [f"canary {number}" for number in range(40)], x_canary="v2")
    assert Counter(answer.model for answer in answers) == {"chat-v2": 40}


def test_requests_to_a_subset_spread_over_its_endpoints(mesh: RunningMesh) -> None:
    before = {replica: mesh.served(replica) for replica in mesh.replicas("chat-v1")}
    answers = burst(mesh.gateway(), [f"spread {number}" for number in range(40)], 4, x_mirror="yes")
    assert Counter(answer.model for answer in answers) == {"chat-v1": 40}
    share = {replica: mesh.served(replica) - then for replica, then in before.items()}
    assert min(share.values()) >= 10, share


def test_a_mirror_gets_every_copy_and_answers_nobody(mesh: RunningMesh) -> None:
    before = mesh.served("default/small-0")
    answers = burst(mesh.gateway(), [f"copy {number}" for number in range(30)], x_mirror="yes")
    assert Counter(answer.model for answer in answers) == {"chat-v1": 30}
    until(lambda: mesh.served("default/small-0") >= before + 30, "thirty copies at the mirror")
