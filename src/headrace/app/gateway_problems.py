"""What is wrong with Gateway API documents when they are read together, as problems: every condition of their statuses
that is not met.

Called by `headrace check` and by the running mesh's `status`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.config.analysis.annotations import suppressed
from headrace.config.revision import ConfigRevision
from headrace.model.problem import Problem, Severity
from headrace.model.resource import ResourceKey

CODE = "HR0110"
"""A condition of a Gateway API document that does not hold."""
_GROUPS = ("gateway.networking.k8s.io/", "inference.networking.k8s.io/")
"""Groups of the kinds that have a status."""
_REMEDY = "Correct the reference, or what it names; docs/reference/gateway-api.md tells what each kind may refer to."


def gateway_problems(
    revision: ConfigRevision, statuses: Mapping[ResourceKey, Mapping[str, Any]] | None = None
) -> list[Problem]:
    """A warning for every condition that is not met, sorted; `statuses` of the documents where they are known."""
    if statuses is None:
        if not any(key.kind.startswith(_GROUPS) for key in revision.documents):
            return []
        from headrace.registry.build import declare  # a third of what `check` of one file would load

        statuses = declare(revision).converted.statuses
    from headrace.registry.gateway_api.conditions import unmet

    found = []
    for key, status in statuses.items():
        document = revision.documents.get(key)
        resource = revision.resources.get(key)
        if document is None or resource is None or {CODE, "*"} & suppressed(resource.meta.annotations):
            continue
        found += [
            Problem(
                file=document.file,
                line=document.line,
                code=CODE,
                severity=Severity.WARNING,
                kind=key.short_kind,
                namespace=key.namespace,
                name=key.name,
                field="",
                message=f"{reason}: {message}",
                remedy=_REMEDY,
            )
            for reason, message in unmet(status)
        ]
    return sorted(found)
