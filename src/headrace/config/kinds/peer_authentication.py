"""PeerAuthentication (security.istio.io): which mutual TLS workloads demand of their callers.

Lowered to `model.security.PeerAuthentication`. The rules are Istio's (ValidatePeerAuthentication).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import BeforeValidator

from headrace.config.documents import Document
from headrace.config.fields import EnumOf, Text, shown, whole
from headrace.config.kinds.istio_names import selector_findings
from headrace.config.schema import NO_EFFECT, Finding, Kind, Spec, refuse
from headrace.model.names import ROOT_NAMESPACE
from headrace.model.problem import Severity
from headrace.model.resource import Metadata
from headrace.model.security import MtlsMode, PeerAuthentication


def _port_modes(value: object) -> object:
    """Keys of portLevelMtls are ports, which YAML may write as numbers."""
    if not isinstance(value, dict):
        return value
    if not value:
        raise refuse("needs at least one port", "Add a port, or take portLevelMtls out.")
    for key in value:
        whole(1, 65535)(key)
    return {str(key): mode for key, mode in value.items()}


class SelectorSpec(Spec):
    """istio.type.v1beta1.WorkloadSelector."""

    match_labels: dict[Text, Text] = {}


class MutualTlsSpec(Spec):
    """PeerAuthentication.MutualTLS."""

    mode: Annotated[MtlsMode, EnumOf(MtlsMode, {0: "UNSET", 1: "DISABLE", 2: "PERMISSIVE", 3: "STRICT"})] = (
        MtlsMode.UNSET
    )


class PeerAuthenticationSpec(Spec):
    """PeerAuthentication."""

    selector: SelectorSpec | None = None
    mtls: MutualTlsSpec | None = None
    port_level_mtls: Annotated[dict[str, MutualTlsSpec], BeforeValidator(_port_modes)] | None = None


def _check(spec: PeerAuthenticationSpec, document: Document) -> Iterator[Finding]:
    labels = spec.selector.match_labels if spec.selector else {}
    if spec.port_level_mtls is not None and not labels:
        message = "portLevelMtls needs a selector: only a workload has ports"
        yield Finding(("spec", "portLevelMtls"), message, "Add selector.matchLabels.")
    if spec.selector is not None:
        yield from selector_findings(labels, ("spec", "selector", "matchLabels"))
    if labels and document.namespace == ROOT_NAMESPACE:
        message = f"a selector is ignored in the root namespace ({shown(ROOT_NAMESPACE)}): the whole document is"
        remedy = "Move it to the workload's namespace, or take the selector out."
        yield Finding(("spec", "selector"), message, remedy, NO_EFFECT, Severity.WARNING)


def _lower(meta: Metadata, spec: PeerAuthenticationSpec, document: Document) -> PeerAuthentication:
    ports = spec.port_level_mtls or {}
    return PeerAuthentication(
        meta=meta,
        selector=dict(sorted(spec.selector.match_labels.items())) if spec.selector else {},
        mode=spec.mtls.mode if spec.mtls else MtlsMode.UNSET,
        port_modes=tuple(sorted((int(port), mtls.mode) for port, mtls in ports.items())),
    )


KIND = Kind(
    group="security.istio.io",
    versions=("v1", "v1beta1"),
    name="PeerAuthentication",
    model=PeerAuthenticationSpec,
    lower=_lower,
    check=_check,
    body_required=False,
)
