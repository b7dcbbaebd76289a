"""Judgements across documents: what is well-formed by itself and still cannot work, or hardly means what it says.

Called by `config.revision` after each change and by `headrace check`. Codes, severities and meanings are Istio's where
Istio has the judgement (`istioctl analyze`); `docs/reference/analysis.md` explains each one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import chain

from headrace.config.analysis.annotations import judge_annotations, suppressed
from headrace.config.analysis.conditions import judge_conditions
from headrace.config.analysis.credentials import judge_credentials
from headrace.config.analysis.delegates import judge_delegates
from headrace.config.analysis.deployments import judge_deployments
from headrace.config.analysis.deprecation import judge_deprecation
from headrace.config.analysis.destination_rules import judge_rules
from headrace.config.analysis.destinations import judge_destinations, judge_ingress_subsets
from headrace.config.analysis.envoy_filters import judge_envoy_filters
from headrace.config.analysis.gateway_api import judge_gateway_api
from headrace.config.analysis.gateway_conflicts import judge_gateway_conflicts
from headrace.config.analysis.gateway_rules import judge_gateway_rules
from headrace.config.analysis.gateways import judge_gateways
from headrace.config.analysis.given import SOURCE
from headrace.config.analysis.index import Index
from headrace.config.analysis.inference import judge_timeouts
from headrace.config.analysis.inference_policies import judge_inference_policies
from headrace.config.analysis.ingresses import judge_ingresses
from headrace.config.analysis.injection import judge_injection
from headrace.config.analysis.mesh_networks import judge_mesh_networks
from headrace.config.analysis.policies import judge_claim_routes, judge_policies
from headrace.config.analysis.routing import judge_routes
from headrace.config.analysis.selections import judge_selections
from headrace.config.analysis.services import judge_services
from headrace.config.analysis.telemetries import judge_telemetries
from headrace.config.analysis.virtual_services import judge_bindings, judge_shared_hosts
from headrace.config.analysis.webhooks import judge_webhooks
from headrace.config.documents import Document
from headrace.config.schema import INTERNAL_ERROR
from headrace.model.mesh import MeshConfig
from headrace.model.problem import Problem, Severity
from headrace.model.resource import ResourceKey

_JUDGEMENTS = (
    judge_annotations,
    judge_bindings,
    judge_claim_routes,
    judge_conditions,
    judge_credentials,
    judge_delegates,
    judge_deployments,
    judge_deprecation,
    judge_destinations,
    judge_envoy_filters,
    judge_gateway_api,
    judge_gateway_conflicts,
    judge_gateway_rules,
    judge_gateways,
    judge_inference_policies,
    judge_ingress_subsets,
    judge_ingresses,
    judge_injection,
    judge_mesh_networks,
    judge_policies,
    judge_routes,
    judge_rules,
    judge_selections,
    judge_services,
    judge_shared_hosts,
    judge_telemetries,
    judge_timeouts,
    judge_webhooks,
)


def analyse(
    resources: Mapping[ResourceKey, object] | Iterable[object],
    mesh: MeshConfig,
    documents: Mapping[ResourceKey, Document],
    unread: Iterable[Document] = (),
    now: datetime | None = None,
) -> list[Problem]:
    """All problems that only show when documents are read together, sorted.

    `resources` are lowered resources (a mapping's values count), `documents` what they were made of: from it come the
    lines, and what is judged as it is written. `unread` are documents that nothing is made of: of other kinds, or
    wrong ones. `now` is when certificates must be valid (default: this moment). Nothing here keeps a document out of
    force: what is missing today may come tomorrow.
    """
    values = resources.values() if isinstance(resources, Mapping) else resources
    index = Index.of(values, mesh, documents, unread, now or datetime.now(UTC))
    silent = {
        (written.document.file, written.document.kind, written.namespace, written.name): codes
        for written in index.written
        if (codes := suppressed(written.annotations))
    }
    found = set(chain.from_iterable(_judged(judgement, index) for judgement in _JUDGEMENTS))
    return sorted(
        problem
        for problem in found
        if problem.file != SOURCE and not {problem.code, "*"} & silent.get(_subject(problem), frozenset())
    )


def _judged(judgement: Callable[[Index], Iterable[Problem]], index: Index) -> Iterator[Problem]:
    """What one judgement finds; a fault of ours in it is one finding more, and costs no other judgement its own."""
    try:
        yield from judgement(index)
    except Exception as error:
        where = next((written.document for written in index.written), None)
        yield Problem(
            file=where.file if where else "",
            line=where.line if where else 0,
            code=INTERNAL_ERROR,
            severity=Severity.ERROR,
            kind="",
            namespace="",
            name="",
            field="",
            message=f"Headrace cannot judge these documents together: {type(error).__name__} in {judgement.__name__}",
            remedy="Report this as a bug, with the documents.",
        )


def _subject(problem: Problem) -> tuple[str, str, str, str]:
    return (problem.file, problem.kind, problem.namespace, problem.name)
