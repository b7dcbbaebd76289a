"""Fields and kinds that Istio has given up.

IST0002. Called by `analyse`.
"""

from __future__ import annotations

from collections.abc import Iterator

from headrace.config.analysis.codes import Code
from headrace.config.analysis.index import Index
from headrace.config.analysis.written import items, mapping, text, within
from headrace.model.problem import Problem

_REMOVED = ("ClusterRbacConfig", "RbacConfig", "ServiceRole", "ServiceRoleBinding")
"""Kinds of rbac.istio.io."""


def judge_deprecation(index: Index) -> Iterator[Problem]:
    """Every use of something deprecated."""
    yield from _judge_delays(index)
    for sidecar in index.written.kind("networking.istio.io", "Sidecar"):
        if within(sidecar.spec, "outboundTrafficPolicy", "egressProxy") is not None:
            yield sidecar.problem(
                Code.DEPRECATED,
                ("spec", "outboundTrafficPolicy", "egressProxy"),
                "outboundTrafficPolicy.egressProxy is ignored.",
                "Take it out; route to an egress gateway with a VirtualService.",
            )
    for crd in index.written.kind("apiextensions.k8s.io", "CustomResourceDefinition"):
        kind = text(crd.spec, "names", "kind")
        if text(crd.spec, "group") == "rbac.istio.io" and kind in _REMOVED:
            message = f"Custom resource type rbac.istio.io {kind} is removed."
            yield crd.problem(Code.DEPRECATED, ("spec", "names", "kind"), message, "Use AuthorizationPolicy.")
    yield from _judge_lightstep(index)


def _judge_delays(index: Index) -> Iterator[Problem]:
    for rule in index.written.kind("networking.istio.io", "VirtualService"):
        for at, route in enumerate(items(rule.spec, "http")):
            percent = within(route, "fault", "delay", "percent")
            if isinstance(percent, (int, str)) and str(percent).strip() not in ("", "0"):
                yield rule.problem(
                    Code.DEPRECATED,
                    ("spec", "http", at, "fault", "delay", "percent"),
                    "fault.delay.percent is deprecated; use fault.delay.percentage.",
                    "Write percentage: {value: ...}.",
                )


def _judge_lightstep(index: Index) -> Iterator[Problem]:
    providers = {
        text(provider, "name")
        for provider in items(index.mesh_fields, "extensionProviders")
        if mapping(provider, "lightstep")
    }
    for telemetry in index.written.kind("telemetry.istio.io", "Telemetry") if providers else ():
        for at, tracing in enumerate(items(telemetry.spec, "tracing")):
            for number, provider in enumerate(items(tracing, "providers")):
                name = text(provider, "name")
                if name in providers:
                    yield telemetry.problem(
                        Code.DEPRECATED,
                        ("spec", "tracing", at, "providers", number, "name"),
                        f"The Lightstep provider {name} is deprecated.",
                        "Use an opentelemetry provider.",
                    )
