"""RequestAuthentication: what is accepted, what is refused and where, and what it becomes."""

from __future__ import annotations

import json

import pytest

from headrace.model.request_authentication import JwtRule

X, Y = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"
EC = {"kty": "EC", "crv": "P-256", "x": X, "y": Y}
"""The public key of RFC 7515's appendix A.3."""


def document(rule: str, annotations: str = "", version: str = "v1") -> str:
    return (
        f"apiVersion: security.istio.io/{version}\nkind: RequestAuthentication\n"
        f"metadata: {{name: p, annotations: {{{annotations}}}}}\nspec: {{jwtRules: [{{{rule}}}]}}\n"
    )


def keys(*found: object) -> str:
    return f"issuer: i, jwks: '{json.dumps({'keys': found})}'"


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_a_rule_is_lowered(judge, version):
    rule = (
        "issuer: i, audiences: [a], jwksUri: 'https://i.example/k', fromHeaders: [{name: x, prefix: 'B '}, {name: y}], "
        "fromParams: [t], fromCookies: [c], forwardOriginalToken: true, outputPayloadToHeader: x-p, timeout: 2s, "
        "outputClaimToHeaders: [{header: x-c, claim: sub}], spaceDelimitedClaims: [roles], "
        "presence: REQUIRED"
    )
    verdict = judge(document(rule, version=version))
    assert verdict.problems == ()
    assert verdict.resource.rules == (
        JwtRule(
            "i", ("a",), "", "https://i.example/k", "", (("x", "B "), ("y", "")), ("t",), ("c",), True, "x-p",
            (("x-c", "sub"),), ("roles",), 2.0, True,
        ),
    )  # fmt: skip


def test_a_single_key_becomes_a_set(judge):
    verdict = judge(document(f"issuer: i, jwks: '{json.dumps(EC)}'"))
    assert verdict.problems == ()
    assert json.loads(verdict.resource.rules[0].jwks) == {"keys": [EC]}
    assert X not in repr(verdict.resource)


REJECTED = {
    "no issuer": ("audiences: [a]", ""),
    "empty audience": ("issuer: i, audiences: ['']", ".audiences[0]"),
    "jwks and uri": (keys(EC) + ", jwksUri: 'https://i.example'", ".jwks"),
    "uri scheme": ("issuer: i, jwksUri: 'ftp://i.example'", ".jwksUri"),
    "file uri": ("issuer: i, jwksUri: 'file:///etc/keys'", ".jwksUri"),
    "uri without host": ("issuer: i, jwksUri: 'https:///keys'", ".jwksUri"),
    "uri with a wrong port": ("issuer: i, jwksUri: 'https://i:port/'", ".jwksUri"),
    "jwks that is no JSON": ("issuer: i, jwks: '{'", ".jwks"),
    "jwks that is a list": ("issuer: i, jwks: '[]'", ".jwks"),
    "keys that are no list": ("issuer: i, jwks: '{\"keys\": 1}'", ".jwks"),
    "key without type": (keys({"n": "x"}), ".jwks"),
    "key without modulus": (keys({"kty": "RSA", "e": "AQAB"}), ".jwks"),
    "key that is not base64": (keys({"kty": "RSA", "e": "AQAB", "n": "+/"}), ".jwks"),
    "header without name": ("issuer: i, fromHeaders: [{prefix: x}]", ".fromHeaders[0].name"),
    "header name": ("issuer: i, fromHeaders: [{name: 'a b'}]", ".fromHeaders[0].name"),
    "empty parameter": ("issuer: i, fromParams: ['']", ".fromParams[0]"),
    "empty cookie": ("issuer: i, fromCookies: ['']", ".fromCookies[0]"),
    "claim without header": ("issuer: i, outputClaimToHeaders: [{claim: a}]", ".outputClaimToHeaders[0].header"),
    "claim to a pseudo header": (
        "issuer: i, outputClaimToHeaders: [{header: ':path', claim: a}]",
        ".outputClaimToHeaders[0].header",
    ),
    "timeout": ("issuer: i, timeout: 0s", ".timeout"),
    "unknown field": ("issuer: i, jwksURL: x", ".jwksURL"),
}


@pytest.mark.parametrize(("rule", "field"), REJECTED.values(), ids=REJECTED.keys())
def test_rejected(judge, rule, field):
    verdict = judge(document(rule))
    assert verdict.resource is None
    wanted = f"spec.jwtRules[0]{field}"
    found = [problem.field for problem in verdict.errors]
    assert any(place.startswith(wanted) for place in found), [problem.as_line() for problem in verdict.errors]


def test_a_broken_key_set_is_not_shown(judge):
    verdict = judge(document('issuer: i, jwks: \'{"keys": [{"kty": "oct", "k": "s3cr3t+"}]}\''))
    assert verdict.errors
    assert "s3cr3t" not in str([problem.as_line() for problem in verdict.errors])


SECRET = {"kty": "oct", "alg": "HS256", "k": "AAAA"}


@pytest.mark.parametrize("key", [{**EC, "d": "AAAA"}, SECRET], ids=["private", "symmetric"])
def test_keys_that_should_not_be_here_are_warned_of(judge, key):
    assert judge(document(keys(EC, key))).codes == [("IST0133", "spec.jwtRules[0].jwks")]


UNUSABLE = {
    "none at all": [],
    "not on its curve": [{**EC, "y": X}],
    "curve that nobody uses": [{**EC, "crv": "P-1"}],
    "algorithm of another type": [{**EC, "alg": "RS256"}],
    "short": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}],
    "Ed25519 of a wrong length": [{"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}],
}


@pytest.mark.parametrize("found", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_a_set_that_verifies_nothing_refuses_every_token_and_is_warned_of(judge, found):
    """Envoy would refuse the listener."""
    verdict = judge(document(keys(*found)))
    assert ("IST0133", "spec.jwtRules[0].jwks") in verdict.codes
    assert verdict.resource.rules[0].jwks == ""
    assert judge(document(keys(EC, *found))).resource.rules[0].jwks != ""


def test_without_keys_nobody_is_believed_and_a_file_can_bring_them(judge):
    assert judge(document("issuer: i")).codes == [("HR0001", "spec.jwtRules[0]")]
    annotated = "headrace.dev/jwks-file: /etc/keys.json"
    verdict = judge(document("issuer: i", annotated))
    assert (verdict.problems, verdict.resource.rules[0].jwks_file) == ((), "/etc/keys.json")
    place = 'metadata.annotations["headrace.dev/jwks-file"]'
    assert judge(document(keys(EC), annotated)).codes == [("HR0002", place)]
    assert judge(document("issuer: i", "headrace.dev/jwks-file: keys.json")).errors[0].field == place


def test_dry_run_is_for_authorization(judge):
    assert judge(document(keys(EC), 'istio.io/dry-run: "true"')).errors
