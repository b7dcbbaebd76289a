"""HR0107 to HR0109 of credentials, HR0102, HR0103 and HR0002 where they are for ServiceEntries."""

from __future__ import annotations

import base64

import pytest
from tests.unit.config.analysis.conftest import Check

from headrace.model.problem import Problem

VALUE = "sk-4f1c9a7be2d05b16fc"
ENTRY = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api}
spec:
  hosts: [api.example]
  ports: [{name: web, number: 443, protocol: HTTP}]
  resolution: DNS
"""
RULE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: api}
spec: {host: api.example, trafficPolicy: {tls: {mode: SIMPLE}}}
"""
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: chat}
spec: {selector: {app: chat}, ports: [{name: http, port: 8000}]}
"""
TO_ENTRY = "{group: networking.istio.io, kind: ServiceEntry, name: api}"


def policy(name: str = "one", target: str = TO_ENTRY, key: str = "") -> str:
    return f"""
    apiVersion: headrace.dev/v1alpha1
    kind: InferencePolicy
    metadata: {{name: {name}}}
    spec: {{targetRefs: [{target}], credential: {{secretRef: {{name: api-key{key}}}}}}}
    """


def secret(*values: bytes, namespace: str = "default") -> str:
    data = ", ".join(f'k{at}: "{base64.b64encode(value).decode()}"' for at, value in enumerate(values))
    return f"""
    apiVersion: v1
    kind: Secret
    metadata: {{name: api-key, namespace: {namespace}}}
    data: {{{data}}}
    """


GOOD = secret(VALUE.encode())


def found(problems: list[Problem]) -> list[tuple[str, str, str]]:
    return [(item.code, item.name, item.field) for item in problems if item.code.startswith("HR")]


def test_a_credential_for_what_is_there_is_fine(check: Check) -> None:
    assert found(check(ENTRY, RULE, GOOD, policy())) == []
    assert found(check(SERVICE, GOOD, policy(target="{kind: Service, name: chat}"))) == []
    assert found(check(ENTRY, RULE, secret(b"a", b"b"), policy(key=", key: k1"))) == []


@pytest.mark.parametrize(
    ("documents", "reason"),
    [
        ((policy(),), "it is not there"),
        ((policy(), secret(VALUE.encode(), namespace="other")), "it is not there"),
        ((policy(key=", key: token"), GOOD), "it has no key token"),
        ((policy(), secret(b"a", b"b")), "it has 2 keys"),
        ((policy(), secret()), "it has 0 keys"),
        ((policy(), secret(VALUE.encode() + b"\n")), "a line end"),
        ((policy(), secret(VALUE.encode() + b"\r\nX-Admin: yes")), "a line end"),
        ((policy(), secret(VALUE.encode() + b"\x00")), "a control character"),
        ((policy(), secret(VALUE.encode() + b"\x7f")), "a control character"),
        ((policy(), secret(VALUE.encode() + "é".encode())), "beyond ASCII"),
        ((policy(), secret(b" " + VALUE.encode())), "begins or ends with a space"),
        ((policy(), secret(b"")), "is empty"),
        ((policy(), secret(b"a" * 16384)), "longer than 16384 bytes"),
    ],
)
def test_a_secret_that_cannot_be_used(check: Check, documents: tuple[str, ...], reason: str) -> None:
    problems = [item for item in check(ENTRY, RULE, *documents) if item.code == "HR0107"]
    assert len(problems) == 1
    assert reason in problems[0].message
    assert VALUE not in str(problems[0].as_json()) + problems[0].as_line() + repr(problems)


def test_an_entry_that_is_not_there(check: Check) -> None:
    assert found(check(GOOD, policy())) == [("HR0102", "one", "spec.targetRefs[0].name")]


def test_the_younger_of_two_for_an_entry_is_named(check: Check) -> None:
    assert found(check(ENTRY, RULE, GOOD, policy("b-second"), policy("a-first"))) == [
        ("HR0103", "b-second", "spec.targetRefs[0]")
    ]


def test_a_credential_in_clear_text(check: Check) -> None:
    assert found(check(ENTRY, GOOD, policy())) == [("HR0108", "one", "spec.credential")]
    plain = RULE.replace(
        "mode: SIMPLE}", "mode: SIMPLE}, portLevelSettings: [{port: {number: 443}, tls: {mode: DISABLE}}]"
    )
    assert found(check(ENTRY, plain, GOOD, policy())) == [("HR0108", "one", "spec.credential")]


@pytest.mark.parametrize(
    ("form", "codes"),
    [("%REQ(AUTHORIZATION)%", ["HR0109"]), ("%REQ(:PATH)% authorization: %RESPONSE_CODE%", []), ("", [])],
)
def test_a_credential_in_the_access_log(check: Check, form: str, codes: list[str]) -> None:
    mesh = f"""
    apiVersion: headrace.dev/v1alpha1
    kind: MeshConfig
    metadata: {{name: mesh}}
    spec: {{accessLogFile: /dev/stdout, accessLogFormat: "{form}"}}
    """
    assert [code for code, _, _ in found(check(ENTRY, RULE, GOOD, policy(), mesh))] == codes


def test_a_port_that_hides_its_headers(check: Check) -> None:
    hidden = ENTRY.replace("protocol: HTTP", "protocol: TLS")
    assert found(check(hidden, GOOD, policy())) == [("HR0002", "one", "spec.credential")]
    https = ENTRY.replace("protocol: HTTP", "protocol: HTTPS")
    assert found(check(https, GOOD, policy())) == [("HR0002", "one", "spec.credential")]
    assert found(check(https, RULE, GOOD, policy())) == []
