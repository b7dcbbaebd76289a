"""Ingress and IngressClass: what Kubernetes takes, and what has no effect."""

from __future__ import annotations

import pytest


def document(spec: str, annotations: str = "{}") -> str:
    return (
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\n"
        f"metadata: {{name: door, annotations: {annotations}}}\nspec: {spec}\n"
    )


def path(path: str = "/a", kind: str = "Prefix", backend: str = "{service: {name: chat, port: {number: 80}}}") -> str:
    return f"{{rules: [{{http: {{paths: [{{path: '{path}', pathType: {kind}, backend: {backend}}}]}}}}]}}"


PATH = "spec.rules[0].http.paths[0]"

REJECTED = {
    "no rules": (document("{}"), "spec.rules"),
    "relative path": (document(path("a")), f"{PATH}.path"),
    "type of a path": (document(path(kind="Regex")), f"{PATH}.pathType"),
    "no backend": (document(path(backend="{}")), f"{PATH}.backend.service"),
    "two backends": (
        document(path(backend="{service: {name: a, port: {number: 1}}, resource: {kind: A, name: b}}")),
        f"{PATH}.backend.service",
    ),
    "port": (document(path(backend="{service: {name: a, port: {}}}")), f"{PATH}.backend.service.port.number"),
    "both ports": (
        document(path(backend="{service: {name: a, port: {number: 1, name: b}}}")),
        f"{PATH}.backend.service.port.number",
    ),
    "address as a host": (document("{rules: [{host: 10.0.0.1}]}"), "spec.rules[0].host"),
}


@pytest.mark.parametrize(("text", "field"), REJECTED.values(), ids=REJECTED.keys())
def test_rejected(judge, text, field):
    assert (field, "IST0106") in [(problem.field, problem.code) for problem in judge(text).errors]


WITHOUT_EFFECT = {
    "default backend": (
        document("{defaultBackend: {service: {name: a, port: {number: 1}}}}"),
        "spec.defaultBackend",
    ),
    "rule without paths": (document("{rules: [{host: a.b}]}"), "spec.rules[0].host"),
    "resource": (document(path(backend="{resource: {kind: A, name: b}}")), f"{PATH}.backend.resource"),
    "tls without a secret": (document(path()[:-1] + ", tls: [{hosts: [a.b]}]}"), "spec.tls[0]"),
}


@pytest.mark.parametrize(("text", "field"), WITHOUT_EFFECT.values(), ids=WITHOUT_EFFECT.keys())
def test_without_effect(judge, text, field):
    verdict = judge(text)
    assert verdict.errors == []
    assert ("HR0002", field) in verdict.codes
    assert all(problem.message[:1].isalpha() for problem in verdict.problems)


def test_lowered(judge):
    ingress = judge(document(path(backend="{service: {name: chat, port: {name: web}}}"))).resource
    (rule,) = ingress.rules
    (found,) = rule.paths
    assert (rule.host, found.kind, found.path, found.service, found.port, found.port_name) == (
        "",
        "Prefix",
        "/a",
        "chat",
        0,
        "web",
    )


def test_the_form_of_v1beta1_is_read_with_a_warning(judge):
    old = "{rules: [{http: {paths: [{path: /, backend: {serviceName: chat, servicePort: 80}}]}}]}"
    verdict = judge(document(old))
    assert [(item.code, item.field) for item in verdict.problems] == [("HR0008", PATH)]
    new = "{rules: [{http: {paths: [{path: /, pathType: ImplementationSpecific, backend: BACKEND}]}}]}"
    backend = "{service: {name: chat, port: {number: 80}}}"
    assert verdict.resource.rules == judge(document(new.replace("BACKEND", backend))).resource.rules
