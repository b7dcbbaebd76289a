"""WasmPlugin (extensions.istio.io): a WebAssembly module among a workload's filters.

Lowered to `model.extension.Extension`; `traffic_extension` shares its parts. The rules are Istio's (ValidateWasmPlugin)
and those of its CRD. Modules come from files; Headrace fetches none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, field_validator

from headrace.config.documents import Document, Path
from headrace.config.fields import Choice, EnumOf, Int32, NonEmpty, Port, Text, shown, text_of
from headrace.config.kinds.policy_scope import ScopedSpec, lower_scope, scope_findings
from headrace.config.schema import NO_EFFECT, NOT_SUPPORTED, Finding, Kind, Spec, refuse
from headrace.model.extension import Extension, Phase, TrafficMatch, Wasm
from headrace.model.problem import Severity
from headrace.model.resource import Metadata
from headrace.model.telemetry import WorkloadMode

_SCHEMES = ("", "file", "http", "https", "oci")
_SHA = re.compile(r"[a-f0-9]{64}")
_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_NO_HOST = re.compile(r"[{}|^\\#%:]")
"""What the name of an image's registry cannot hold."""
_PORT = re.compile(r":\d+$")
_ESCAPES = re.compile(r"%(?![0-9a-fA-F]{2})")
_FAILURES = {"FAIL_CLOSE": "FAIL_CLOSED", "FAIL_OPEN": "FAIL_OPEN", "FAIL_RELOAD": "FAIL_RELOAD"}
_MODES = {0: "CLIENT_AND_SERVER", 1: "CLIENT", 2: "SERVER", 3: "CLIENT_AND_SERVER"}
_ANY = {"UNDEFINED": "CLIENT_AND_SERVER"}


def _url(value: object) -> str:
    text = text_of(value, "a URL")
    bare = "://" not in text
    try:
        parts = urlsplit(text if not bare or text.startswith("/") else f"http://{text}")
    except ValueError:
        parts = None
    if not text or parts is None or _CONTROL.search(text) or _ESCAPES.search(text) or (bare and text.startswith("#")):
        raise refuse(f"{shown(text)} is not a URL", "Write file:///path/of/the/module.wasm.")
    scheme = _SCHEME.match(text)
    if scheme is None and not text.startswith(("/", "[")) and _NO_HOST.search(_PORT.sub("", text.partition("/")[0])):
        raise refuse(f"{shown(text)} is not a URL", "Write file:///path/of/the/module.wasm.")
    if scheme is not None and scheme[1].lower() not in _SCHEMES:
        raise refuse(f"{shown(text)} has no scheme that Wasm modules come by", "Use file, oci, https or http.")
    return text


def _sha(value: object) -> str:
    text = text_of(value, "a SHA-256")
    if text and not _SHA.fullmatch(text):
        raise refuse(f"{shown(text)} is not a SHA-256", "Write 64 digits of 0-9 and a-f.")
    return text


class PortSelector(Spec):
    number: Port


class TrafficSelector(Spec):
    """WasmPlugin.TrafficSelector and TrafficSelector."""

    mode: Annotated[WorkloadMode, EnumOf(WorkloadMode, _MODES, _ANY)] = WorkloadMode.CLIENT_AND_SERVER
    ports: list[PortSelector] = []

    @field_validator("ports")
    @classmethod
    def _are_different(cls, ports: list[PortSelector]) -> list[PortSelector]:
        seen: set[int] = set()
        for at, port in enumerate(ports):
            if port.number in seen:
                raise refuse(f"port {port.number} is listed twice", "Remove one.", at=(at,))
            seen.add(port.number)
        return ports


class EnvVar(Spec):
    name: Annotated[NonEmpty, Field(max_length=256)]
    value_from: Annotated[str, Choice("INLINE", "HOST", numbered=True)] = "INLINE"
    value: Annotated[Text, Field(max_length=2048)] = ""


class VmConfig(Spec):
    env: Annotated[list[EnvVar], Field(max_length=256)] = []


class WasmSpec(Spec):
    """WasmConfig: a Wasm module and its settings."""

    url: Annotated[str, BeforeValidator(_url)]
    sha256: Annotated[str, BeforeValidator(_sha)] = ""
    image_pull_policy: Annotated[str, Choice("UNSPECIFIED_POLICY", "IfNotPresent", "Always", numbered=True)] = (
        "UNSPECIFIED_POLICY"
    )
    image_pull_secret: Annotated[NonEmpty, Field(max_length=253)] | None = None
    verification_key: Text = ""
    plugin_config: dict[str, Any] | None = None
    plugin_name: Annotated[NonEmpty, Field(max_length=256)] | None = None
    fail_strategy: Annotated[str, Choice(*_FAILURES, numbered=True)] = "FAIL_CLOSE"
    vm_config: VmConfig | None = None
    type: Annotated[str, Choice("UNSPECIFIED_PLUGIN_TYPE", "HTTP", "NETWORK", numbered=True)] = (
        "UNSPECIFIED_PLUGIN_TYPE"
    )


class WasmPluginSpec(ScopedSpec, WasmSpec):
    """WasmPlugin."""

    phase: Annotated[str, Choice("UNSPECIFIED_PHASE", "AUTHN", "AUTHZ", "STATS", numbered=True)] = "UNSPECIFIED_PHASE"
    priority: Int32 | None = None
    match: list[TrafficSelector] = []


def wasm_findings(spec: WasmSpec, path: Path) -> Iterator[Finding]:
    """Judge a module; `path` is where its fields stand."""
    names: set[str] = set()
    for at, item in enumerate(spec.vm_config.env if spec.vm_config else ()):
        place = (*path, "vmConfig", "env", at)
        if item.name in names:
            yield Finding((*place, "name"), f"{shown(item.name)} is set twice", "Keep one.")
        names.add(item.name)
        if item.value_from == "HOST" and item.value:
            yield Finding(
                (*place, "value"), "a value from the host takes no value here", "Take value or valueFrom out."
            )
    if not spec.url.startswith("file://"):
        message = "Headrace fetches no Wasm modules: only files are supported yet, and the document is ignored"
        remedy = "Fetch the module, check it, and write file:///path/of/it."
        yield Finding((*path, "url"), message, remedy, NOT_SUPPORTED, Severity.WARNING)
        return
    if spec.sha256:
        message = "Envoy does not check the sum of a module from a file: 'sha256' has no effect"
        yield Finding((*path, "sha256"), message, "", NO_EFFECT, Severity.WARNING)
    for name in ("image_pull_policy", "image_pull_secret", "verification_key"):
        if name in spec.model_fields_set:
            message = f"{shown(type(spec).model_fields[name].alias)} has no effect on a module from a file"
            place = (*path, str(type(spec).model_fields[name].alias))
            yield Finding(place, message, "", NO_EFFECT, Severity.WARNING)


def lower_wasm(spec: WasmSpec) -> Wasm | None:
    """The module; None where it is not a file."""
    if not spec.url.startswith("file://"):
        return None
    config = spec.plugin_config
    env = spec.vm_config.env if spec.vm_config else []
    return Wasm(
        path=spec.url.removeprefix("file://"),
        root_id=spec.plugin_name or "",
        configuration=json.dumps(config, sort_keys=True, separators=(",", ":")) if config else "",
        failure=_FAILURES[spec.fail_strategy],
        variables=tuple(sorted((item.name, item.value) for item in env if item.value_from == "INLINE")),
        inherited=tuple(sorted(item.name for item in env if item.value_from == "HOST")),
    )


def lower_matches(selectors: Sequence[TrafficSelector]) -> tuple[TrafficMatch, ...]:
    """What an extension looks at."""
    return tuple(TrafficMatch(item.mode, tuple(port.number for port in item.ports)) for item in selectors)


def _check(spec: WasmPluginSpec, document: Document) -> Iterator[Finding]:
    yield from scope_findings(spec)
    yield from wasm_findings(spec, ("spec",))


def _lower(meta: Metadata, spec: WasmPluginSpec, document: Document) -> Extension:
    return Extension(
        meta=meta,
        scope=lower_scope(spec),
        phase=Phase.UNSPECIFIED if spec.phase == "UNSPECIFIED_PHASE" else Phase(spec.phase),
        priority=spec.priority,
        matches=lower_matches(spec.match),
        wasm=lower_wasm(spec),
        network=spec.type == "NETWORK",
    )


KIND = Kind(
    group="extensions.istio.io",
    versions=("v1alpha1",),
    name="WasmPlugin",
    model=WasmPluginSpec,
    lower=_lower,
    check=_check,
)
