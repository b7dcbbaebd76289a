"""`v1 Pod`: the description of a workload that somebody else runs, as `headrace translate` needs it.

Used by `controller`, too, for templates of Pods.

Kubernetes' PodSpec is large and of no concern here: fields that are not used are accepted as they are, those that
are used are checked. `status.podIP` is the address.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict

from headrace.config.documents import Document, Path
from headrace.config.fields import Bool, Choice, Port, Text, is_dns_label, is_dns_name, shown, text_of
from headrace.config.kinds.istio_names import is_address
from headrace.config.kinds.proxy_annotation import topology_of
from headrace.config.schema import INCOMPLETE, Finding, Kind, Spec, refuse
from headrace.model.locality import NETWORK, locality_of
from headrace.model.problem import Severity
from headrace.model.resource import Labels, Metadata
from headrace.model.workload import StaticWorkload, WorkloadPort

INJECT = "sidecar.istio.io/inject"
"""Label or annotation that keeps the sidecar away where it says "false" (Istio's)."""


def _account(value: object) -> str:
    """A ServiceAccount's name; empty: not written."""
    text = text_of(value, "a name")
    if text and not is_dns_name(text):
        raise refuse(f"{shown(text)} is not the name of a ServiceAccount", "Use a-z, 0-9, '-' and dots.")
    return text


AccountName = Annotated[str, BeforeValidator(_account)]


class Lenient(Spec):
    """A Spec that accepts fields it does not know."""

    model_config = ConfigDict(extra="ignore")


class ContainerPort(Lenient):
    """core/v1 ContainerPort."""

    container_port: Port
    name: Text = ""
    protocol: Annotated[str, Choice("TCP", "UDP", "SCTP")] = "TCP"


class Container(Lenient):
    """core/v1 Container."""

    name: Text = ""
    ports: list[ContainerPort] = []


class PodSpec(Lenient):
    """The fields of core/v1 PodSpec that describe a workload."""

    containers: list[Container] = []
    init_containers: list[Container] = []
    service_account_name: AccountName = ""
    service_account: AccountName = ""
    host_network: Bool = False


def _status(document: Document) -> Mapping[str, Any]:
    status = document.data.get("status")
    return status if isinstance(status, dict) else {}


def _check(spec: PodSpec, document: Document) -> Iterator[Finding]:
    status = document.data.get("status")
    if status is not None and not isinstance(status, dict):
        yield Finding(("status",), "must be a mapping of fields")
    address = _status(document).get("podIP")
    if address is not None and not (isinstance(address, str) and is_address(address)):
        yield Finding(("status", "podIP"), f"{shown(address)} is not an IP address", "Correct or remove it.")
    yield from pod_findings(spec, ("spec",))


def pod_findings(spec: PodSpec, path: Path) -> Iterator[Finding]:
    """Judge the specification of a Pod, or of a template for some, that stands at `path`."""
    names: set[str] = set()
    if not spec.containers:
        yield Finding((*path, "containers"), "a Pod needs containers", "Add one.", INCOMPLETE, Severity.WARNING)
    for at, container in enumerate(spec.containers):
        place: Path = (*path, "containers", at, "name")
        if not container.name:
            yield Finding(place, "a container needs a name", "Add name.", INCOMPLETE, Severity.WARNING)
            continue
        if not is_dns_label(container.name):
            yield Finding(place, f"{shown(container.name)} is not a container's name", "Use a-z, 0-9 and '-'.")
        elif container.name in names:
            yield Finding(place, f"container '{container.name}' is listed twice", "Rename one.")
        names.add(container.name)


def _lower(meta: Metadata, spec: PodSpec, document: Document) -> StaticWorkload:
    status = _status(document)
    found = described(meta, meta.labels, meta.annotations, spec)
    return replace(found, address=status.get("podIP") or "", ready=_is_ready(status))


def described(meta: Metadata, labels: Labels, annotations: Labels, spec: PodSpec) -> StaticWorkload:
    """The workload that a Pod's specification, labels and annotations describe, without an address."""
    containers = (*spec.containers, *spec.init_containers)
    ports = (port for container in containers for port in container.ports if port.protocol == "TCP")
    inject = labels.get(INJECT, annotations.get(INJECT, ""))
    return StaticWorkload(
        meta=meta,
        address="",
        labels=labels,
        service_account=spec.service_account_name or spec.service_account or "default",
        ports=tuple(WorkloadPort(port.container_port, port.name) for port in ports),
        locality=locality_of(labels),
        network=labels.get(NETWORK, ""),
        proxied=inject != "false" and not spec.host_network,
        topology=topology_of(annotations),
    )


def _is_ready(status: Mapping[str, Any]) -> bool:
    """Whether the pod takes requests: unless its status says otherwise, it does."""
    if status.get("phase") in ("Pending", "Succeeded", "Failed"):
        return False
    conditions = status.get("conditions")
    for condition in conditions if isinstance(conditions, list) else ():
        if isinstance(condition, dict) and condition.get("type") == "Ready":
            return condition.get("status") in (True, "True")
    return True


KIND = Kind(group="", versions=("v1",), name="Pod", model=PodSpec, lower=_lower, check=_check, body_required=False)
