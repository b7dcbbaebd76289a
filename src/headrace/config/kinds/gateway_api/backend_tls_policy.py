"""`gateway.networking.k8s.io BackendTLSPolicy`: TLS towards the servers behind a Service."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from headrace.config.documents import Document
from headrace.config.fields import Choice, shown
from headrace.config.kinds.gateway_api.fields import (
    Hostname,
    ObjectRefSpec,
    PreciseHostname,
    SectionName,
    pattern,
)
from headrace.config.kinds.gateway_api.listeners import Options
from headrace.config.schema import Kind, Spec, refuse
from headrace.model.gateway_api import BackendTlsPolicy, PolicyTargetRef
from headrace.model.policy import GATEWAY_GROUP
from headrace.model.resource import Metadata

_WELL_KNOWN = (
    r"System|[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/"
    r"([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]"
)
_URI = r"(([^:/?#]+):)(//([^/?#]*))([^?#]*)(\?([^#]*))?(#(.*))?.*"

WellKnown = Annotated[str, BeforeValidator(pattern(_WELL_KNOWN, 253, "a set of CAs", "Use System."))]


class TargetSpec(ObjectRefSpec):
    """LocalPolicyTargetReferenceWithSectionName."""

    section_name: SectionName | None = None


def _targets(refs: list[TargetSpec]) -> list[TargetSpec]:
    """Two references to one target must each name another port."""
    seen: dict[tuple[str, str, str], list[str | None]] = {}
    for at, ref in enumerate(refs):
        others = seen.setdefault((ref.group, ref.kind, ref.name), [])
        if others and None in (*others, ref.section_name):
            message = f"{ref.kind} {shown(ref.name)} is named twice, and not both times with sectionName"
            raise refuse(message, "Write sectionName, the name of a port, in both.", at=(at,))
        if ref.section_name in others:
            raise refuse(f"{ref.kind} {shown(ref.name)} is named twice with one sectionName", "Remove one.", at=(at,))
        others.append(ref.section_name)
    return refs


class SubjectAltNameSpec(Spec):
    """SubjectAltName."""

    type: Annotated[str, Choice("Hostname", "URI")]
    hostname: Hostname | None = None
    uri: Annotated[str, BeforeValidator(pattern(_URI, 253, "a URI"))] | None = None

    @model_validator(mode="after")
    def _one(self) -> SubjectAltNameSpec:
        wanted, other = ("hostname", "uri") if self.type == "Hostname" else ("uri", "hostname")
        if getattr(self, wanted) is None:
            raise refuse(f"a name of type {self.type} needs {wanted}", f"Add {wanted}.", at=(wanted,))
        if getattr(self, other) is not None:
            raise refuse(f"a name of type {self.type} has no {other}", f"Remove {other}.", at=(other,))
        return self


class TlsValidationSpec(Spec):
    """BackendTLSPolicyValidation."""

    ca_certificate_refs: Annotated[list[ObjectRefSpec], Field(max_length=8)] = []
    well_known_ca_certificates: WellKnown | None = Field(default=None, alias="wellKnownCACertificates")
    hostname: PreciseHostname
    subject_alt_names: Annotated[list[SubjectAltNameSpec], Field(max_length=5)] = []

    @model_validator(mode="after")
    def _one(self) -> TlsValidationSpec:
        if bool(self.ca_certificate_refs) == (self.well_known_ca_certificates is not None):
            message = "exactly one of caCertificateRefs and wellKnownCACertificates says who signs the certificate"
            raise refuse(message, "Keep or add one of them.", at=("caCertificateRefs",))
        return self


class BackendTlsPolicySpec(Spec):
    """BackendTLSPolicySpec."""

    target_refs: Annotated[list[TargetSpec], Field(min_length=1, max_length=16), AfterValidator(_targets)]
    validation: TlsValidationSpec
    options: Options = {}


def _lower(meta: Metadata, spec: BackendTlsPolicySpec, document: Document) -> BackendTlsPolicy:
    rules = spec.validation
    return BackendTlsPolicy(
        meta=meta,
        targets=tuple(
            PolicyTargetRef(ref.group, ref.kind, ref.name, ref.section_name or "") for ref in spec.target_refs
        ),
        hostname=rules.hostname,
        authorities=tuple(ref.lower() for ref in rules.ca_certificate_refs),
        well_known=rules.well_known_ca_certificates or "",
        subject_alt_names=tuple(name.hostname or name.uri or "" for name in rules.subject_alt_names),
    )


KIND = Kind(
    group=GATEWAY_GROUP,
    versions=("v1", "v1alpha3"),
    name="BackendTLSPolicy",
    model=BackendTlsPolicySpec,
    lower=_lower,
    without_effect=("spec.options",),
)
