"""`v1 ServiceAccount`: the name in a workload's identity."""

from __future__ import annotations

from typing import Any

from headrace.config.documents import Document
from headrace.config.fields import Bool, Text
from headrace.config.schema import Kind, Spec
from headrace.model.kube import ServiceAccount
from headrace.model.resource import Metadata


class ObjectReference(Spec):
    """core/v1 ObjectReference."""

    api_version: Text = ""
    kind: Text = ""
    name: Text = ""
    namespace: Text = ""
    field_path: Text = ""
    resource_version: Text = ""
    uid: Text = ""


class LocalReference(Spec):
    """core/v1 LocalObjectReference."""

    name: Text = ""


class ServiceAccountBody(Spec):
    """core/v1 ServiceAccount."""

    secrets: list[ObjectReference] = []
    image_pull_secrets: list[LocalReference] = []
    automount_service_account_token: Bool = True


def _lower(meta: Metadata, spec: Any, document: Document) -> ServiceAccount:
    return ServiceAccount(meta)


KIND = Kind(group="", versions=("v1",), name="ServiceAccount", model=ServiceAccountBody, lower=_lower, body="")
