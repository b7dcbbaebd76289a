"""PeerAuthentication: what is accepted, what is refused and where, and what it becomes."""

from __future__ import annotations

import pytest

from headrace.model.security import MtlsMode


def document(spec: str, namespace: str = "default", version: str = "v1") -> str:
    return (
        f"apiVersion: security.istio.io/{version}\nkind: PeerAuthentication\n"
        f"metadata: {{name: p, namespace: {namespace}}}\nspec: {{{spec}}}\n"
    )


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_a_mode_is_read_in_every_version(judge, version):
    verdict = judge(document("mtls: {mode: STRICT}", version=version))
    assert verdict.problems == ()
    assert (verdict.resource.mode, verdict.resource.selector) == (MtlsMode.STRICT, {})


def test_ports_and_selector_are_lowered(judge):
    verdict = judge(document("selector: {matchLabels: {b: c, a: b}}, portLevelMtls: {9000: {}, '80': {mode: DISABLE}}"))
    assert verdict.problems == ()
    assert list(verdict.resource.selector.items()) == [("a", "b"), ("b", "c")]
    assert verdict.resource.mode is MtlsMode.UNSET
    assert verdict.resource.port_modes == ((80, MtlsMode.DISABLE), (9000, MtlsMode.UNSET))


REJECTED = {
    "mode": ("mtls: {mode: ALWAYS}", "spec.mtls.mode", "one of its values"),
    "ports without a selector": ("portLevelMtls: {80: {mode: STRICT}}", "spec.portLevelMtls", "needs a selector"),
    "no ports": ("selector: {matchLabels: {a: b}}, portLevelMtls: {}", "spec.portLevelMtls", "at least one port"),
    "port 0": ("selector: {matchLabels: {a: b}}, portLevelMtls: {0: {}}", "spec.portLevelMtls", "out of range"),
    "wildcard": ("selector: {matchLabels: {a: 'b*'}}", "spec.selector.matchLabels.a", "wildcards"),
    "unknown field": ("mtls: {mod: STRICT}", "spec.mtls.mod", "unknown field"),
}


@pytest.mark.parametrize(("spec", "field", "message"), REJECTED.values(), ids=REJECTED.keys())
def test_rejected(judge, spec, field, message):
    verdict = judge(document(spec))
    assert verdict.resource is None
    assert field in [problem.field for problem in verdict.errors], verdict.errors
    assert any(message in problem.message for problem in verdict.errors), verdict.errors


def test_a_selector_in_the_root_namespace_has_no_effect(judge):
    verdict = judge(document("selector: {matchLabels: {a: b}}, mtls: {mode: STRICT}", "istio-system"))
    assert verdict.codes == [("HR0002", "spec.selector")]


def test_an_empty_selector_is_warned_of(judge):
    assert judge(document("selector: {}, mtls: {mode: STRICT}")).codes == [("IST0133", "spec.selector")]
