"""`inference.networking.k8s.io/v1 InferencePool`: model servers that are called as one.

Lowered to a `model.service.Service` with a host name of its own, so that everything that calls Services can call it.
The mesh's own proxy picks the endpoint, never an endpoint picker outside. The bounds are those of the CRD (Gateway API
Inference Extension 1.0).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from headrace.config.documents import Document
from headrace.config.fields import Choice, DnsName, LabelMap, Port, Text, is_dns_label, shown
from headrace.config.schema import NO_EFFECT, Finding, Kind, Spec
from headrace.model.inference import POOL_GROUP, pool_host
from headrace.model.problem import Severity
from headrace.model.resource import Metadata
from headrace.model.service import Protocol, Service, ServicePort

H2C = "kubernetes.io/h2c"
MAX_LABELS = 64
MAX_PORTS = 8


class SelectorSpec(Spec):
    """LabelSelector: a plain map, as a Service's."""

    match_labels: LabelMap


class TargetPortSpec(Spec):
    number: Port


class PickerPortSpec(Spec):
    """The picker's port, as early releases of v1 wrote it."""

    number: Port


class EndpointPickerSpec(Spec):
    """EndpointPickerRef."""

    group: Text = ""
    kind: Annotated[str, Field(min_length=1, max_length=63)] = "Service"
    name: DnsName
    port: PickerPortSpec | None = None
    port_number: Port | None = None
    failure_mode: Annotated[str, Choice("FailClose", "FailOpen")] = "FailClose"


class InferencePoolSpec(Spec):
    """InferencePoolSpec."""

    selector: SelectorSpec
    target_ports: Annotated[list[TargetPortSpec], Field(min_length=1, max_length=MAX_PORTS)]
    app_protocol: Annotated[str, Choice("http", H2C)] = "http"
    endpoint_picker_ref: EndpointPickerSpec | None = None


def _check(spec: InferencePoolSpec, document: Document) -> Iterator[Finding]:
    if not is_dns_label(document.name):
        remedy = "Use 1-63 of a-z, 0-9 and '-'."
        yield Finding(("metadata", "name"), f"{shown(document.name)} is not a name for an InferencePool", remedy)
    labels = ("spec", "selector", "matchLabels")
    if not spec.selector.match_labels:
        yield Finding(labels, "an InferencePool needs labels to select by", "Add a label of the model servers.")
    elif len(spec.selector.match_labels) > MAX_LABELS:
        yield Finding(labels, f"has more than {MAX_LABELS} labels", "Fewer labels select as well.")
    seen: set[int] = set()
    for at, port in enumerate(spec.target_ports):
        if port.number in seen:
            yield Finding(("spec", "targetPorts", at, "number"), f"port {port.number} is listed twice", "Remove one.")
        seen.add(port.number)
    if spec.endpoint_picker_ref is not None:
        message = "endpointPickerRef has no effect: the mesh's own proxies pick the endpoint, and ask nobody"
        remedy = "Say how in an InferencePolicy (spec.picking); the field may stay for other implementations."
        yield Finding(("spec", "endpointPickerRef"), message, remedy, NO_EFFECT, Severity.WARNING)


def _lower(meta: Metadata, spec: InferencePoolSpec, document: Document) -> Service:
    numbers = [port.number for port in spec.target_ports]
    h2c = spec.app_protocol == H2C
    port = ServicePort(
        number=numbers[0],
        name="http2" if h2c else "http",
        protocol=Protocol.HTTP2 if h2c else Protocol.HTTP,
        target=numbers[0],
        more_targets=tuple(numbers[1:]),
    )
    return Service(
        meta=meta,
        host=pool_host(meta.name, meta.namespace),
        namespace=meta.namespace,
        ports=(port,),
        selector=dict(sorted(spec.selector.match_labels.items())),
        kubernetes=False,
        pool=True,
    )


KIND = Kind(
    group=POOL_GROUP,
    versions=("v1",),
    name="InferencePool",
    model=InferencePoolSpec,
    lower=_lower,
    check=_check,
)
