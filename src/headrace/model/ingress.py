"""Kubernetes' own ingress (networking.k8s.io/v1): what an Ingress and an IngressClass say.

Made by `config.kinds.ingress`; `registry.ingress` makes Gateways and VirtualServices of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headrace.model.mesh import IngressSettings
from headrace.model.resource import Metadata

CONTROLLER = "istio.io/ingress-controller"
"""IngressClass.spec.controller of the classes whose Ingresses are for the mesh's gateways (Istio's name)."""
CLASS_ANNOTATION = "kubernetes.io/ingress.class"
"""The older way to name a class; it comes before `ingressClassName`."""


@dataclass(frozen=True, slots=True)
class IngressPath:
    """HTTPIngressPath: `kind` is Exact, Prefix or ImplementationSpecific. The service is of the Ingress's namespace;
    its port is a number, else (0) a name."""

    kind: str
    path: str
    service: str
    port: int = 0
    port_name: str = ""


@dataclass(frozen=True, slots=True)
class IngressRule:
    """IngressRule; `host` empty: every host."""

    host: str
    paths: tuple[IngressPath, ...]


@dataclass(frozen=True, slots=True)
class IngressTls:
    """IngressTLS: a certificate for these hosts (none: all), by a Secret of the gateway's namespace."""

    hosts: tuple[str, ...]
    secret: str


@dataclass(frozen=True, slots=True, eq=False)
class Ingress:
    """An Ingress; `class_name` empty: none written."""

    meta: Metadata
    rules: tuple[IngressRule, ...]
    tls: tuple[IngressTls, ...] = ()
    class_name: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class IngressClass:
    """An IngressClass: who serves its Ingresses."""

    meta: Metadata
    controller: str


def is_ours(ingress: Ingress, classes: Mapping[str, IngressClass], settings: IngressSettings) -> bool:
    """Whether the mesh's gateways serve the Ingress: by its class, or because it has none and the mode is DEFAULT."""
    written = ingress.meta.annotations.get(CLASS_ANNOTATION)
    if written is not None:
        return settings.mode in ("DEFAULT", "STRICT") and written == settings.class_name
    known = classes.get(ingress.class_name)
    if known is not None:
        return known.controller == CONTROLLER
    return settings.mode == "DEFAULT"
