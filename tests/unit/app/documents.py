"""Documents of tests in this folder: text in, revision and resources out."""

from collections.abc import Iterable

from headrace.config.documents import read_text
from headrace.config.revision import ConfigRevision
from headrace.config.store import ConfigStore
from headrace.model.problem import Severity


def revision_of(*texts: str) -> ConfigRevision:
    """The revision that these YAML texts make; fails where one of them is not accepted."""
    store = ConfigStore()
    revision = store.replace_source("test", read_text("\n---\n".join(texts), "test.yaml", "test"))
    errors = [problem.as_line() for problem in revision.findings if problem.severity is Severity.ERROR]
    assert not errors, errors
    return revision


def of_type(revision: ConfigRevision, kind: type) -> Iterable:  # type: ignore[type-arg]
    return [item for item in revision.resources.values() if isinstance(item, kind)]


SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: chat}
spec:
  selector: {app: chat}
  ports: [{name: http, port: 80, targetPort: 8000}]
"""
WORKLOAD = """
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {name: chat-v1}
spec:
  replicas: 2
  command: [serve, --port, $(PORT)]
  env: [{name: A, value: "1"}]
  engine: vllm
  labels: {app: chat, version: v1}
  serviceAccountName: model
  ports: [{name: http, port: 8000}]
  terminationGracePeriodSeconds: 5
  readinessProbe: {httpGet: {path: /health}, periodSeconds: 2}
"""
GATEWAY = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: door}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}
  - {port: {number: 8443, name: tls, protocol: HTTPS}, hosts: ["*"], tls: {mode: SIMPLE, credentialName: cert}}
"""
