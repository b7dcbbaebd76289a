"""TrafficExtension (extensions.istio.io): a WebAssembly module or a Lua program among a workload's filters.

Lowered to `model.extension.Extension`, as `wasm_plugin`. The rules are Istio's (ValidateTrafficExtension) and those of
its CRD.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, model_validator

from headrace.config.documents import Document
from headrace.config.fields import Choice, Int32, NonEmpty
from headrace.config.kinds.istio_names import at_most_one, set_fields
from headrace.config.kinds.policy_scope import (
    MAX_TARGETS,
    ScopedSpec,
    SelectorSpec,
    TargetRefSpec,
    lower_scope,
    scope_findings,
)
from headrace.config.kinds.wasm_plugin import TrafficSelector, WasmSpec, lower_matches, lower_wasm, wasm_findings
from headrace.config.schema import Finding, Kind, Spec, refuse
from headrace.model.extension import Extension, Phase
from headrace.model.resource import Metadata

MAX_LUA = 65_536
"""Longest Lua program, in characters (Istio's bound)."""


class LuaSpec(Spec):
    """LuaConfig."""

    inline_code: Annotated[NonEmpty, Field(max_length=MAX_LUA)]


class TrafficExtensionSpec(Spec):
    """TrafficExtension."""

    selector: SelectorSpec | None = None
    target_refs: Annotated[list[TargetRefSpec], Field(max_length=MAX_TARGETS)] = []
    phase: Annotated[Phase, Choice(*Phase, numbered=True)] = Phase.UNSPECIFIED
    priority: Int32 | None = None
    match: list[TrafficSelector] = []
    wasm: WasmSpec | None = None
    lua: LuaSpec | None = None

    @model_validator(mode="after")
    def _one_program(self) -> TrafficExtensionSpec:
        at_most_one(self, "wasm", "lua")
        if not set_fields(self, "wasm", "lua"):
            raise refuse("an extension needs a program", "Add wasm or lua.")
        return self

    @property
    def scope(self) -> ScopedSpec:
        """Whom it is for, as other policies say it."""
        given = {name: getattr(self, name) for name in ("selector", "target_refs") if name in self.model_fields_set}
        return ScopedSpec(**given)


def _check(spec: TrafficExtensionSpec, document: Document) -> Iterator[Finding]:
    yield from scope_findings(spec.scope)
    if spec.wasm is not None:
        yield from wasm_findings(spec.wasm, ("spec", "wasm"))


def _lower(meta: Metadata, spec: TrafficExtensionSpec, document: Document) -> Extension:
    return Extension(
        meta=meta,
        scope=lower_scope(spec.scope),
        phase=Phase(spec.phase),
        priority=spec.priority,
        matches=lower_matches(spec.match),
        wasm=lower_wasm(spec.wasm) if spec.wasm is not None else None,
        lua=spec.lua.inline_code if spec.lua is not None else "",
        network=spec.wasm is not None and spec.wasm.type == "NETWORK",
    )


KIND = Kind(
    group="extensions.istio.io",
    versions=("v1alpha1",),
    name="TrafficExtension",
    model=TrafficExtensionSpec,
    lower=_lower,
    check=_check,
)
