"""The kinds of documents that Headrace knows: one file a kind, imported when the first document of it is met.

Called by `config.schema.validate`.
"""

from __future__ import annotations

import difflib
import importlib
from functools import cache
from typing import Any

from headrace.config.documents import Document
from headrace.config.kinds.elsewhere import ELSEWHERE
from headrace.config.schema import NO_EFFECT, NOT_SUPPORTED, SCHEMA_ERROR, UNKNOWN_KIND, Finding, Kind, problem_of
from headrace.model.problem import Problem, Severity

MODULES: dict[tuple[str, str], str] = {
    ("", "Namespace"): "namespace",
    ("", "Service"): "service",
    ("", "ServiceAccount"): "service_account",
    ("", "Secret"): "secret",
    ("", "Endpoints"): "endpoints",
    ("discovery.k8s.io", "EndpointSlice"): "endpoints",
    ("", "Pod"): "pod",
    ("apps", "Deployment"): "controller",
    ("apps", "StatefulSet"): "controller",
    ("apps", "DaemonSet"): "controller",
    ("apps", "ReplicaSet"): "controller",
    ("batch", "Job"): "controller",
    ("batch", "CronJob"): "controller",
    ("", "ReplicationController"): "controller",
    ("networking.istio.io", "VirtualService"): "virtual_service",
    ("networking.istio.io", "DestinationRule"): "destination_rule",
    ("networking.istio.io", "Gateway"): "gateway",
    ("networking.istio.io", "ServiceEntry"): "service_entry",
    ("networking.istio.io", "Sidecar"): "sidecar",
    ("networking.istio.io", "WorkloadEntry"): "workload_entry",
    ("networking.istio.io", "WorkloadGroup"): "workload_group",
    ("networking.istio.io", "EnvoyFilter"): "envoy_filter",
    ("security.istio.io", "PeerAuthentication"): "peer_authentication",
    ("security.istio.io", "AuthorizationPolicy"): "authorization_policy",
    ("security.istio.io", "RequestAuthentication"): "request_authentication",
    ("networking.istio.io", "ProxyConfig"): "proxy_config_document",
    ("telemetry.istio.io", "Telemetry"): "telemetry",
    ("extensions.istio.io", "WasmPlugin"): "wasm_plugin",
    ("extensions.istio.io", "TrafficExtension"): "traffic_extension",
    ("networking.k8s.io", "Ingress"): "ingress",
    ("networking.k8s.io", "IngressClass"): "ingress",
    ("headrace.dev", "Workload"): "workload",
    ("headrace.dev", "InferencePolicy"): "inference_policy",
    ("inference.networking.k8s.io", "InferencePool"): "inference_pool",
    ("headrace.dev", "MeshConfig"): "mesh_config",
    ("", "ConfigMap"): "config_map",
    ("gateway.networking.k8s.io", "GatewayClass"): "gateway_api.gateway_class",
    ("gateway.networking.k8s.io", "Gateway"): "gateway_api.gateway",
    ("gateway.networking.k8s.io", "ListenerSet"): "gateway_api.listener_set",
    ("gateway.networking.k8s.io", "HTTPRoute"): "gateway_api.http_route",
    ("gateway.networking.k8s.io", "GRPCRoute"): "gateway_api.grpc_route",
    ("gateway.networking.k8s.io", "TCPRoute"): "gateway_api.l4_routes",
    ("gateway.networking.k8s.io", "TLSRoute"): "gateway_api.l4_routes",
    ("gateway.networking.k8s.io", "ReferenceGrant"): "gateway_api.reference_grant",
    ("gateway.networking.k8s.io", "BackendTLSPolicy"): "gateway_api.backend_tls_policy",
}
"""(API group, kind) → module of this package. A module has `KIND`, or `KINDS` where it describes several."""


def kind_named(group: str, name: str) -> Kind[Any] | None:
    """The description of a kind; None where Headrace has none."""
    return _described(group, name) if (group, name) in MODULES else None


@cache
def _described(group: str, name: str) -> Kind[Any]:
    module = importlib.import_module(f"headrace.config.kinds.{MODULES[group, name]}")
    kinds: tuple[Kind[Any], ...] = module.KINDS if hasattr(module, "KINDS") else (module.KIND,)
    return next(kind for kind in kinds if (kind.group, kind.name) == (group, name))


def find_kind(document: Document) -> tuple[Kind[Any] | None, Problem | None]:
    """The kind that describes a document, or the problem that says why none does."""
    finding = _written(document)
    if finding is None:
        kind = kind_named(document.group, document.kind)
        if kind is not None and document.version in kind.versions:
            return kind, None
        finding = _wrong_version(document, kind) if kind else _other_kind(document)
    return None, problem_of(document, finding)


def _written(document: Document) -> Finding | None:
    """What is wrong with apiVersion and kind as such."""
    for name, value in (("kind", document.kind), ("apiVersion", document.api_version)):
        if document.data.get(name) is None:
            return Finding((name,), f"a document needs {name}", f"Add {name}.")
        if not value:
            return Finding((name,), f"{name} must be text", "Quote it.")
    return None


def _wrong_version(document: Document, kind: Kind[Any]) -> Finding:
    served = ", ".join(f"{kind.group}/{version}" if kind.group else version for version in kind.versions)
    message = f"{kind.name} has no version '{document.api_version[:80]}'"
    return Finding(("apiVersion",), message, f"Use {served}.")


def _other_kind(document: Document) -> Finding:
    """A kind that Headrace does not read: known elsewhere (a warning), or nobody's (an error)."""
    group, name = document.group, document.kind
    if name in ELSEWHERE.get(group, ()):
        message = f"{name} ({document.api_version[:80]}) is not supported yet: the document is ignored"
        return Finding(("kind",), message, "", NOT_SUPPORTED, Severity.WARNING)
    groups = sorted(known for known, kind in MODULES if kind == name)
    groups += sorted(known for known, kinds in ELSEWHERE.items() if name in kinds)
    if groups:
        message = f"{name} does not belong to the API group '{group[:80]}'"
        return Finding(("apiVersion",), message, f"Its group is {groups[0] or 'the core one (v1)'}.", SCHEMA_ERROR)
    known_group = group in ELSEWHERE or group.endswith((".istio.io", "headrace.dev"))
    if not known_group:
        message = f"{name} ({document.api_version[:80]}) belongs to another program: the document is ignored"
        return Finding(("kind",), message, "", NO_EFFECT, Severity.WARNING)
    near = difflib.get_close_matches(name, sorted({kind for _, kind in MODULES}), 1, 0.6)
    remedy = f"Did you mean '{near[0]}'?" if near else "Check the spelling of kind and apiVersion."
    return Finding(("kind",), f"unknown kind '{name[:80]}' ({document.api_version[:80]})", remedy, UNKNOWN_KIND)
