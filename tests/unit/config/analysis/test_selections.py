"""What Sidecars, Telemetries, EnvoyFilters and policies select: IST0101, IST0110, IST0111, IST0151 to IST0167."""

from __future__ import annotations

import pytest
from tests.unit.config.analysis.conftest import Check

from headrace.config.documents import read_text
from headrace.config.judge import judge
from headrace.model.problem import Problem

CODES = ("IST0101", "IST0110", "IST0111", "IST0157", "IST0159", "IST0160", "IST0166", "IST0167", "HR0123")


def pod(name: str = "p", labels: str = "{app: a}", annotations: str = "{}") -> str:
    head = f"{{name: {name}, labels: {labels}, annotations: {annotations}}}"
    return f"apiVersion: v1\nkind: Pod\nmetadata: {head}\nspec: {{containers: [{{name: app}}]}}\n"


def sidecar(name: str, labels: str = "", namespace: str = "default") -> str:
    selector = f"workloadSelector: {{labels: {labels}}}, " if labels else ""
    return f"""
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{{selector}egress: [{{hosts: ["./*"]}}]}}
"""


def telemetry(name: str, labels: str = "", more: str = "") -> str:
    selector = f"selector: {{matchLabels: {labels}}}, " if labels else ""
    return f"""
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {{name: {name}}}
spec: {{{selector}{more}}}
"""


def codes(problems: list[Problem]) -> list[tuple[str, str, str]]:
    return [(item.code, item.name, item.field) for item in problems if item.code in CODES]


def test_sidecars_that_select_nothing_or_the_same(check: Check) -> None:
    place = "spec.workloadSelector.labels"
    assert codes(check(pod(), sidecar("one", "{app: a}"))) == []
    assert codes(check(pod(), sidecar("one", "{app: b}"))) == [("IST0101", "one", place)]
    assert codes(check(pod(), sidecar("one", "{app: a}", "other"))) == [("IST0101", "one", place)]
    both = check(pod(labels="{app: a, tier: x}"), sidecar("one", "{app: a}"), sidecar("two", "{tier: x}"))
    assert codes(both) == [("IST0110", "one", place), ("IST0110", "two", place)]


def test_sidecars_without_a_selector(check: Check) -> None:
    assert codes(check(sidecar("one"), sidecar("two", namespace="other"))) == []
    assert codes(check(sidecar("one"), sidecar("two"))) == [("IST0111", "one", "spec"), ("IST0111", "two", "spec")]


def test_sidecars_where_there_are_none(check: Check) -> None:
    ambient = "apiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: {istio.io/dataplane-mode: ambient}}\n"
    assert codes(check(ambient, sidecar("one"))) == [("IST0167", "one", "spec")]
    captured = pod(annotations="{ambient.istio.io/redirection: enabled}")
    assert codes(check(captured, sidecar("one", "{app: a}"))) == [("IST0167", "one", "spec")]


def test_telemetries_that_select_nothing_or_the_same(check: Check) -> None:
    place = "spec.selector.matchLabels"
    assert codes(check(pod(), telemetry("one", "{app: b}"))) == [("IST0101", "one", place)]
    both = check(pod(), telemetry("one", "{app: a}"), telemetry("two", "{app: a}"))
    assert codes(both) == [("IST0159", "one", place), ("IST0159", "two", place)]
    assert codes(check(telemetry("one"), telemetry("two"))) == [("IST0160", "one", "spec"), ("IST0160", "two", "spec")]


MESH = """
apiVersion: headrace.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {defaultProviders: {accessLogging: [envoy]}}
"""


@pytest.mark.parametrize(
    ("logging", "judged"),
    [("{}", True), ("{disabled: true}", False), ("{providers: [{name: envoy}]}", False), ("{disabled: false}", True)],
)
def test_access_logs_that_nobody_writes(check: Check, logging: str, judged: bool) -> None:
    text = telemetry("one", more=f"accessLogging: [{logging}]")
    assert codes(check(text)) == ([("IST0157", "one", "spec.accessLogging[0]")] if judged else [])
    assert codes(check(text, MESH)) == []


def test_providers_that_nobody_declared(check: Check) -> None:
    text = telemetry(
        "one", more="accessLogging: [{providers: [{name: envoy}, {name: otel}]}, {providers: [{name: lost}]}]"
    )
    mesh = MESH + "  extensionProviders: [{name: Otel, opentelemetry: {service: otel.obs, port: 4317}}]\n"
    mesh = mesh.replace("spec: {defaultProviders: {accessLogging: [envoy]}}", "spec:")
    names = [("HR0123", "one", f"spec.accessLogging[{at}].providers[{number}].name") for at, number in ((0, 1), (1, 0))]
    assert codes(check(text)) == codes(check(text, mesh)) == names
    assert codes(check(telemetry("one", more="tracing: [{providers: [{name: otel}]}]"), mesh)) == []
    assert codes(check(telemetry("one", more="tracing: [{providers: [{name: envoy}]}]"), mesh)) == [
        ("HR0123", "one", "spec.tracing[0].providers[0].name")
    ]
    assert codes(check(telemetry("one", more="accessLogging: [{disabled: true, providers: [{name: lost}]}]"))) == []


def test_policies_for_pods_of_the_gateway_api(check: Check) -> None:
    gateway = pod(labels="{app: a, gateway.networking.k8s.io/gateway-name: front}")
    policy = """
    apiVersion: security.istio.io/v1
    kind: RequestAuthentication
    metadata: {name: jwt}
    spec: {selector: {matchLabels: {app: a}}, jwtRules: [{issuer: me}]}
    """
    assert codes(check(gateway, policy)) == [("IST0166", "jwt", "spec.selector")]
    assert codes(check(pod(), policy)) == []


def envoy_filter(applies: str, operation: str, more: str = "", match: str = "") -> str:
    return f"""
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {{name: f}}
spec:
  {more}
  configPatches:
  - applyTo: {applies}
    match: {{context: ANY{match}}}
    patch: {{operation: {operation}, value: {{name: mine}}}}
"""


@pytest.mark.parametrize(
    ("applies", "operation", "code"),
    [
        ("HTTP_FILTER", "INSERT_FIRST", ""),
        ("HTTP_FILTER", "INSERT_BEFORE", "IST0151"),
        ("HTTP_FILTER", "REPLACE", "IST0151"),
        ("CLUSTER", "REPLACE", "IST0152"),
        ("CLUSTER", "ADD", ""),
        ("CLUSTER", "REMOVE", "IST0151"),
        ("HTTP_ROUTE", "ADD", "IST0153"),
        ("HTTP_ROUTE", "REMOVE", "IST0154"),
        ("HTTP_ROUTE", "MERGE", ""),
    ],
)
def test_operations_of_patches(applies: str, operation: str, code: str) -> None:
    def found(text: str) -> list[tuple[str, str]]:
        problems = judge([read_text(text, "a.yaml", "test")])
        return [(item.code, item.field) for item in problems if item.code.startswith("IST015")]

    expected = [(code, "spec.configPatches[0].patch.operation")] if code else []
    assert found(envoy_filter(applies, operation)) == expected
    given = [item for item in expected if item[0] != "IST0151"]
    assert found(envoy_filter(applies, operation, "priority: 1")) == given


def test_patches_that_depend_on_the_version_of_a_proxy() -> None:
    versioned = envoy_filter("HTTP_FILTER", "INSERT_FIRST", match=", proxy: {proxyVersion: '1.2'}").replace(
        "name: f", "name: a"
    )
    text = versioned + "---\n" + envoy_filter("HTTP_FILTER", "INSERT_AFTER")
    problems = judge([read_text(text, "a.yaml", "test")])
    assert [item.code for item in problems if item.code.startswith("IST015")] == ["IST0155"]


def test_what_istio_has_given_up(check: Check) -> None:
    mesh = MESH.replace("defaultProviders: {accessLogging: [envoy]}", PROVIDERS)
    text = telemetry("one", more="tracing: [{providers: [{name: old}]}]")
    found = [(item.code, item.field) for item in check(text, mesh) if item.code == "IST0002"]
    assert found == [("IST0002", "spec.tracing[0].providers[0].name")]
    crd = """
    apiVersion: apiextensions.k8s.io/v1
    kind: CustomResourceDefinition
    metadata: {name: serviceroles.rbac.istio.io}
    spec: {group: rbac.istio.io, names: {kind: ServiceRole}}
    """
    assert [item.code for item in check(crd) if item.code == "IST0002"] == ["IST0002"]


PROVIDERS = "extensionProviders: [{name: old, lightstep: {service: l.example.com, port: 443, accessToken: t}}]"
