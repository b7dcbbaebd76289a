"""Documents that went wrong in many ways: each one is judged, none raises, and the good ones beside it go on."""

from __future__ import annotations

import random
from typing import Any

import pytest
import yaml

from headrace.config.documents import Document, read_text
from headrace.config.schema import INTERNAL_ERROR, validate
from headrace.config.store import ConfigStore
from headrace.model.problem import Severity
from headrace.model.resource import ResourceKey

SEEDS = """\
apiVersion: v1
kind: Service
metadata: {name: chat, namespace: ai, labels: {app: chat}, annotations: {networking.istio.io/exportTo: "*"}}
spec: {selector: {app: chat}, clusterIP: 10.0.0.1, ports: [{name: http, port: 80, targetPort: web, appProtocol: http}]}
---
apiVersion: v1
kind: Secret
metadata: {name: cert}
type: kubernetes.io/tls
data: {tls.crt: YQ==, tls.key: Yg==}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s, labels: {kubernetes.io/service-name: chat}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1], conditions: {ready: true}}]
ports: [{name: http, port: 80}]
---
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {app: chat}}
spec: {serviceAccountName: sa, containers: [{name: c, ports: [{containerPort: 80, name: web}]}]}
status: {podIP: 10.0.0.2, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {name: w}
spec:
  command: [server]
  env: [{name: A, value: b}]
  ports: [{port: 8000, name: http}]
  readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
  engine: vllm
---
apiVersion: headrace.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {trustDomain: a.b, outboundTrafficPolicy: {mode: ALLOW_ANY}, defaultConfig: {concurrency: 2}, connectTimeout: 1s}
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: f}
spec:
  workloadSelector: {labels: {app: chat}}
  configPatches:
  - applyTo: HTTP_FILTER
    match:
      context: SIDECAR_INBOUND
      proxy: {proxyVersion: "1.*"}
      listener: {portNumber: 80, filterChain: {filter: {name: f}}}
    patch:
      operation: INSERT_BEFORE
      value: {name: lua, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua}}
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: t}
spec:
  accessLogging: [{providers: [{name: envoy}], filter: {expression: a == 1}, match: {mode: SERVER}}]
  tracing: [{randomSamplingPercentage: 1.5, customTags: {a: {header: {name: b}}}}]
  metrics: [{overrides: [{match: {metric: REQUEST_COUNT}, tagOverrides: {a: {value: b}}}]}]
---
apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata: {name: w}
spec:
  url: file:///a.wasm
  pluginConfig: {a: [1]}
  match: [{ports: [{number: 80}]}]
  vmConfig: {env: [{name: A, value: b}]}
---
apiVersion: extensions.istio.io/v1alpha1
kind: TrafficExtension
metadata: {name: x}
spec: {phase: AUTHN, priority: 3, lua: {inlineCode: a}}
---
apiVersion: networking.istio.io/v1beta1
kind: ProxyConfig
metadata: {name: c}
spec: {selector: {matchLabels: {app: chat}}, concurrency: 2, environmentVariables: {A: b}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v}
spec:
  hosts: [chat.ai.svc.cluster.local, a.b]
  gateways: [mesh, ai/door]
  exportTo: ["*"]
  http:
  - name: one
    match:
    - uri: {prefix: /v1}
      headers: {x-a: {exact: b}, x-c: {regex: "a.*"}}
      queryParams: {q: {prefix: a}}
      port: 80
    route:
    - destination: {host: chat, subset: v1, port: {number: 80}}
      weight: 95
      headers: {request: {set: {a: b}}}
    - {destination: {host: chat, subset: v2}, weight: 5}
    timeout: 10s
    retries: {attempts: 3, perTryTimeout: 2s, retryOn: 5xx}
    fault: {delay: {percentage: {value: 1}, fixedDelay: 5s}, abort: {httpStatus: 503, percentage: {value: 0.1}}}
    mirrors: [{destination: {host: chat, subset: v2}, percentage: {value: 1.5}}]
    corsPolicy: {allowOrigins: [{exact: "https://a.b"}], allowMethods: [GET], maxAge: 24h}
  - redirect: {uri: /x, authority: a.b, redirectCode: 302}
  tls: [{match: [{port: 443, sniHosts: [a.b]}], route: [{destination: {host: a.b}}]}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: d}
spec:
  host: chat
  trafficPolicy:
    loadBalancer: {consistentHash: {httpCookie: {name: c, ttl: 0s}}}
    connectionPool: {tcp: {connectTimeout: 30ms}, http: {http1MaxPendingRequests: 1, idleTimeout: 1h}}
    outlierDetection: {consecutive5xxErrors: 5, interval: 10s, baseEjectionTime: 3m, maxEjectionPercent: 100}
    tls: {mode: ISTIO_MUTUAL}
    portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: ROUND_ROBIN}}]
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: door, namespace: ai}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: ["ai/*.example.com"]
    tls: {mode: SIMPLE, credentialName: cert, minProtocolVersion: TLSV1_2}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: e}
spec:
  hosts: [api.example.com]
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: STATIC
  location: MESH_EXTERNAL
  endpoints: [{address: 1.2.3.4, ports: {tls: 8443}, labels: {a: b}, weight: 3}]
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: we}
spec: {address: 1.2.3.4, labels: {app: chat}, serviceAccount: sa, ports: {http: 80}, weight: 1, locality: a/b/c}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: pa}
spec: {selector: {matchLabels: {app: chat}}, mtls: {mode: STRICT}, portLevelMtls: {"80": {mode: DISABLE}}}
"""

STRANGE: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**63,
    1.5,
    "",
    "x",
    "*",
    "*.",
    ".",
    "/",
    "{x}",
    "%s",
    "a" * 300,
    "\u202e\n\t'\"",
    "1ms",
    "(",
    "999999999999h",
    "::1",
    [],
    [None],
    [[]],
    {},
    {"": ""},
    {"x": {"x": {"x": []}}},
    {"exact": 1},
)
CHAT = ResourceKey("Service", "default", "beside")
BESIDE = "apiVersion: v1\nkind: Service\nmetadata: {name: beside}\nspec: {ports: [{port: 80}]}\n---\n"


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything inside a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for name, item in inner for place in places(item, (*path, name)))]


def mutated(data: Any, source: random.Random) -> Any:
    """The document with one to three fields replaced, removed, renamed or doubled."""
    for _ in range(source.randint(1, 3)):
        path = source.choice([place for place in places(data) if place])
        holder = data
        for part in path[:-1]:
            holder = holder[part]
        name = path[-1]
        action = source.randrange(4)
        if action == 0:
            del holder[name]
        elif action == 1 and isinstance(holder, dict):
            holder[source.choice([f"{name}x", name.upper(), "a.b/c", "spec"])] = holder.pop(name)
        elif action == 2 and isinstance(holder, list):
            holder.append(holder[name])
        else:
            holder[name] = source.choice(STRANGE)
        if not places(data)[1:]:
            break
    return data


def judged(document: Document) -> None:
    resource, _, problems = validate(document)
    assert resource is not None or any(problem.severity is not Severity.INFO for problem in problems)
    last = max(document.lines.values(), default=document.line)
    for problem in problems:
        assert problem.code != INTERNAL_ERROR, problem.as_line()
        assert document.line <= problem.line <= last
        assert problem.message
        assert len(problem.as_line()) < 2000
        assert "pydantic" not in problem.as_line()
        assert "Input should" not in problem.message


def test_the_seeds_themselves_are_good() -> None:
    for document in read_text(SEEDS, "seeds.yaml", "test").documents:
        errors = [problem.as_line() for problem in validate(document).problems if problem.severity is Severity.ERROR]
        assert errors == []


@pytest.mark.parametrize("seed", range(20))
def test_changed_fields_are_judged_and_leave_the_rest_in_force(seed: int) -> None:
    source = random.Random(seed)
    originals = list(yaml.safe_load_all(SEEDS))
    for _ in range(3):
        changed = [mutated(data, source) for data in yaml.safe_load_all(SEEDS)]
        assert len(changed) == len(originals)
        result = read_text(BESIDE + yaml.safe_dump_all(changed), "mutated.yaml", "test")
        for document in result.documents:
            judged(document)
        store = ConfigStore()
        revision = store.replace_source("test", result)
        assert CHAT in revision.resources
        assert all(problem.as_line() for problem in revision.problems)


@pytest.mark.parametrize("seed", range(20))
def test_changed_text_is_judged_and_leaves_the_rest_in_force(seed: int) -> None:
    source = random.Random(1000 + seed)
    text = BESIDE + "".join(SEEDS)
    for _ in range(10):
        broken = list(text)
        for _ in range(source.randint(1, 8)):
            at = source.randrange(len(BESIDE), len(broken))
            action = source.randrange(3)
            if action == 0:
                del broken[at]
            elif action == 1:
                broken.insert(at, source.choice("{}[]:,&*!|>'\"%@`#-\n\t \\0é\u2028"))
            else:
                broken[at] = chr(source.choice([source.randrange(1, 128), source.randrange(0x10FFFF)]))
        changed = "".join(broken).encode(errors="surrogatepass")
        result = read_text(changed, "mutated.yaml", "test")
        for document in result.documents:
            judged(document)
        revision = ConfigStore().replace_source("test", result)
        if result.documents:
            assert CHAT in revision.resources
        else:
            assert revision.findings
