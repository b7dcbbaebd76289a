"""`v1 Pod`: the description of a workload that somebody else runs, as `headrace translate` needs it.

Kubernetes' PodSpec is large and of no concern here: fields that are not used are accepted as they are, those that
are used are checked. `status.podIP` is the address.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from headrace.config.documents import Document
from headrace.config.fields import Bool, Choice, DnsName, Port, Text, is_dns_label, shown
from headrace.config.kinds.istio_names import is_address
from headrace.config.schema import Finding, Kind, Spec
from headrace.model.resource import Metadata
from headrace.model.workload import StaticWorkload, WorkloadPort

INJECT = "sidecar.istio.io/inject"
"""Label or annotation that keeps the sidecar away where it says "false" (Istio's)."""
NETWORK = "topology.istio.io/network"
LOCALITY = "istio-locality"
"""Label with `region.zone.subzone` (Istio's; a '/' may not stand in a label)."""
_REGION, _ZONE, _SUBZONE = "topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"


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

    name: Text
    ports: list[ContainerPort] = []


class PodSpec(Lenient):
    """The fields of core/v1 PodSpec that describe a workload."""

    containers: Annotated[list[Container], Field(min_length=1)]
    init_containers: list[Container] = []
    service_account_name: DnsName | None = None
    service_account: DnsName | None = None
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
    names: set[str] = set()
    for at, container in enumerate(spec.containers):
        if not is_dns_label(container.name):
            yield Finding(("spec", "containers", at, "name"), f"{shown(container.name)} is not a container's name")
        elif container.name in names:
            yield Finding(("spec", "containers", at, "name"), f"container '{container.name}' is listed twice")
        names.add(container.name)


def _lower(meta: Metadata, spec: PodSpec, document: Document) -> StaticWorkload:
    status = _status(document)
    containers = (*spec.containers, *spec.init_containers)
    ports = (port for container in containers for port in container.ports if port.protocol == "TCP")
    inject = meta.labels.get(INJECT, meta.annotations.get(INJECT, ""))
    return StaticWorkload(
        meta=meta,
        address=status.get("podIP") or "",
        labels=meta.labels,
        service_account=spec.service_account_name or spec.service_account or "default",
        ports=tuple(WorkloadPort(port.container_port, port.name) for port in ports),
        locality=_locality(meta.labels),
        network=meta.labels.get(NETWORK, ""),
        proxied=inject != "false" and not spec.host_network,
        ready=_is_ready(status),
    )


def _locality(labels: Mapping[str, str]) -> str:
    """`region/zone/subzone` from the pod's labels; the nodes' labels are not known here."""
    written = labels.get(LOCALITY, "")
    if written:
        return written if "/" in written else written.replace(".", "/")
    parts = [labels.get(name, "") for name in (_REGION, _ZONE, _SUBZONE)]
    return "/".join(parts).rstrip("/")


def _is_ready(status: Mapping[str, Any]) -> bool:
    """Whether the pod takes requests: unless its status says otherwise, it does."""
    if status.get("phase") in ("Pending", "Succeeded", "Failed"):
        return False
    conditions = status.get("conditions")
    for condition in conditions if isinstance(conditions, list) else ():
        if isinstance(condition, dict) and condition.get("type") == "Ready":
            return condition.get("status") in (True, "True")
    return True


KIND = Kind(group="", versions=("v1",), name="Pod", model=PodSpec, lower=_lower, check=_check)
