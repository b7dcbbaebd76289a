"""WorkloadEntry (networking.istio.io): one workload that somebody else runs, by address.

Lowered to `model.workload.StaticWorkload`; `service_entry` uses the same model for endpoints written inside it. The
rules are Istio's (ValidateWorkloadEntry).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from headrace.config.documents import Document, Path
from headrace.config.fields import LabelMap, Port, Text, UInt32, shown
from headrace.config.kinds.istio_names import is_address, is_label, warning, why_not_fqdn
from headrace.config.schema import NO_EFFECT, Finding, Kind, Spec
from headrace.model.problem import Severity
from headrace.model.resource import Metadata
from headrace.model.workload import StaticWorkload, WorkloadPort

UNIX = "unix://"
TLS_MODE = "security.istio.io/tlsMode"
"""Label that says whether a proxy with a certificate stands before the workload (`istio` or `disabled`)."""


class WorkloadEntrySpec(Spec):
    """WorkloadEntry."""

    address: Annotated[Text, Field(max_length=256)] = ""
    ports: Annotated[dict[Text, Port], Field(max_length=128)] = {}
    labels: Annotated[LabelMap, Field(max_length=256)] = {}
    network: Annotated[Text, Field(max_length=2048)] = ""
    locality: Annotated[Text, Field(max_length=2048)] = ""
    weight: UInt32 = 0
    service_account: Annotated[Text, Field(max_length=253)] = ""

    @property
    def is_unix(self) -> bool:
        """Whether the address is a Unix socket."""
        return self.address.startswith(UNIX)


def endpoint_findings(spec: WorkloadEntrySpec, names_allowed: bool, path: Path) -> Iterator[Finding]:
    """Judge an address and its ports; `names_allowed`: host names beside IP addresses."""
    place: Path = (*path, "address")
    if not spec.address and not spec.network:
        yield Finding(place, "an endpoint needs an address", "Add address.")
    elif not spec.address:
        yield warning(place, f"no address: traffic goes to the gateway of network {shown(spec.network)}")
        message = "a mesh of Headrace is one network and knows no gateways of others: the endpoint is left out"
        yield Finding((*path, "network"), message, "Add address.", NO_EFFECT, Severity.WARNING)
    elif spec.is_unix:
        yield from unix_findings(spec, path)
    elif not is_address(spec.address) and not (names_allowed and not why_not_fqdn(spec.address)):
        allowed = "an IP address or host name" if names_allowed else "an IP address"
        yield Finding(place, f"{shown(spec.address)} is not {allowed}", f"Write {allowed}.")
    yield from port_name_findings(spec, path)


def port_name_findings(spec: WorkloadEntrySpec, path: Path) -> Iterator[Finding]:
    """Judge the names of an endpoint's ports."""
    for name in spec.ports:
        if not is_label(name):
            yield Finding((*path, "ports", name), f"{shown(name)} is not a port's name", "Use letters, digits and '-'.")


def unix_findings(spec: WorkloadEntrySpec, path: Path) -> Iterator[Finding]:
    """Judge an address that is a Unix socket."""
    if why := why_not_socket(spec.address):
        yield Finding((*path, "address"), f"{shown(spec.address)} {why}", "Write unix:///path/to/file.")
    if "ports" in spec.model_fields_set:
        yield Finding((*path, "ports"), "a Unix socket has no ports", "Take ports out.")


def why_not_socket(address: str) -> str:
    """Why `unix://...` names no socket: a path from the root, or `@` and an abstract name; empty where it does."""
    socket = address.removeprefix(UNIX)
    fits = socket.startswith("@") or (socket.startswith("/") and not socket.endswith("/"))
    return "" if fits else "is not a socket's path"


def _check(spec: WorkloadEntrySpec, document: Document) -> Iterator[Finding]:
    yield from endpoint_findings(spec, True, ("spec",))


def _lower(meta: Metadata, spec: WorkloadEntrySpec, document: Document) -> StaticWorkload:
    return replace(static_workload(meta, spec, {**spec.labels, **meta.labels}), address=spec.address)


def static_workload(meta: Metadata, spec: WorkloadEntrySpec, labels: Mapping[str, str]) -> StaticWorkload:
    """The workload with these labels that the fields describe, without an address."""
    mode = labels.get(TLS_MODE)
    return StaticWorkload(
        meta=meta,
        address="",
        labels=dict(sorted(labels.items())),
        service_account=spec.service_account,
        ports=tuple(WorkloadPort(number, name) for name, number in sorted(spec.ports.items())),
        weight=spec.weight,
        locality=spec.locality,
        network=spec.network,
        proxied=mode == "istio" if mode else bool(spec.service_account),
    )


KIND = Kind(
    group="networking.istio.io",
    versions=("v1", "v1beta1", "v1alpha3"),
    name="WorkloadEntry",
    model=WorkloadEntrySpec,
    lower=_lower,
    check=_check,
)
