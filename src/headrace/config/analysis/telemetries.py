"""Telemetries: is there somebody who would take what they collect?

IST0157 and HR0123. Called by `analyse`. What Telemetries select is judged in `selections`.
"""

from __future__ import annotations

from collections.abc import Iterator

from headrace.config.analysis.codes import Code
from headrace.config.analysis.index import Index
from headrace.config.analysis.written import Written, items, text, within
from headrace.model.problem import Problem


def judge_telemetries(index: Index) -> Iterator[Problem]:
    """What a Telemetry collects and nobody takes."""
    yield from _judge_defaults(index)
    for telemetry in index.written.kind("telemetry.istio.io", "Telemetry"):
        yield from _judge_names(index, telemetry, "accessLogging", "disabled")
        yield from _judge_names(index, telemetry, "tracing", "disableSpanReporting")


def _judge_names(index: Index, telemetry: Written, field: str, off: str) -> Iterator[Problem]:
    """HR0123: a provider that MeshConfig has not, or has for something else."""
    logs = field == "accessLogging"
    known = {item.name.lower(): item.name for item in index.mesh.providers if item.kind.logs is logs}
    what = "logs" if logs else "traces"
    for at, item in enumerate(items(telemetry.spec, field)):
        if within(item, off) is True:
            continue
        for number, provider in enumerate(items(item, "providers")):
            name = text(provider, "name")
            if name.lower() not in known:
                names = ", ".join(sorted(known.values()))
                yield telemetry.problem(
                    Code.NO_OBSERVER,
                    ("spec", field, at, "providers", number, "name"),
                    f"No provider of {what} is called {name!r}: nothing is written to it.",
                    "Add it to MeshConfig's extensionProviders" + (f", or use one of {names}." if names else "."),
                )


def _judge_defaults(index: Index) -> Iterator[Problem]:
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
