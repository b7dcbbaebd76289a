"""`gateway.networking.k8s.io GatewayClass`: whose Gateways those of a class are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import BeforeValidator

from headrace.config.documents import Document
from headrace.config.fields import shown
from headrace.config.kinds.gateway_api.fields import FarObjectRefSpec, bounded, pattern
from headrace.config.schema import NO_EFFECT, Finding, Kind, Spec
from headrace.model.gateway_api import CONTROLLER, REMOTE_CONTROLLER, GatewayClass
from headrace.model.policy import GATEWAY_GROUP
from headrace.model.problem import Severity
from headrace.model.resource import Metadata

_CONTROLLER = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/[A-Za-z0-9/\-._~%!$&'()*+,;=:]+"


class GatewayClassSpec(Spec):
    """GatewayClassSpec."""

    controller_name: Annotated[
        str, BeforeValidator(pattern(_CONTROLLER, 253, "a controller's name", "Write a domain and a path, as a.b/c."))
    ]
    description: Annotated[str, BeforeValidator(bounded(0, 64))] = ""
    parameters_ref: FarObjectRefSpec | None = None


def _check(spec: GatewayClassSpec, document: Document) -> Iterator[Finding]:
    if spec.controller_name not in (CONTROLLER, REMOTE_CONTROLLER):
        message = f"Gateways of this class are for another controller ({shown(spec.controller_name)}): they are ignored"
        remedy = f"Use {CONTROLLER} where they are for the mesh."
        yield Finding(("spec", "controllerName"), message, remedy, NO_EFFECT, Severity.WARNING)


def _lower(meta: Metadata, spec: GatewayClassSpec, document: Document) -> GatewayClass:
    return GatewayClass(meta, spec.controller_name)


KIND = Kind(
    group=GATEWAY_GROUP,
    versions=("v1", "v1beta1"),
    name="GatewayClass",
    model=GatewayClassSpec,
    lower=_lower,
    check=_check,
    namespaced=False,
    without_effect=("spec.parametersRef",),
)
