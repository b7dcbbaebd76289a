"""Documents of the meshes under test: a chat service in two versions on simulated servers, a client, a gateway."""

from __future__ import annotations

from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "canary"

SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: chat}
spec:
  selector: {app: chat}
  ports: [{name: http, port: 80, targetPort: 8000}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: chat}
spec:
  host: chat
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
"""
NEW_CONNECTIONS = """\
  trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1}}}
"""
"""Added to SERVICE: every request makes a connection, and a handshake, of its own."""
QUICK_EJECTION = """\
  trafficPolicy:
    outlierDetection: {consecutive5xxErrors: 5, interval: 1s, baseEjectionTime: 3s, maxEjectionPercent: 100}
"""
"""Added to SERVICE: the articles' circuit breaker with short times."""
CLIENT = """\
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {name: client}
spec:
  command: [sleep, infinity]
  serviceAccountName: client
  labels: {app: client}
  terminationGracePeriodSeconds: 3
"""
GATEWAY = """\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: door}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 80, name: http, protocol: HTTP}
    hosts: ["*"]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: public}
spec:
  hosts: ["*"]
  gateways: [door]
  http:
  - match: [{headers: {x-canary: {exact: v2}}}]
    route: [{destination: {host: chat, subset: v2}}]
    timeout: 300s
  - route: [{destination: {host: chat, subset: v1}}]
    timeout: 300s
"""


def weights(first: int, second: int) -> str:
    """The VirtualService of the chat service with these weights."""
    return f"""\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: chat}}
spec:
  hosts: [chat]
  http:
  - route:
    - destination: {{host: chat, subset: v1}}
      weight: {first}
    - destination: {{host: chat, subset: v2}}
      weight: {second}
    timeout: 300s
"""


def servers(version: str, replicas: int = 2, *, extra: str = "") -> str:
    """The Workload of one version; `extra` is added to its spec (lines indented by two)."""
    return f"""\
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {{name: chat-{version}}}
spec:
  replicas: {replicas}
  command: [headrace, model-server, --model, {version}, --slots, "1024", --decode-rate, "50"]
  serviceAccountName: chat
  labels: {{app: chat, version: {version}}}
  ports: [{{name: http, port: 8000}}]
  readinessProbe: {{httpGet: {{path: /health}}, periodSeconds: 1}}
  terminationGracePeriodSeconds: 20
{extra}"""


def shop(first: int = 80, second: int = 20) -> dict[str, str]:
    """All files: two versions with two replicas each, a client and a gateway."""
    return {
        "service.yaml": SERVICE,
        "routes.yaml": weights(first, second),
        "chat-v1.yaml": servers("v1"),
        "chat-v2.yaml": servers("v2"),
        "client.yaml": CLIENT,
        "gateway.yaml": GATEWAY,
    }
