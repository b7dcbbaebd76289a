"""MeshConfig: Istio's file as it is, inside its ConfigMap, and as a document."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.config.mesh_config import read_mesh_config
from headrace.config.schema import Validated, validate
from headrace.model.mesh import MeshConfig, OutboundMode
from headrace.model.traffic import Retries


def judge(path: Path, text: str) -> Validated:
    path.write_text(text)
    result = read_mesh_config(path)
    assert result.problems == ()
    (document,) = result.documents
    return validate(document)


FIELDS = """\
trustDomain: example.org
trustDomainAliases: [old.example.org]
rootNamespace: root
outboundTrafficPolicy: {mode: REGISTRY_ONLY}
connectTimeout: 2s
enableAutoMtls: false
accessLogFile: /dev/stdout
accessLogEncoding: JSON
accessLogFormat: '{"code": "%RESPONSE_CODE%"}'
defaultHttpRetryPolicy: {attempts: 3, perTryTimeout: 1s}
defaultVirtualServiceExportTo: ["."]
localityLbSetting: {enabled: false}
tlsDefaults: {minProtocolVersion: TLSV1_3}
"""


def check(mesh: MeshConfig) -> None:
    assert (mesh.trust_domain, mesh.trust_domain_aliases, mesh.root_namespace) == (
        "example.org",
        ("old.example.org",),
        "root",
    )
    assert mesh.outbound_mode is OutboundMode.REGISTRY_ONLY
    assert (mesh.connect_timeout, mesh.enable_auto_mtls, mesh.locality.enabled) == (2.0, False, False)
    assert (mesh.access_log_file, mesh.access_log_encoding) == ("/dev/stdout", "JSON")
    assert mesh.default_http_retry == Retries(attempts=3, per_try_timeout=1.0)
    assert mesh.default_virtual_service_export_to == (".",)
    assert mesh.default_service_export_to == ("*",)
    assert mesh.tls_min_version == "TLSV1_3"


def test_a_file_of_bare_fields(tmp_path: Path) -> None:
    result = judge(tmp_path / "mesh.yaml", FIELDS)
    assert [problem.as_line() for problem in result.problems] == []
    check(result.resource)


def test_a_document(tmp_path: Path) -> None:
    spec = "".join(f"  {line}\n" for line in FIELDS.splitlines())
    head = "apiVersion: headrace.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: mesh}\nspec:\n"
    check(judge(tmp_path / "mesh.yaml", head + spec).resource)


def test_istios_config_map_with_lines_of_the_file(tmp_path: Path) -> None:
    head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio}\ndata:\n  mesh: |-\n"
    check(judge(tmp_path / "a.yaml", head + "".join(f"    {line}\n" for line in FIELDS.splitlines())).resource)
    result = judge(tmp_path / "b.yaml", head + "    trustDomain: a\n    trustDomian: b\n")
    assert [(problem.line, problem.message) for problem in result.problems] == [(7, "unknown field 'trustDomian'")]


def test_an_empty_spec_is_istios_defaults(tmp_path: Path) -> None:
    mesh = judge(tmp_path / "mesh.yaml", "trustDomain: null\n").resource
    fields = (
        "trust_domain",
        "root_namespace",
        "outbound_mode",
        "connect_timeout",
        "enable_auto_mtls",
        "tls_min_version",
    )
    assert [getattr(mesh, name) for name in fields] == [getattr(MeshConfig(), name) for name in fields]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("mixerAddress: x", "spec.mixerAddress"),
        ("connectTimeout: 2h", "spec.connectTimeout"),
        ("trustDomain: UPPER", "spec.trustDomain"),
        ("outboundTrafficPolicy: {mode: ANY}", "spec.outboundTrafficPolicy.mode"),
        ("accessLogEncoding: JSON\naccessLogFormat: '%CODE%'", "spec.accessLogFormat"),
        ("defaultServiceExportTo: ['a.b']", "spec.defaultServiceExportTo[0]"),
        ("rootNamespace: a.b", "spec.rootNamespace"),
        ("serviceSettings: [{hosts: ['a.*.b']}]", "spec.serviceSettings[0].hosts[0]"),
        ("extensionProviders: [{name: a}]", "spec.extensionProviders[0]"),
        ("defaultConfig: {concurrency: -1}", "spec.defaultConfig.concurrency"),
        (
            "defaultConfig: {gatewayTopology: {numTrustedProxy: 1}}",
            "spec.defaultConfig.gatewayTopology.numTrustedProxy",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, field: str) -> None:
    result = judge(tmp_path / "mesh.yaml", text + "\n")
    assert result.resource is None
    assert field in [problem.field for problem in result.problems if problem.code == "IST0106"]


def test_what_is_known_but_not_done_is_said(tmp_path: Path) -> None:
    text = (
        "defaultConfig: {concurrency: 2, proxyHeaders: {server: {disabled: true}}}\n"
        "enablePrometheusMerge: true\n"
        "meshMTLS: {minProtocolVersion: TLSV1_2}\n"
        "outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS, tls: {mode: SIMPLE}}\n"
        "extensionProviders: [{name: a, opencensus: {service: otel.obs, port: 4317}}]\n"
    )
    result = judge(tmp_path / "mesh.yaml", text)
    assert result.resource is not None
    assert [(problem.line, problem.code) for problem in result.problems] == [
        (1, "HR0001"),
        (2, "HR0002"),
        (3, "HR0002"),
        (4, "HR0001"),
        (5, "HR0002"),
    ]


def test_a_file_that_is_no_mapping_or_missing_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("- 1\n")
    assert read_mesh_config(tmp_path / "a.yaml").problems
    assert read_mesh_config(tmp_path / "b.yaml").problems[0].message == "does not exist"
