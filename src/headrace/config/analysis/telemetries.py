"""Telemetries: is there somebody who would take what they collect?

IST0157. Called by `analyse`. What Telemetries select is judged in `selections`.
"""

from __future__ import annotations

from collections.abc import Iterator

from headrace.config.analysis.codes import Code
from headrace.config.analysis.index import Index
from headrace.config.analysis.written import items, within
from headrace.model.problem import Problem


def judge_telemetries(index: Index) -> Iterator[Problem]:
    """IST0157: access logging without a provider, where MeshConfig names no default one."""
    if items(index.mesh_fields, "defaultProviders", "accessLogging"):
        return
    for telemetry in index.written.kind("telemetry.istio.io", "Telemetry"):
        for at, logging in enumerate(items(telemetry.spec, "accessLogging")):
            if within(logging, "disabled") is not True and not items(logging, "providers"):
                yield telemetry.problem(
                    Code.INVALID_TELEMETRY_PROVIDER,
                    ("spec", "accessLogging", at),
                    f"The Telemetry {telemetry.name} in namespace {telemetry.namespace} names no provider, and "
                    "MeshConfig has no default one: nothing is logged.",
                    "Name a provider (envoy), or set MeshConfig's defaultProviders.accessLogging.",
                )
