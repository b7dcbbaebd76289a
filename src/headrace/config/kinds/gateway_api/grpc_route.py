"""`gateway.networking.k8s.io GRPCRoute`: where gRPC calls go, by service and method."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from headrace.config.documents import Document, Path
from headrace.config.fields import Choice
from headrace.config.kinds.gateway_api.fields import (
    BackendSpec,
    Hostnames,
    Parents,
    SectionName,
    default_gateway_findings,
    lowered_parents,
    rule_name_findings,
)
from headrace.config.kinds.gateway_api.filters import (
    GrpcFilters,
    is_header_filter,
    is_rule_filter,
    lower_filter_headers,
    unusable_filter,
)
from headrace.config.kinds.gateway_api.http_matches import (
    GrpcRouteMatchSpec,
    SessionPersistenceSpec,
    match_count_findings,
    unusable_findings,
)
from headrace.config.schema import Finding, Kind, Spec
from headrace.model.gateway_api import BackendRef, Route, RouteRule
from headrace.model.policy import GATEWAY_GROUP
from headrace.model.resource import Metadata
from headrace.model.traffic import HttpRoute


class GrpcBackendSpec(BackendSpec):
    """GRPCBackendRef."""

    filters: GrpcFilters = []

    def lower(self) -> BackendRef:
        base = super().lower()
        unusable = unusable_filter(self.filters, is_header_filter)
        return BackendRef(base.ref, base.port, base.weight, lower_filter_headers(self.filters), unusable)


class GrpcRuleSpec(Spec):
    """GRPCRouteRule."""

    name: SectionName | None = None
    matches: Annotated[list[GrpcRouteMatchSpec], Field(max_length=64)] = []
    filters: GrpcFilters = []
    backend_refs: Annotated[list[GrpcBackendSpec], Field(max_length=16)] = []
    session_persistence: SessionPersistenceSpec | None = None


class GrpcRouteSpec(Spec):
    """GRPCRouteSpec."""

    parent_refs: Parents = []
    use_default_gateways: Annotated[str, Choice("All", "None")] | None = None
    hostnames: Hostnames = []
    rules: Annotated[list[GrpcRuleSpec], Field(max_length=16)] = []


def _check(spec: GrpcRouteSpec, document: Document) -> Iterator[Finding]:
    yield from match_count_findings([rule.matches for rule in spec.rules])
    yield from rule_name_findings([rule.name for rule in spec.rules])
    yield from default_gateway_findings(spec.use_default_gateways, "useDefaultGateways")
    for at, rule in enumerate(spec.rules):
        path: Path = ("spec", "rules", at)
        kinds = ["" if is_rule_filter(item.type) else item.type for item in rule.filters]
        yield from unusable_findings(kinds, (*path, "filters"))
        for place, backend in enumerate(rule.backend_refs):
            kinds = ["" if is_header_filter(item.type) else item.type for item in backend.filters]
            yield from unusable_findings(kinds, (*path, "backendRefs", place, "filters"))


def _lower(meta: Metadata, spec: GrpcRouteSpec, document: Document) -> Route:
    rules = []
    for at, rule in enumerate(spec.rules):
        action = HttpRoute(
            name=rule.name or f"{meta.namespace}.{meta.name}.{at}",
            headers=lower_filter_headers(rule.filters),
            line=document.locate(("spec", "rules", at))[1],
        )
        rules.append(
            RouteRule(
                backends=tuple(ref.lower() for ref in rule.backend_refs),
                matches=tuple(match.lower() for match in rule.matches),
                action=action,
                mirrors=tuple(item.request_mirror.lower() for item in rule.filters if item.request_mirror),
                unusable=unusable_filter(rule.filters, is_rule_filter),
            )
        )
    return Route(meta, lowered_parents(spec.parent_refs), tuple(spec.hostnames), tuple(rules))


KIND = Kind(
    group=GATEWAY_GROUP,
    versions=("v1",),
    name="GRPCRoute",
    model=GrpcRouteSpec,
    lower=_lower,
    check=_check,
    untranslated=("spec.rules[].sessionPersistence",),
)
