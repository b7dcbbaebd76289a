"""How services are named: Istio's short-name rule and Envoy cluster names.

Read by `config` (hosts become full names once) and `envoy.translate`.
"""

from __future__ import annotations

CLUSTER_DOMAIN = "cluster.local"
ROOT_NAMESPACE = "istio-system"
"""Default root namespace (MeshConfig.rootNamespace), where mesh-wide policies live."""
MESH_GATEWAY = "mesh"
"""The reserved gateway name that means every sidecar (VirtualService.gateways)."""


def service_fqdn(name: str, namespace: str) -> str:
    """`chat`, `default` → `chat.default.svc.cluster.local`."""
    return f"{name}.{namespace}.svc.{CLUSTER_DOMAIN}"


def resolve_host(host: str, namespace: str) -> str:
    """Istio's short-name rule: a host without a dot belongs to `namespace`; anything else (names with dots,
    `*`, addresses) stays as it is, in lower case."""
    host = host.lower()
    if "." in host or ":" in host or host == "*" or not host:
        return host
    return service_fqdn(host, namespace)


def resolve_gateway(name: str, namespace: str) -> str:
    """`x` means `namespace/x`; `mesh` and `ns/x` stay (VirtualService.gateways)."""
    if name == MESH_GATEWAY or "/" in name:
        return name
    return f"{namespace}/{name}"


def outbound_cluster(port: int, subset: str, host: str) -> str:
    """Istio's name of a cluster towards a service: `outbound|8000|v1|chat.default.svc.cluster.local`."""
    return f"outbound|{port}|{subset}|{host}"


def inbound_cluster(port: int) -> str:
    """Istio's name of the cluster from a sidecar to its own application: `inbound|8000||`."""
    return f"inbound|{port}||"


def sni(port: int, subset: str, host: str) -> str:
    """The SNI of mesh mutual TLS (Istio's DNS-SRV form): `outbound_.8000_.v1_.chat.default.svc.cluster.local`."""
    return f"outbound_.{port}_.{subset}_.{host}"
