"""Kubernetes' controllers of Pods (Deployment, StatefulSet, ...) as descriptions of the workload in their template.

Nothing is started for them. `headrace translate --proxy sidecar/NS/NAME` gives the proxy that their Pods have, analysis
and the identities behind a Service read their labels and service accounts. Of their specification only the template
counts here, and the selector, which Kubernetes wants to fit it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from headrace.config.documents import Document, Path
from headrace.config.fields import LabelMap, shown
from headrace.config.kinds.pod import Lenient, PodSpec, described, pod_findings
from headrace.config.schema import Finding, Kind
from headrace.model.resource import Metadata, selects
from headrace.model.workload import StaticWorkload

TEMPLATE: Path = ("spec", "template")


class TemplateMetadata(Lenient):
    """The metadata of a Pod to be."""

    labels: LabelMap = {}
    annotations: dict[str, str] = {}


class TemplateSpec(Lenient):
    """core/v1 PodTemplateSpec."""

    metadata: TemplateMetadata = TemplateMetadata()
    spec: PodSpec


class SelectorSpec(Lenient):
    """meta/v1 LabelSelector."""

    match_labels: LabelMap = {}


class ControllerSpec(Lenient):
    """apps/v1 DeploymentSpec and its like; batch/v1 JobSpec, whose selector Kubernetes writes itself."""

    selector: SelectorSpec | None = None
    template: TemplateSpec


class AppSpec(ControllerSpec):
    """The kinds of apps/v1: a selector is required."""

    selector: SelectorSpec


class ReplicationSpec(Lenient):
    """core/v1 ReplicationControllerSpec: the selector is a map of labels."""

    selector: LabelMap = {}
    template: TemplateSpec


class JobTemplate(Lenient):
    """batch/v1 JobTemplateSpec."""

    spec: ControllerSpec


class CronSpec(Lenient):
    """batch/v1 CronJobSpec."""

    job_template: JobTemplate


def _check(spec: ControllerSpec, document: Document) -> Iterator[Finding]:
    selector = spec.selector.match_labels if spec.selector is not None else {}
    yield from _template_findings(spec.template, selector, ("spec", "selector", "matchLabels"), TEMPLATE)


def _check_replication(spec: ReplicationSpec, document: Document) -> Iterator[Finding]:
    yield from _template_findings(spec.template, spec.selector, ("spec", "selector"), TEMPLATE)


def _check_cron(spec: CronSpec, document: Document) -> Iterator[Finding]:
    yield from pod_findings(spec.job_template.spec.template.spec, ("spec", "jobTemplate", *TEMPLATE, "spec"))


def _template_findings(
    template: TemplateSpec, selector: Mapping[str, str], at: Path, template_at: Path
) -> Iterator[Finding]:
    if not selects(selector, template.metadata.labels):
        missing = next(name for name, value in selector.items() if template.metadata.labels.get(name) != value)
        message = (
            f"the selector does not select its own Pods: the template lacks {shown(f'{missing}={selector[missing]}')}"
        )
        yield Finding((*at, missing), message, "Give the template's labels and the selector the same values.")
    yield from pod_findings(template.spec, (*template_at, "spec"))


def _lower(meta: Metadata, spec: ControllerSpec | ReplicationSpec, document: Document) -> StaticWorkload:
    return _of_template(meta, spec.template)


def _lower_cron(meta: Metadata, spec: CronSpec, document: Document) -> StaticWorkload:
    return _of_template(meta, spec.job_template.spec.template)


def _of_template(meta: Metadata, template: TemplateSpec) -> StaticWorkload:
    labels = dict(sorted(template.metadata.labels.items()))
    return described(meta, labels, template.metadata.annotations, template.spec)


def _app(name: str) -> Kind[Any]:
    versions = ("v1", "v1beta2", "v1beta1")
    return Kind(group="apps", versions=versions, name=name, model=AppSpec, lower=_lower, check=_check)


KINDS: tuple[Kind[Any], ...] = (
    _app("Deployment"),
    _app("StatefulSet"),
    _app("DaemonSet"),
    _app("ReplicaSet"),
    Kind(group="batch", versions=("v1",), name="Job", model=ControllerSpec, lower=_lower, check=_check),
    Kind(
        group="batch", versions=("v1", "v1beta1"), name="CronJob", model=CronSpec, lower=_lower_cron, check=_check_cron
    ),
    Kind(
        group="",
        versions=("v1",),
        name="ReplicationController",
        model=ReplicationSpec,
        lower=_lower,
        check=_check_replication,
    ),
)
