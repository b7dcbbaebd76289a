"""Telemetry, WasmPlugin, TrafficExtension, ProxyConfig: what is refused and where, and what they become."""

from __future__ import annotations

import pytest

from headrace.model.extension import Phase, TrafficMatch, Wasm
from headrace.model.proxy_config import ProxySettings
from headrace.model.telemetry import AccessLogging, SpanTag, TagSource, Tracing, WorkloadMode

KINDS = {
    "Telemetry": "telemetry.istio.io/v1",
    "WasmPlugin": "extensions.istio.io/v1alpha1",
    "TrafficExtension": "extensions.istio.io/v1alpha1",
    "ProxyConfig": "networking.istio.io/v1beta1",
}


def document(kind: str, spec: str) -> str:
    return f"apiVersion: {KINDS[kind]}\nkind: {kind}\nmetadata: {{name: a}}\nspec: {{{spec}}}\n"


def test_a_telemetry_is_lowered(judge):
    verdict = judge(
        document(
            "Telemetry",
            "selector: {matchLabels: {app: chat}}, "
            "accessLogging: [{match: {mode: CLIENT}, providers: [{name: a}], filter: {expression: 'x > 1'}}], "
            "tracing: [{randomSamplingPercentage: 2.5, "
            "customTags: {b: {header: {name: h}}, a: {literal: {value: l}}}}]",
        )
    )
    assert verdict.problems == ()
    telemetry = verdict.resource
    assert telemetry.scope.selector == (("app", "chat"),)
    assert telemetry.access_logging == (AccessLogging(WorkloadMode.CLIENT, ("a",), None, "x > 1"),)
    tags = (SpanTag("a", TagSource.LITERAL, "l"), SpanTag("b", TagSource.HEADER, "h"))
    assert telemetry.tracing == (Tracing(sampling=2.5, tags=tags),)


def test_a_wasm_plugin_is_lowered(judge):
    verdict = judge(
        document(
            "WasmPlugin",
            "url: file:///a.wasm, pluginConfig: {b: 1, a: [x]}, pluginName: root, phase: AUTHZ, priority: 3, "
            "failStrategy: FAIL_OPEN, type: NETWORK, match: [{mode: SERVER, ports: [{number: 80}]}], "
            "vmConfig: {env: [{name: B, valueFrom: HOST}, {name: A, value: x}]}",
        )
    )
    assert verdict.problems == ()
    found = verdict.resource
    assert found.wasm == Wasm("/a.wasm", "root", '{"a":["x"],"b":1}', "FAIL_OPEN", (("A", "x"),), ("B",))
    assert (found.phase, found.priority, found.network) == (Phase.AUTHZ, 3, True)
    assert found.matches == (TrafficMatch(WorkloadMode.SERVER, (80,)),)
    assert (found.looks_at(True, 80), found.looks_at(True, 81), found.looks_at(False, 80)) == (True, False, False)


@pytest.mark.parametrize("url", ["oci://registry/a:1", "10.0.0.1:5000/a", "https://a/b.wasm", "http://a/b.wasm"])
def test_a_module_that_must_be_fetched_is_read_and_not_run(judge, url):
    verdict = judge(document("WasmPlugin", f"url: '{url}'"))
    assert verdict.codes == [("HR0001", "spec.url")]
    assert verdict.resource.wasm is None


def test_what_means_nothing_for_a_file_is_said(judge):
    verdict = judge(document("WasmPlugin", f"url: file:///a, sha256: {'a' * 64}, imagePullPolicy: Always"))
    assert sorted(verdict.codes) == [("HR0002", "spec.imagePullPolicy"), ("HR0002", "spec.sha256")]


def test_a_proxy_config_is_lowered(judge):
    verdict = judge(document("ProxyConfig", "concurrency: 0, environmentVariables: {B: '2', A: '1'}"))
    assert verdict.problems == ()
    assert verdict.resource.settings == ProxySettings(0, (("A", "1"), ("B", "2")))


REJECTED = {
    "no CEL": (
        "Telemetry",
        "accessLogging: [{filter: {expression: 'a b'}}]",
        "spec.accessLogging[0].filter.expression",
    ),
    "a percentage": (
        "Telemetry",
        "tracing: [{randomSamplingPercentage: 101}]",
        "spec.tracing[0].randomSamplingPercentage",
    ),
    "two sources": (
        "Telemetry",
        "tracing: [{customTags: {a: {literal: {value: b}, header: {name: c}}}}]",
        "spec.tracing[0].customTags.a.header",
    ),
    "an empty provider": ("Telemetry", "metrics: [{providers: [{name: ''}]}]", "spec.metrics[0].providers[0].name"),
    "a scheme": ("WasmPlugin", "url: ftp://a", "spec.url"),
    "a sum": ("WasmPlugin", "url: file:///a, sha256: abc", "spec.sha256"),
    "a variable twice": (
        "WasmPlugin",
        "url: file:///a, vmConfig: {env: [{name: A}, {name: A}]}",
        "spec.vmConfig.env[1].name",
    ),
    "no program": ("TrafficExtension", "phase: AUTHN", "spec"),
    "two programs": ("TrafficExtension", "lua: {inlineCode: a}, wasm: {url: file:///a}", "spec.lua"),
    "no Lua": ("TrafficExtension", "lua: {inlineCode: ''}", "spec.lua.inlineCode"),
    "fewer than no threads": ("ProxyConfig", "concurrency: -1", "spec.concurrency"),
}


@pytest.mark.parametrize(("kind", "spec", "field"), REJECTED.values(), ids=REJECTED)
def test_what_is_refused(judge, kind, spec, field):
    verdict = judge(document(kind, spec))
    assert verdict.resource is None
    assert field in [problem.field for problem in verdict.errors]
