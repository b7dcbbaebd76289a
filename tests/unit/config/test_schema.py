"""The engine of kinds: exact lines, plain messages, null, both spellings, unknown kinds and versions, metadata."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import pytest
from pydantic import Field

from headrace.config.documents import Document, read_text
from headrace.config.fields import Bool, Int32, Text
from headrace.config.schema import Finding, Kind, Spec, Validated, refuse, to_camel, validate, validate_as
from headrace.model.problem import Problem, Severity
from headrace.model.resource import Metadata, ResourceKey


class Leaf(Spec):
    weight: Int32
    is_open: Bool = False
    set: dict[str, Text] = {}


class Body(Spec):
    leaves: list[Leaf] = []
    other: Leaf | None = None
    enable_64bit_id: Bool = False
    filled: Annotated[list[Text], Field(min_length=1)] = ["x"]


def lower(meta: Metadata, spec: Body, document: Document) -> tuple[Metadata, Body]:
    return meta, spec


def check(spec: Body, document: Document) -> list[Finding]:
    return [Finding(("spec", "leaves", 0, "weight"), "is thirteen", "Use luck.")] if _thirteen(spec) else []


def _thirteen(spec: Body) -> bool:
    return bool(spec.leaves) and spec.leaves[0].weight == 13


TREE: Kind[Body] = Kind(
    group="test.dev",
    versions=("v1",),
    name="Tree",
    model=Body,
    lower=lower,
    check=check,
    untranslated=("spec.leaves[].isOpen", "spec.leaves[].set.*"),
    without_effect=("spec.other",),
)


def tree(spec: str, metadata: str = "{name: oak}") -> Validated:
    (document,) = read_text(
        f"apiVersion: test.dev/v1\nkind: Tree\nmetadata: {metadata}\n{spec}", "t.yaml", "s"
    ).documents
    return validate_as(TREE, document)


def said(problem: Problem) -> tuple[int, str, str, str, str]:
    return problem.line, problem.code, problem.field, problem.message, problem.remedy


def only(result: Validated) -> tuple[int, str, str, str, str]:
    (problem,) = (item for item in result.problems if item.severity is Severity.ERROR)
    return said(problem)


def test_a_good_document_is_lowered_with_its_metadata() -> None:
    result = tree("spec: {leaves: [{weight: 1}]}", "{name: oak, namespace: wood, labels: {b: '1', a: ''}}")
    meta, spec = result.resource
    assert result.problems == ()
    assert result.key == meta.key == ResourceKey("test.dev/Tree", "wood", "oak")
    assert list(meta.labels.items()) == [("a", ""), ("b", "1")]
    assert (meta.origin.file, meta.origin.line, meta.origin.source) == ("t.yaml", 1, "s")
    assert spec.leaves[0].weight == 1


def test_an_unknown_field_is_named_with_its_line_and_what_was_meant() -> None:
    assert only(tree("spec:\n  leaves:\n  - weight: 1\n    isOpne: true\n")) == (
        7,
        "IST0106",
        "spec.leaves[0].isOpne",
        "unknown field 'isOpne'",
        "Did you mean 'isOpen'?",
    )
    assert only(tree("spec:\n  zzz: 1\n"))[3:] == (
        "unknown field 'zzz'",
        "Fields here are enable64bitId, filled, leaves, other.",
    )


def test_a_missing_field_stands_at_the_line_of_its_parent() -> None:
    assert only(tree("spec:\n  leaves:\n  - weight: 1\n  - isOpen: false\n"))[:4] == (
        7,
        "IST0106",
        "spec.leaves[1].weight",
        "'weight' is required",
    )


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("leaves: 1", "must be a list"),
        ("leaves: [1]", "must be a mapping of fields"),
        ("leaves: [null]", "must be a mapping of fields"),
        ("leaves: [{weight: 1, set: []}]", "must be a mapping"),
        ("leaves: [{weight: x}]", "'x' is not a whole number"),
        ("leaves: [{weight: true}]", "True is not a whole number"),
        ("leaves: [{weight: 1, isOpen: 1}]", "1 is neither true nor false"),
        ("leaves: [{weight: 1, set: {a: 1}}]", "1 is not a text"),
        ("leaves: [{weight: 1, set: {a: null}}]", "None is not a text"),
        ("filled: []", "needs at least one item"),
    ],
)
def test_wrong_types_are_said_in_plain_words(written: str, message: str) -> None:
    line, code, _, found, _ = only(tree(f"spec:\n  {written}\n"))
    assert (line, code, found) == (5, "IST0106", message)


@pytest.mark.parametrize("weight", ["7", "'7'", "7.0"])
def test_numbers_may_be_written_as_protobuf_allows(weight: str) -> None:
    assert tree(f"spec: {{leaves: [{{weight: {weight}}}]}}").resource[1].leaves[0].weight == 7


def test_null_means_not_written() -> None:
    spec = tree("spec: {leaves: null, other: null}").resource[1]
    assert (spec.leaves, spec.other, spec.model_fields_set) == ([], None, set())


def test_both_spellings_of_a_field_are_read() -> None:
    assert tree("spec: {enable_64bit_id: true}").resource[1].enable_64bit_id
    assert tree("spec: {enable64bitId: true}").resource[1].enable_64bit_id
    result = tree("spec:\n  leaves:\n  - weight: 1\n    is_open: 3\n")
    assert only(result)[:3] == (7, "IST0106", "spec.leaves[0].is_open")


@pytest.mark.parametrize(
    ("python", "json"),
    [("consecutive_5xx_errors", "consecutive5xxErrors"), ("k8s_sa_jwt_path", "k8sSaJwtPath"), ("from_", "from")],
)
def test_json_names_are_protobufs(python: str, json: str) -> None:
    assert to_camel(python) == json


def test_findings_of_a_kind_keep_the_document_out() -> None:
    result = tree("spec:\n  leaves:\n  - weight: 13\n")
    assert result.resource is None
    assert said(result.problems[0]) == (6, "IST0106", "spec.leaves[0].weight", "is thirteen", "Use luck.")


def test_fields_without_translation_or_effect_are_warnings() -> None:
    result = tree("spec:\n  leaves:\n  - weight: 1\n    isOpen: true\n    set: {a.b/c: x}\n  other: {weight: 1}\n")
    assert result.resource is not None
    assert [(item.line, item.code, item.severity, item.field) for item in result.problems] == [
        (7, "HR0001", Severity.WARNING, "spec.leaves[0].isOpen"),
        (8, "HR0001", Severity.WARNING, 'spec.leaves[0].set["a.b/c"]'),
        (9, "HR0002", Severity.WARNING, "spec.other"),
    ]
    assert tree("spec: {other: null, leaves: []}").problems == ()


def test_every_error_of_a_document_is_reported_at_once() -> None:
    result = tree("spec:\n  leaves:\n  - weight: x\n  - weight: y\n  no: 1\n", "{name: Oak, labels: {a b: c}}")
    assert [problem.line for problem in result.problems] == [3, 3, 6, 7, 8]


def test_a_validator_of_a_model_can_point_into_it() -> None:
    error = refuse("wrong {x}", "Do {y}.", at=("weight",))
    assert (error.context or {})["at"] == ("weight",)
    assert error.message() == "wrong {x}"


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ("{}", "metadata.name"),
        ("[]", "metadata"),
        ("null", "metadata"),
        ("{name: ''}", "metadata.name"),
        ("{name: 5}", "metadata.name"),
        ("{name: Oak}", "metadata.name"),
        (f"{{name: {'a' * 254}}}", "metadata.name"),
        ("{name: oak, namespace: a.b}", "metadata.namespace"),
        ("{name: oak, namespace: 5}", "metadata.namespace"),
        ("{name: oak, label: {}}", "metadata.label"),
        ("{name: oak, labels: []}", "metadata.labels"),
        ("{name: oak, labels: {a: 1}}", "metadata.labels.a"),
        ("{name: oak, labels: {a: 'b c'}}", "metadata.labels.a"),
        ("{name: oak, labels: {'-a': b}}", "metadata.labels.-a"),
        ("{name: oak, annotations: {'a/b/c': b}}", 'metadata.annotations["a/b/c"]'),
        ("{name: oak, annotations: {a: true}}", "metadata.annotations.a"),
        ("{name: oak, creationTimestamp: yesterday}", "metadata.creationTimestamp"),
    ],
)
def test_metadata_is_judged_by_kubernetes_rules(metadata: str, field: str) -> None:
    result = tree("spec: {}", metadata)
    assert result.resource is None
    assert [(problem.line, problem.field) for problem in result.problems] == [(3, field)]


def test_the_namespace_is_default_and_nothing_is_older_than_what_says_no_age() -> None:
    meta = tree("spec: {}").resource[0]
    assert meta.namespace == "default"
    assert meta.origin.created == ""
    dated = tree("spec: {}", "{name: oak, creationTimestamp: 2026-01-31T12:00:00Z}").resource[0]
    assert dated.origin.created == "2026-01-31T12:00:00.000000+00:00"


@pytest.mark.parametrize(
    ("text", "code", "severity", "field"),
    [
        ("{kind: Service, metadata: {name: a}}", "IST0106", Severity.ERROR, "apiVersion"),
        ("{apiVersion: v1, metadata: {name: a}}", "IST0106", Severity.ERROR, "kind"),
        ("{apiVersion: v1, kind: [Service]}", "IST0106", Severity.ERROR, "kind"),
        ("{apiVersion: v2, kind: Service, metadata: {name: a}}", "IST0106", Severity.ERROR, "apiVersion"),
        ("{apiVersion: networking.istio.io/v7, kind: Gateway}", "IST0106", Severity.ERROR, "apiVersion"),
        ("{apiVersion: security.istio.io/v1, kind: VirtualService}", "IST0106", Severity.ERROR, "apiVersion"),
        ("{apiVersion: gateway.networking.k8s.io/v1, kind: UDPRoute}", "HR0001", Severity.WARNING, "kind"),
        ("{apiVersion: apps/v1, kind: ControllerRevision}", "HR0001", Severity.WARNING, "kind"),
        ("{apiVersion: v1, kind: PodTemplate}", "HR0001", Severity.WARNING, "kind"),
        ("{apiVersion: skaffold/v2, kind: Config}", "HR0002", Severity.WARNING, "kind"),
        ("{apiVersion: v1, kind: Servic}", "HR0003", Severity.ERROR, "kind"),
        ("{apiVersion: cert-manager.io/v1, kind: Issuer}", "HR0002", Severity.WARNING, "kind"),
        ("{apiVersion: networking.istio.io/v1, kind: VirtualServce}", "HR0003", Severity.ERROR, "kind"),
        ("{apiVersion: headrace.dev/v1alpha1, kind: Turbine}", "HR0003", Severity.ERROR, "kind"),
    ],
)
def test_kinds_that_are_not_read_are_never_silent(text: str, code: str, severity: Severity, field: str) -> None:
    (document,) = read_text(text, "t.yaml", "s").documents
    result = validate(document)
    assert result.resource is None
    assert [(item.code, item.severity, item.field, item.line) for item in result.problems] == [
        (code, severity, field, 1)
    ]


def test_every_kind_in_the_registry_describes_itself() -> None:
    from headrace.config.kinds import MODULES, kind_named

    for group, name in MODULES:
        kind = kind_named(group, name)
        assert kind is not None
        assert (kind.group, kind.name) == (group, name)
        assert kind.versions
        assert kind.model.model_config["extra"] in ("forbid", "ignore")
        assert kind.model.model_config["strict"]


def test_a_fault_of_ours_in_one_kind_is_a_problem_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(meta: Metadata, spec: Body, document: Document) -> object:
        raise KeyError("hidden")

    kind = dataclasses.replace(TREE, lower=broken)
    monkeypatch.setattr("headrace.config.kinds.find_kind", lambda document: (kind, None))
    (document,) = read_text(
        "apiVersion: test.dev/v1\nkind: Tree\nmetadata: {name: oak}\nspec: {}\n", "t.yaml", "s"
    ).documents
    result = validate(document)
    assert (result.resource, [problem.code for problem in result.problems]) == (None, ["IST0001"])
    assert "hidden" not in result.problems[0].as_line()
