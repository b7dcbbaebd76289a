"""`gateway.networking.k8s.io ReferenceGrant`: what of its namespace documents of other namespaces may refer to."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from headrace.config.documents import Document
from headrace.config.kinds.gateway_api.fields import Group, KindName, NamespaceName, ObjectName
from headrace.config.schema import Kind, Spec
from headrace.model.gateway_api import ReferenceGrant
from headrace.model.policy import GATEWAY_GROUP
from headrace.model.resource import Metadata


class GrantFromSpec(Spec):
    """ReferenceGrantFrom."""

    group: Group
    kind: KindName
    namespace: NamespaceName


class GrantToSpec(Spec):
    """ReferenceGrantTo."""

    group: Group
    kind: KindName
    name: ObjectName | None = None


class ReferenceGrantSpec(Spec):
    """ReferenceGrantSpec."""

    from_: Annotated[list[GrantFromSpec], Field(min_length=1, max_length=16)]
    to: Annotated[list[GrantToSpec], Field(min_length=1, max_length=16)]


def _lower(meta: Metadata, spec: ReferenceGrantSpec, document: Document) -> ReferenceGrant:
    return ReferenceGrant(
        meta,
        tuple((item.group, item.kind, item.namespace) for item in spec.from_),
        tuple((item.group, item.kind, item.name or "") for item in spec.to),
    )


KIND = Kind(
    group=GATEWAY_GROUP, versions=("v1", "v1beta1"), name="ReferenceGrant", model=ReferenceGrantSpec, lower=_lower
)
