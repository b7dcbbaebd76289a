"""A generated mesh for the discovery benchmarks: documents, snapshot, translated sets. Used by xds_*.py."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from headrace.config.documents import Document, read_text
from headrace.config.store import ConfigStore
from headrace.envoy.bootstrap import DEFAULT_SECRET, ROOT_SECRET
from headrace.envoy.resources import ResourceSet
from headrace.envoy.scopes import Scopes, view_of
from headrace.envoy.secrets import validation_secret, workload_secret
from headrace.envoy.translate import Translator
from headrace.model.identity import Identity
from headrace.model.proxy import Capture, CaptureKind, Proxy, ProxyKind
from headrace.registry.build import build_snapshot
from headrace.registry.snapshot import MeshSnapshot

_SERVICE = """\
apiVersion: v1
kind: Service
metadata: {{name: svc-{n}, namespace: default}}
spec:
  ports: [{{name: http, port: 8000}}]
---
"""
_ENDPOINTS = """\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: svc-{n}-1, namespace: default, labels: {{kubernetes.io/service-name: svc-{n}}}}}
addressType: IPv4
ports: [{{name: http, port: 8000, protocol: TCP}}]
endpoints:
{entries}---
"""
_SPLIT = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: split, namespace: default}}
spec:
  hosts: [svc-0]
  http:
  - route:
    - {{destination: {{host: svc-1}}, weight: {first}}}
    - {{destination: {{host: svc-2}}, weight: {second}}}
    timeout: 60s
---
"""
_POOL = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: pool, namespace: default}}
spec:
  host: svc-1
  trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: {number}}}}}}}
---
"""


_CREDENTIALS = "user:{SHA}0DPiKuNIrrVmD8IUCuw1hQxNqZc="


class GeneratedMesh:
    """`services` services with `endpoints` endpoints each, a weighted VirtualService and a DestinationRule, and the
    sets of `proxies` sidecars. The `change_…` methods make one change and the sets that follow from it."""

    def __init__(self, services: int, endpoints: int, proxies: int, capture: CaptureKind) -> None:
        self._endpoints = endpoints
        self._store = ConfigStore()
        self._translator = Translator()
        self._scopes = Scopes()
        self._step = 0
        self.snapshot: MeshSnapshot | None = None
        self.proxies = {f"sidecar/default/p-{n}": _proxy(n, capture) for n in range(proxies)}
        text = "".join(_SERVICE.format(n=n) + self._slice(n) for n in range(services))
        text += _SPLIT.format(first=95, second=5) + _POOL.format(number=100)
        result = read_text(text, "generated.yaml", "bench")
        assert not result.problems, result.problems[:3]
        self._store.replace_source("bench", result)
        assert not self._store.revision().findings, self._store.revision().findings[:3]

    def sets(self) -> dict[str, ResourceSet]:
        """Every proxy's set as the documents stand."""
        self.snapshot = build_snapshot(self._store.revision(), {}, self.snapshot)
        return {
            name: self._translator.resources(view_of(self.snapshot, proxy, self._scopes))
            for name, proxy in self.proxies.items()
        }

    def change_weight(self) -> dict[str, ResourceSet]:
        """Another split between two services: one route table."""
        self._step += 1
        first = self._step % 100
        return self._apply(_SPLIT.format(first=first, second=100 - first))

    def change_endpoints(self) -> dict[str, ResourceSet]:
        """One endpoint of a service moves: one assignment."""
        self._step += 1
        return self._apply(self._slice(3, moved=self._step))

    def change_cluster(self) -> dict[str, ResourceSet]:
        """A connection limit: one cluster, and its endpoints after it."""
        self._step += 1
        return self._apply(_POOL.format(number=100 + self._step))

    def _apply(self, text: str) -> dict[str, ResourceSet]:
        documents: list[Document] = list(read_text(text, "generated.yaml", "bench").documents)
        applied = self._store.apply("bench", documents)
        assert not [item for item in self._store.revision().findings if item.severity.value == "error"], applied
        return self.sets()

    def _slice(self, n: int, moved: int = 0) -> str:
        addresses = [f"10.{n // 250}.{n % 250}.{m + 1}" for m in range(self._endpoints)]
        if moved:
            addresses[-1] = f"10.200.{moved // 250 % 250}.{moved % 250 + 1}"
        entries = "".join(f"- addresses: [{address}]\n  conditions: {{ready: true}}\n" for address in addresses)
        return _ENDPOINTS.format(n=n, entries=entries)


def secrets() -> ResourceSet:
    """A certificate, its key and its root, as an agent serves them: without them no cluster gets warm."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
    unprotected = serialization.NoEncryption()
    key_pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, unprotected)
    return ResourceSet.collect((workload_secret(DEFAULT_SECRET, pem, key_pem), validation_secret(ROOT_SECRET, pem)))


def _proxy(n: int, capture: CaptureKind) -> Proxy:
    name = f"p-{n}"
    return Proxy(
        kind=ProxyKind.SIDECAR,
        name=name,
        workload="p",
        identity=Identity("cluster.local", "default", "p"),
        labels={"app": "p"},
        addresses=(f"127.1.{n // 250}.{n % 250 + 1}",),
        capture=Capture(kind=capture, outbound_port=15001, credentials=_CREDENTIALS),
    )
