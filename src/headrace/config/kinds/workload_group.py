"""WorkloadGroup (networking.istio.io): what the machines of one kind have alike, as a description.

Istio makes a WorkloadEntry of the template when a machine registers itself with it. Hosts of Headrace join by token and
run Workload documents, so that nobody registers here (HR0002): the template stands for the proxy of such a machine
(`headrace translate`), for analysis, and for the identity behind the services that select it. The rules are Istio's
(ValidateWorkloadGroup), which leaves the template's address alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from headrace.config.documents import Document, Path
from headrace.config.fields import Choice, Count, LabelMap, Port, Text, shown
from headrace.config.kinds.istio_names import set_fields
from headrace.config.kinds.workload_entry import WorkloadEntrySpec, port_name_findings, static_workload, unix_findings
from headrace.config.schema import NO_EFFECT, Finding, Kind, Spec
from headrace.model.problem import Severity
from headrace.model.resource import Metadata
from headrace.model.workload import StaticWorkload

_METHODS = ("http_get", "tcp_socket", "exec", "grpc")
_HEADER = re.compile(r"[-_A-Za-z0-9]+")


class HeaderSpec(Spec):
    """HTTPHeader."""

    name: Text = ""
    value: Text = ""


class HttpProbeSpec(Spec):
    """HTTPHealthCheckConfig."""

    path: Text = ""
    port: Port
    host: Text = ""
    scheme: Annotated[str, Choice("", "HTTP", "HTTPS")] = ""
    http_headers: list[HeaderSpec] = []


class TcpProbeSpec(Spec):
    """TCPHealthCheckConfig."""

    host: Text = ""
    port: Port


class ExecProbeSpec(Spec):
    """ExecHealthCheckConfig."""

    command: Annotated[list[Text], Field(min_length=1)]


class GrpcProbeSpec(Spec):
    """GrpcHealthCheckConfig, which Istio's own validation refuses."""

    port: Port | None = None
    service: Text = ""


class ReadinessProbeSpec(Spec):
    """ReadinessProbe."""

    initial_delay_seconds: Count = 0
    timeout_seconds: Count = 0
    period_seconds: Count = 0
    success_threshold: Count = 0
    failure_threshold: Count = 0
    http_get: HttpProbeSpec | None = None
    tcp_socket: TcpProbeSpec | None = None
    exec: ExecProbeSpec | None = None
    grpc: GrpcProbeSpec | None = None


class GroupMetadataSpec(Spec):
    """WorkloadGroup.ObjectMeta."""

    labels: Annotated[LabelMap, Field(max_length=256)] = {}
    annotations: Annotated[dict[Text, Text], Field(max_length=256)] = {}


class WorkloadGroupSpec(Spec):
    """WorkloadGroup."""

    metadata: GroupMetadataSpec = GroupMetadataSpec()
    template: WorkloadEntrySpec
    probe: ReadinessProbeSpec | None = None


def _check(spec: WorkloadGroupSpec, document: Document) -> Iterator[Finding]:
    if spec.probe is not None:
        yield from _probe_findings(spec.probe, ("spec", "probe"))
    template: Path = ("spec", "template")
    yield from port_name_findings(spec.template, template)
    if spec.template.is_unix:
        yield from unix_findings(spec.template, template)
    message = "nothing registers itself here: the template only describes machines that somebody else runs"
    remedy = "Write a WorkloadEntry for each machine, or let joined hosts run a Workload."
    yield Finding(template, message, remedy, NO_EFFECT, Severity.WARNING)


def _probe_findings(probe: ReadinessProbeSpec, path: Path) -> Iterator[Finding]:
    methods = set_fields(probe, *_METHODS)
    if len(methods) != 1 or probe.grpc is not None:
        message = "a probe needs exactly one of httpGet, tcpSocket and exec"
        yield Finding(path, message, "Name one way to ask the workload.")
    for at, header in enumerate(probe.http_get.http_headers if probe.http_get else ()):
        if not _HEADER.fullmatch(header.name):
            place: Path = (*path, "httpGet", "httpHeaders", at, "name")
            yield Finding(place, f"{shown(header.name)} is not a header name", "Use letters, digits, '-' and '_'.")


def _lower(meta: Metadata, spec: WorkloadGroupSpec, document: Document) -> StaticWorkload:
    return static_workload(meta, spec.template, {**spec.template.labels, **spec.metadata.labels})


KIND = Kind(
    group="networking.istio.io",
    versions=("v1", "v1beta1", "v1alpha3"),
    name="WorkloadGroup",
    model=WorkloadGroupSpec,
    lower=_lower,
    check=_check,
    without_effect=("spec.probe", "spec.metadata.annotations", "spec.template.address", "spec.template.weight"),
)
