"""`gateway.networking.k8s.io ListenerSet`: further listeners of a Gateway, in a document of their own."""

from __future__ import annotations

from collections.abc import Iterator

from headrace.config.documents import Document
from headrace.config.kinds.gateway_api.fields import Group, KindName, NamespaceName, ObjectName
from headrace.config.kinds.gateway_api.listeners import Listeners, listener_findings
from headrace.config.schema import Finding, Kind, Spec
from headrace.model.gateway_api import ListenerSet, ParentRef
from headrace.model.policy import GATEWAY_GROUP
from headrace.model.resource import Metadata


class ParentGatewaySpec(Spec):
    """ParentGatewayReference."""

    group: Group = GATEWAY_GROUP
    kind: KindName = "Gateway"
    name: ObjectName
    namespace: NamespaceName | None = None


class ListenerSetSpec(Spec):
    """ListenerSetSpec."""

    parent_ref: ParentGatewaySpec
    listeners: Listeners


def _check(spec: ListenerSetSpec, document: Document) -> Iterator[Finding]:
    yield from listener_findings(spec.listeners)


def _lower(meta: Metadata, spec: ListenerSetSpec, document: Document) -> ListenerSet:
    parent = spec.parent_ref
    return ListenerSet(
        meta=meta,
        parent=ParentRef(parent.group, parent.kind, parent.name, parent.namespace or ""),
        listeners=tuple(listener.lower() for listener in spec.listeners),
    )


KIND = Kind(
    group=GATEWAY_GROUP, versions=("v1",), name="ListenerSet", model=ListenerSetSpec, lower=_lower, check=_check
)
