"""Whom a policy is for: `selector`, `targetRef` or `targetRefs`, one of them at most.

Shared by all kinds that are attached to workloads. The rules are Istio's (validatePolicyTargetReference,
validateOneOfSelectorType) and those of its CRDs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from headrace.config.documents import Path
from headrace.config.fields import Text, shown
from headrace.config.kinds.istio_names import selector_findings, set_fields, spelled
from headrace.config.schema import NO_EFFECT, NOT_SUPPORTED, Finding, Spec
from headrace.model.policy import GATEWAY_GROUP, PolicyScope, PolicyTarget
from headrace.model.problem import Severity

DRY_RUN = "istio.io/dry-run"
"""Annotation of an AuthorizationPolicy that only reports."""
MAX_TARGETS = 16
"""Most targetRefs of one policy (the CRD's bound)."""
_ALLOWED = {
    ("", "Service"),
    ("networking.istio.io", "ServiceEntry"),
    (GATEWAY_GROUP, "Gateway"),
    (GATEWAY_GROUP, "GatewayClass"),
}


class SelectorSpec(Spec):
    """istio.type.v1beta1.WorkloadSelector."""

    match_labels: dict[Text, Text] = {}


class TargetRefSpec(Spec):
    """istio.type.v1beta1.PolicyTargetReference."""

    group: Text = ""
    kind: Text = ""
    name: Text = ""
    namespace: Text = ""


class ScopedSpec(Spec):
    """The fields that say whom a policy is for."""

    selector: SelectorSpec | None = None
    target_ref: TargetRefSpec | None = None
    target_refs: Annotated[list[TargetRefSpec], Field(max_length=MAX_TARGETS)] = []


def scope_findings(spec: ScopedSpec) -> Iterator[Finding]:
    """Judge a policy's scope; the body is `spec`."""
    found = [name for name in set_fields(spec, "selector", "target_ref", "target_refs") if getattr(spec, name) != []]
    if len(found) > 1:
        both = " and ".join(spelled(spec, name) for name in found)
        yield Finding(("spec", spelled(spec, found[1])), f"{both} exclude each other", "Keep one of them.")
    if spec.selector is not None:
        yield from selector_findings(spec.selector.match_labels, ("spec", "selector", "matchLabels"))
    if spec.target_ref is not None:
        yield from _target_findings(spec.target_ref, ("spec", "targetRef"))
    yield from targets_findings(spec.target_refs)


def targets_findings(targets: Iterable[TargetRefSpec], *, any_kind: bool = False) -> Iterator[Finding]:
    """Judge `targetRefs`; `any_kind`: Istio does not look at their kinds, and what it does not know is for nobody."""
    for at, target in enumerate(targets):
        for finding in _target_findings(target, ("spec", "targetRefs", at)):
            unknown = any_kind and finding.path[-1] == "kind"
            yield replace(finding, code=NO_EFFECT, severity=Severity.WARNING) if unknown else finding


def _target_findings(target: TargetRefSpec, path: Path) -> Iterator[Finding]:
    if not target.name:
        yield Finding((*path, "name"), "a target needs a name", "Add name.")
    elif len(target.name) > 253:
        yield Finding((*path, "name"), "is longer than 253 characters")
    if target.namespace:
        message = "a policy cannot name a target of another namespace"
        yield Finding((*path, "namespace"), message, "Take it out, and put the policy into the target's namespace.")
    group = "" if target.group == "core" else target.group
    if (group, target.kind) not in _ALLOWED:
        message = f"{shown(target.kind)} of the group {shown(target.group)} is nothing that a policy can be for"
        remedy = f"Use Gateway (group {GATEWAY_GROUP}); ServiceEntry is of networking.istio.io, Service of no group."
        yield Finding((*path, "kind"), message, remedy)
    elif target.kind != "Gateway":
        message = f"policies for a {target.kind} need waypoint proxies, which are not supported yet: it is for nobody"
        yield Finding(path, message, "Use a selector, or a Gateway.", NOT_SUPPORTED, Severity.WARNING)


def lower_scope(spec: ScopedSpec) -> PolicyScope:
    """The scope of a valid policy."""
    targets = spec.target_refs or ([spec.target_ref] if spec.target_ref is not None else [])
    labels = spec.selector.match_labels if spec.selector else {}
    return PolicyScope(tuple(sorted(labels.items())), lower_targets(targets))


def lower_targets(targets: Iterable[TargetRefSpec]) -> tuple[PolicyTarget, ...]:
    """`targetRefs` of a valid policy."""
    return tuple(PolicyTarget("" if item.group == "core" else item.group, item.kind, item.name) for item in targets)
