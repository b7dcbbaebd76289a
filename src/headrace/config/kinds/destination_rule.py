"""DestinationRule (networking.istio.io): how calls to a service are made, and its subsets.

Lowered to `model.destination.DestinationRule`. The rules are Istio's (ValidateDestinationRule).
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import model_validator

from headrace.config.documents import Document
from headrace.config.fields import LabelMap, Text, shown
from headrace.config.kinds.http_fields import check_subset_name
from headrace.config.kinds.istio_names import WildcardName, export_findings, selector_findings
from headrace.config.kinds.traffic_policy import TrafficPolicySpec, lower_policy, policy_findings
from headrace.config.schema import Finding, Kind, Spec
from headrace.model.destination import DestinationRule, Subset
from headrace.model.names import resolve_host
from headrace.model.resource import Metadata


class SelectorSpec(Spec):
    """istio.type.v1beta1.WorkloadSelector."""

    match_labels: dict[Text, Text] = {}


class SubsetSpec(Spec):
    """Subset."""

    name: Text
    labels: LabelMap = {}
    traffic_policy: TrafficPolicySpec | None = None

    @model_validator(mode="after")
    def _name(self) -> SubsetSpec:
        check_subset_name(self.name, ("name",))
        return self


class DestinationRuleSpec(Spec):
    """DestinationRule."""

    host: WildcardName
    traffic_policy: TrafficPolicySpec | None = None
    subsets: list[SubsetSpec] = []
    export_to: list[Text] = []
    workload_selector: SelectorSpec | None = None


def _check(spec: DestinationRuleSpec, document: Document) -> Iterator[Finding]:
    namespace = document.namespace
    if spec.traffic_policy is not None:
        yield from policy_findings(spec.traffic_policy, namespace, ("spec", "trafficPolicy"))
    known: set[str] = set()
    for at, subset in enumerate(spec.subsets):
        if subset.name in known:
            message = f"subset {shown(subset.name)} is declared twice"
            yield Finding(("spec", "subsets", at, "name"), message, "Rename one.")
        known.add(subset.name)
        if subset.traffic_policy is not None:
            path = ("spec", "subsets", at, "trafficPolicy")
            yield from policy_findings(subset.traffic_policy, namespace, path)
    yield from export_findings(spec.export_to, namespace)
    if spec.workload_selector is not None:
        yield from selector_findings(spec.workload_selector.match_labels, ("spec", "workloadSelector", "matchLabels"))
        if any(scope not in (".", namespace) for scope in spec.export_to):
            message = "a rule with a workloadSelector stays in its own namespace"
            yield Finding(("spec", "exportTo"), message, "Take exportTo out, or write '.'.")


def _lower(meta: Metadata, spec: DestinationRuleSpec, document: Document) -> DestinationRule:
    return DestinationRule(
        meta=meta,
        host=resolve_host(spec.host, meta.namespace),
        policy=lower_policy(spec.traffic_policy),
        subsets=tuple(
            Subset(subset.name, tuple(sorted(subset.labels.items())), lower_policy(subset.traffic_policy))
            for subset in spec.subsets
        ),
        export_to=tuple(spec.export_to),
        workload_selector=spec.workload_selector.match_labels if spec.workload_selector else None,
    )


KIND = Kind(
    group="networking.istio.io",
    versions=("v1", "v1beta1", "v1alpha3"),
    name="DestinationRule",
    model=DestinationRuleSpec,
    lower=_lower,
    check=_check,
)
