"""`gateway.networking.k8s.io Gateway`: a door of the mesh, with a proxy of its own unless it names an address."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import re2
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from headrace.config.documents import Document, Path
from headrace.config.fields import Choice, LabelKey, shown
from headrace.config.kinds.gateway_api.fields import (
    FarObjectRefSpec,
    ObjectName,
    ObjectRefSpec,
    Port,
    SecretRefSpec,
    SelectorSpec,
    bounded,
    default_gateway_findings,
    distinct,
    pattern,
    selector_findings,
)
from headrace.config.kinds.gateway_api.listeners import Listeners, listener_findings
from headrace.config.kinds.istio_names import is_address
from headrace.config.schema import Finding, Kind, Spec, refuse
from headrace.model.gateway_api import ApiGateway, ClientValidation, From, GatewayTls, Namespaces
from headrace.model.policy import GATEWAY_GROUP
from headrace.model.resource import Metadata

_HOST = re2.compile(r"(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_ADDRESS_TYPE = (
    r"Hostname.*|.*IPAddress.*|.*NamedAddress.*|"
    r".*[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/[A-Za-z0-9/\-._~%!$&'()*+,;=:]+"
)
"""As the CRD has it: only the first alternative is bound to the beginning, only the last one to the end."""


class AddressSpec(Spec):
    """GatewaySpecAddress."""

    type: Annotated[str, BeforeValidator(pattern(_ADDRESS_TYPE, 253, "a type of address", "Use Hostname."))] = (
        "IPAddress"
    )
    value: Annotated[str, BeforeValidator(bounded(0, 253))] | None = None

    @model_validator(mode="after")
    def _fitting(self) -> AddressSpec:
        if self.type == "Hostname" and self.value and not _HOST.fullmatch(self.value):
            raise refuse(f"{shown(self.value)} is not a host name", "", at=("value",))
        if self.type == "IPAddress" and self.value is not None and not is_address(self.value):
            remedy = "Write an address, or type: Hostname."
            raise refuse(f"{shown(self.value)} is not an IP address", remedy, at=("value",))
        return self


class InfrastructureSpec(Spec):
    """GatewayInfrastructure."""

    labels: (
        Annotated[
            dict[
                LabelKey,
                Annotated[
                    str, BeforeValidator(pattern(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?", 63, "a label value"))
                ],
            ],
            Field(max_length=8),
        ]
        | None
    ) = None
    annotations: Annotated[dict[LabelKey, Annotated[str, BeforeValidator(bounded(0, 4096))]], Field(max_length=16)] = {}
    parameters_ref: ObjectRefSpec | None = None


class ListenerNamespacesSpec(Spec):
    """ListenerNamespaces."""

    from_: Annotated[str, Choice("All", "Selector", "Same", "None")] = "None"
    selector: SelectorSpec | None = None


class AllowedListenersSpec(Spec):
    """AllowedListeners."""

    namespaces: ListenerNamespacesSpec = ListenerNamespacesSpec()


class ValidationSpec(Spec):
    """FrontendTLSValidation."""

    ca_certificate_refs: Annotated[list[FarObjectRefSpec], Field(min_length=1, max_length=16)]
    mode: Annotated[str, Choice("AllowValidOnly", "AllowInsecureFallback")] = "AllowValidOnly"


class FrontendSpec(Spec):
    """TLSConfig of connections from clients."""

    validation: ValidationSpec | None = None

    def lower(self) -> ClientValidation | None:
        if self.validation is None:
            return None
        authorities = tuple(ref.lower() for ref in self.validation.ca_certificate_refs)
        return ClientValidation(authorities, self.validation.mode == "AllowInsecureFallback")


class PortFrontendSpec(Spec):
    """TLSPortConfig."""

    port: Port
    tls: FrontendSpec


class FrontendTlsSpec(Spec):
    """FrontendTLSConfig."""

    default: FrontendSpec
    per_port: Annotated[
        list[PortFrontendSpec], Field(max_length=64), AfterValidator(distinct(lambda item: item.port, "port"))
    ] = []


class BackendTlsSpec(Spec):
    """GatewayBackendTLS."""

    client_certificate_ref: SecretRefSpec | None = None


class GatewayTlsSpec(Spec):
    """GatewayTLSConfig."""

    backend: BackendTlsSpec | None = None
    frontend: FrontendTlsSpec | None = None

    def lower(self) -> GatewayTls:
        own = self.backend.client_certificate_ref if self.backend else None
        certificate = own.lower() if own else None
        if self.frontend is None:
            return GatewayTls(client_certificate=certificate)
        ports = tuple((item.port, item.tls.lower()) for item in self.frontend.per_port)
        return GatewayTls(self.frontend.default.lower(), ports, certificate, frontend=True)


class ApiGatewaySpec(Spec):
    """GatewaySpec."""

    gateway_class_name: ObjectName
    listeners: Listeners
    addresses: Annotated[
        list[AddressSpec],
        Field(max_length=16),
        AfterValidator(
            distinct(lambda item: (item.type, item.value) if item.value is not None else id(item), "address")
        ),
    ] = []
    infrastructure: InfrastructureSpec | None = None
    allowed_listeners: AllowedListenersSpec | None = None
    tls: GatewayTlsSpec | None = None
    default_scope: Annotated[str, Choice("All", "None")] | None = None


def _check(spec: ApiGatewaySpec, document: Document) -> Iterator[Finding]:
    yield from listener_findings(spec.listeners)
    if spec.allowed_listeners is not None:
        place: Path = ("spec", "allowedListeners", "namespaces", "selector")
        yield from selector_findings(spec.allowed_listeners.namespaces.selector, place)
    yield from default_gateway_findings(spec.default_scope, "defaultScope")


def _lower(meta: Metadata, spec: ApiGatewaySpec, document: Document) -> ApiGateway:
    own = spec.infrastructure
    allowed = spec.allowed_listeners.namespaces if spec.allowed_listeners else ListenerNamespacesSpec()
    return ApiGateway(
        meta=meta,
        class_name=spec.gateway_class_name,
        listeners=tuple(listener.lower() for listener in spec.listeners),
        addresses=tuple((address.type, address.value or "") for address in spec.addresses),
        labels=tuple(sorted(own.labels.items())) if own and own.labels is not None else None,
        parameters=own.parameters_ref.lower() if own and own.parameters_ref else None,
        allowed_listeners=Namespaces(From(allowed.from_), allowed.selector.lower() if allowed.selector else None),
        tls=spec.tls.lower() if spec.tls else GatewayTls(),
    )


KIND = Kind(
    group=GATEWAY_GROUP,
    versions=("v1", "v1beta1"),
    name="Gateway",
    model=ApiGatewaySpec,
    lower=_lower,
    check=_check,
    untranslated=("spec.tls.backend.clientCertificateRef",),
    without_effect=("spec.infrastructure.annotations", "spec.infrastructure.parametersRef"),
)
