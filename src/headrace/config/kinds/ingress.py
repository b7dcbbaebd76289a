"""`networking.k8s.io/v1` Ingress and IngressClass: HTTP routing in Kubernetes' own words.

Lowered to `model.ingress`. The rules are Kubernetes' (ValidateIngress), the meaning is Istio's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import model_validator

from headrace.config.documents import Document, Path
from headrace.config.fields import Choice, DnsName, NonEmpty, Port, Text, shown
from headrace.config.kinds.istio_names import is_address, no_effect, why_not_wildcard
from headrace.config.schema import INCOMPLETE, Finding, Kind, Spec, refuse
from headrace.model.ingress import Ingress, IngressClass, IngressPath, IngressRule, IngressTls
from headrace.model.problem import Severity
from headrace.model.resource import Metadata

PathType = Annotated[str, Choice("Exact", "Prefix", "ImplementationSpecific")]


class BackendPort(Spec):
    """ServiceBackendPort: a number or a name."""

    number: Port | None = None
    name: Text = ""

    @model_validator(mode="after")
    def _one(self) -> BackendPort:
        if (self.number is None) == (not self.name):
            raise refuse("a backend's port is a number or a name", "Write one of number and name.", at=("number",))
        return self


class BackendService(Spec):
    """IngressServiceBackend."""

    name: DnsName
    port: BackendPort


class BackendResource(Spec):
    """TypedLocalObjectReference."""

    api_group: Text = ""
    kind: NonEmpty
    name: NonEmpty


class BackendSpec(Spec):
    """IngressBackend."""

    service: BackendService | None = None
    resource: BackendResource | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_old_form(cls, value: object) -> object:
        """serviceName and servicePort, as in v1beta1."""
        if not isinstance(value, dict) or not {"serviceName", "servicePort"} <= set(value):
            return value
        port = value["servicePort"]
        named = isinstance(port, str) and not port.isdigit()
        service = {"name": value["serviceName"], "port": {"name" if named else "number": port}}
        others = {name: item for name, item in value.items() if name not in ("serviceName", "servicePort")}
        return {**others, "service": service}

    @model_validator(mode="after")
    def _one(self) -> BackendSpec:
        if (self.service is None) == (self.resource is None):
            raise refuse("a backend is a service or a resource", "Write one of them.", at=("service",))
        return self


class PathSpec(Spec):
    """HTTPIngressPath."""

    path: Text = ""
    path_type: PathType = "ImplementationSpecific"
    backend: BackendSpec

    @model_validator(mode="after")
    def _absolute(self) -> PathSpec:
        if self.path_type != "ImplementationSpecific" and not self.path.startswith("/"):
            raise refuse(f"{shown(self.path)} is not a path", "Begin it with '/'.", at=("path",))
        return self


class HttpSpec(Spec):
    """HTTPIngressRuleValue."""

    paths: list[PathSpec]


class RuleSpec(Spec):
    """IngressRule."""

    host: Text = ""
    http: HttpSpec | None = None


class TlsSpec(Spec):
    """IngressTLS."""

    hosts: list[Text] = []
    secret_name: Text = ""


class IngressSpec(Spec):
    """Ingress."""

    ingress_class_name: Text = ""
    default_backend: BackendSpec | None = None
    tls: list[TlsSpec] = []
    rules: list[RuleSpec] = []


class ClassParameters(Spec):
    """IngressClassParametersReference."""

    api_group: Text = ""
    kind: NonEmpty
    name: NonEmpty
    scope: Text = ""
    namespace: Text = ""


class IngressClassSpec(Spec):
    """IngressClass."""

    controller: Text = ""
    parameters: ClassParameters | None = None


def _check(spec: IngressSpec, document: Document) -> Iterator[Finding]:
    if not spec.rules and spec.default_backend is None:
        yield Finding(("spec", "rules"), "an Ingress needs rules", "Add rules.")
    for at, rule in enumerate(spec.rules):
        path: Path = ("spec", "rules", at)
        if rule.host and (is_address(rule.host) or why_not_wildcard(rule.host)):
            yield Finding((*path, "host"), f"{shown(rule.host)} is not a host name", "Write it as in chat.example.com.")
        if rule.http is None:
            yield no_effect((*path, "host"), "a rule without http.paths leads nowhere", "Add http.paths.")
        for number, found in enumerate(rule.http.paths if rule.http else ()):
            written = document.data["spec"]["rules"][at]["http"]["paths"][number]["backend"]
            if "serviceName" in written or "path_type" not in found.model_fields_set:
                place: Path = (*path, "http", "paths", number)
                message = "this is the form of v1beta1, which Kubernetes reads no more"
                remedy = "Write pathType, and backend: {service: {name: ..., port: {number: ...}}}."
                yield Finding(place, message, remedy, INCOMPLETE, Severity.WARNING)
            if found.backend.resource is not None:
                place = (*path, "http", "paths", number, "backend", "resource")
                yield no_effect(place, "only services are called", "Name a service.")
    for at, tls in enumerate(spec.tls):
        if not tls.secret_name:
            yield no_effect(("spec", "tls", at), "without secretName there is no certificate", "Add secretName.")
    if spec.default_backend is not None:
        why = "Istio does not serve it, because it would take every other host's requests"
        yield no_effect(("spec", "defaultBackend"), why, "Write a rule without a host.")


def _lower(meta: Metadata, spec: IngressSpec, document: Document) -> Ingress:
    return Ingress(
        meta=meta,
        rules=tuple(
            IngressRule(rule.host.lower(), tuple(_paths(rule.http))) for rule in spec.rules if rule.http is not None
        ),
        tls=tuple(
            IngressTls(tuple(host.lower() for host in tls.hosts), tls.secret_name)
            for tls in spec.tls
            if tls.secret_name
        ),
        class_name=spec.ingress_class_name,
    )


def _paths(spec: HttpSpec) -> Iterator[IngressPath]:
    for found in spec.paths:
        service = found.backend.service
        if service is not None:
            number = service.port.number or 0
            yield IngressPath(found.path_type, found.path, service.name, number, service.port.name)


def _lower_class(meta: Metadata, spec: IngressClassSpec, document: Document) -> IngressClass:
    return IngressClass(meta, spec.controller)


KINDS = (
    Kind(
        group="networking.k8s.io",
        versions=("v1",),
        name="Ingress",
        model=IngressSpec,
        lower=_lower,
        check=_check,
    ),
    Kind(
        group="networking.k8s.io",
        versions=("v1",),
        name="IngressClass",
        model=IngressClassSpec,
        lower=_lower_class,
        namespaced=False,
        without_effect=("spec.parameters",),
    ),
)
