"""Judgements across documents: what is well-formed by itself and still cannot work, or hardly means what it says.

Called by `config.revision` after each change and by `headrace check`. Codes, severities and meanings are Istio's where
Istio has the judgement (`istioctl analyze`); `docs/reference/analysis.md` explains each one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain

from headrace.config.analysis.annotations import judge_annotations, suppressed
from headrace.config.analysis.credentials import judge_credentials
from headrace.config.analysis.delegates import judge_delegates
from headrace.config.analysis.destination_rules import judge_rules
from headrace.config.analysis.destinations import judge_destinations, judge_ingress_subsets
from headrace.config.analysis.gateways import judge_gateways
from headrace.config.analysis.index import Index
from headrace.config.analysis.inference import judge_timeouts
from headrace.config.analysis.inference_policies import judge_inference_policies
from headrace.config.analysis.policies import judge_claim_routes, judge_policies
from headrace.config.analysis.routing import judge_routes
from headrace.config.analysis.services import judge_services
from headrace.config.analysis.virtual_services import judge_bindings, judge_shared_hosts
from headrace.model.mesh import MeshConfig
from headrace.model.problem import Problem

_JUDGEMENTS = (
    judge_annotations,
    judge_bindings,
    judge_claim_routes,
    judge_credentials,
    judge_delegates,
    judge_destinations,
    judge_gateways,
    judge_inference_policies,
    judge_ingress_subsets,
    judge_policies,
    judge_routes,
    judge_rules,
    judge_services,
    judge_shared_hosts,
    judge_timeouts,
)


def analyse(resources: Mapping[object, object] | Iterable[object], mesh: MeshConfig) -> list[Problem]:
    """All problems that only show when documents are read together, sorted.

    `resources` are lowered resources (a mapping's values count). A problem carries its field's path and the document's
    first line; `config.revision.with_lines` finds the field's own. Nothing here keeps a document out of force: what is
    missing today may come tomorrow.
    """
    values = resources.values() if isinstance(resources, Mapping) else resources
    index = Index.of(values, mesh)
    silent = {
        (meta.key.short_kind, meta.namespace, meta.name): codes for meta in index.metas if (codes := suppressed(meta))
    }
    found = set(chain.from_iterable(judgement(index) for judgement in _JUDGEMENTS))
    return sorted(
        problem
        for problem in found
        if not {problem.code, "*"} & silent.get((problem.kind, problem.namespace, problem.name), frozenset())
    )
