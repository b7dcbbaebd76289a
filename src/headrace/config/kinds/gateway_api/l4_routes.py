"""`gateway.networking.k8s.io TCPRoute` and `TLSRoute`: where whole connections go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from headrace.config.documents import Document
from headrace.config.fields import Choice, shown
from headrace.config.kinds.gateway_api.fields import (
    BackendSpec,
    Hostname,
    Parents,
    SectionName,
    default_gateway_findings,
    lowered_parents,
    rule_name_findings,
)
from headrace.config.kinds.istio_names import is_address
from headrace.config.schema import Finding, Kind, Spec
from headrace.model.gateway_api import Route, RouteRule
from headrace.model.policy import GATEWAY_GROUP
from headrace.model.resource import Metadata
from headrace.model.traffic import HttpRoute

_OLD = "v1alpha2"
_OLD_RULES = 16
"""Rules that a route of v1alpha2 may have; later versions allow one."""


class L4RuleSpec(Spec):
    """TCPRouteRule and TLSRouteRule."""

    name: SectionName | None = None
    backend_refs: Annotated[list[BackendSpec], Field(min_length=1, max_length=16)]


class TcpRouteApiSpec(Spec):
    """TCPRouteSpec."""

    parent_refs: Parents = []
    use_default_gateways: Annotated[str, Choice("All", "None")] | None = None
    rules: Annotated[list[L4RuleSpec], Field(min_length=1, max_length=_OLD_RULES)]


class TlsRouteApiSpec(TcpRouteApiSpec):
    """TLSRouteSpec."""

    hostnames: Annotated[list[Hostname], Field(max_length=1024)] = []


def _check_tcp(spec: TcpRouteApiSpec, document: Document) -> Iterator[Finding]:
    if len(spec.rules) > 1 and document.version != _OLD:
        remedy = "Write a route for each, or use v1alpha2."
        yield Finding(("spec", "rules"), f"a route of {document.version} has one rule", remedy)
    yield from rule_name_findings([rule.name for rule in spec.rules])
    yield from default_gateway_findings(spec.use_default_gateways, "useDefaultGateways")


def _check_tls(spec: TlsRouteApiSpec, document: Document) -> Iterator[Finding]:
    yield from _check_tcp(spec, document)
    if document.version == _OLD:
        return
    if not spec.hostnames:
        message = f"a TLSRoute of {document.version} needs hostnames"
        yield Finding(("spec", "hostnames"), message, "Write the names that clients ask for (SNI).")
    for at, name in enumerate(spec.hostnames):
        if is_address(name):
            yield Finding(("spec", "hostnames", at), f"{shown(name)} is an address", "Write a host name.")


def _lower_tcp(meta: Metadata, spec: TcpRouteApiSpec, document: Document) -> Route:
    return Route(meta, lowered_parents(spec.parent_refs), (), _rules(spec))


def _lower_tls(meta: Metadata, spec: TlsRouteApiSpec, document: Document) -> Route:
    return Route(meta, lowered_parents(spec.parent_refs), tuple(spec.hostnames), _rules(spec))


def _rules(spec: TcpRouteApiSpec) -> tuple[RouteRule, ...]:
    return tuple(
        RouteRule(tuple(ref.lower() for ref in rule.backend_refs), action=HttpRoute(name=rule.name or ""))
        for rule in spec.rules
    )


KINDS = (
    Kind(
        group=GATEWAY_GROUP,
        versions=("v1", "v1alpha2"),
        name="TCPRoute",
        model=TcpRouteApiSpec,
        lower=_lower_tcp,
        check=_check_tcp,
    ),
    Kind(
        group=GATEWAY_GROUP,
        versions=("v1", "v1alpha2", "v1alpha3"),
        name="TLSRoute",
        model=TlsRouteApiSpec,
        lower=_lower_tls,
        check=_check_tls,
    ),
)
