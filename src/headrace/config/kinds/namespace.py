"""`v1 Namespace`: the labels of a namespace."""

from __future__ import annotations

from headrace.config.documents import Document
from headrace.config.fields import NonEmpty
from headrace.config.schema import Kind, Spec
from headrace.model.kube import Namespace
from headrace.model.resource import Metadata


class NamespaceSpec(Spec):
    """core/v1 NamespaceSpec."""

    finalizers: list[NonEmpty] = []


def _lower(meta: Metadata, spec: NamespaceSpec, document: Document) -> Namespace:
    return Namespace(meta)


KIND = Kind(
    group="",
    versions=("v1",),
    name="Namespace",
    model=NamespaceSpec,
    lower=_lower,
    body_required=False,
    namespaced=False,
)
