"""WasmPlugin and TrafficExtension: what is accepted, what is refused and where."""

from __future__ import annotations

import pytest


def plugin(spec: str, kind: str = "WasmPlugin") -> str:
    return f"apiVersion: extensions.istio.io/v1alpha1\nkind: {kind}\nmetadata: {{name: p}}\nspec: {{{spec}}}\n"


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("file:///opt/module.wasm", True),
        ("oci://registry.example/module:v1", True),
        ("registry.example/module:v1", True),
        ("/opt/module.wasm", True),
        ("https://a.example/m.wasm", True),
        ("ftp://a.example/m.wasm", False),
        ("registry.example:5000/module", False),
        ("module:v1", False),
        (":authority", False),
        ("{{ url }}", False),
        ("a%20b", False),
        ("", False),
    ],
)
def test_where_modules_come_from(judge, url, good):
    errors = [(item.field, item.code) for item in judge(plugin(f"url: '{url}'")).problems if item.code == "IST0106"]
    assert errors == ([] if good else [("spec.url", "IST0106")])


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ("match: [{ports: [{number: 80}, {number: 80}]}]", "spec.match[0].ports[1]"),
        ("match: [{ports: [{number: 0}]}]", "spec.match[0].ports[0].number"),
        ("sha256: abc", "spec.sha256"),
        ("vmConfig: {env: [{name: A, valueFrom: HOST, value: x}]}", "spec.vmConfig.env[0].value"),
        ("vmConfig: {env: [{name: A}, {name: A}]}", "spec.vmConfig.env[1].name"),
    ],
)
def test_fields_that_are_refused(judge, spec, field):
    errors = [item.field for item in judge(plugin(f"url: file:///m.wasm, {spec}")).problems if item.code == "IST0106"]
    assert errors == [field]


@pytest.mark.parametrize("spec", ["phase: AUTHN", "wasm: {url: file:///m}, lua: {inlineCode: x}"])
def test_an_extension_has_one_program(judge, spec):
    assert [item.code for item in judge(plugin(spec, "TrafficExtension")).problems] == ["IST0106"]
