"""EnvoyFilter (networking.istio.io): patches of what Envoy is told, object by object.

Lowered to `model.envoy_filter.EnvoyFilter`, whose patches hold the serialised messages. The rules are Istio's
(ValidateEnvoyFilter, BuildXDSObjectFromStruct) and those of its CRD; `envoy.translate.patch` applies the patches.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field, model_validator

from headrace.config.documents import Document, Path
from headrace.config.fields import Choice, EnumOf, Int32, Port, Text, UInt32, check_regex, shown
from headrace.config.kinds.envoy_filter_values import MESSAGES, value_findings, version_matches
from headrace.config.kinds.istio_names import at_most_one, set_fields, spelled, warning
from headrace.config.kinds.policy_scope import MAX_TARGETS, TargetRefSpec, lower_targets, targets_findings
from headrace.config.schema import NO_EFFECT, NOT_SUPPORTED, Finding, Kind, Spec
from headrace.model.envoy_filter import (
    ApplyTo,
    ClusterMatch,
    EnvoyFilter,
    ListenerMatch,
    Operation,
    Patch,
    PatchContext,
    RouteMatch,
)
from headrace.model.policy import PolicyScope
from headrace.model.problem import Severity
from headrace.model.resource import Metadata
from headrace.wire.envoy_types import UnknownTypeError, WrongMessageError, message_from_json

MAX_PROXY_VERSION = 1024
"""Longest `proxyVersion` that is looked at, in characters (Istio's bound)."""
_HCM = ("envoy.filters.network.http_connection_manager", "envoy.http_connection_manager")
_OF_LISTENERS = (ApplyTo.LISTENER, ApplyTo.FILTER_CHAIN, ApplyTo.NETWORK_FILTER, ApplyTo.HTTP_FILTER)
_OF_ROUTES = (ApplyTo.ROUTE_CONFIGURATION, ApplyTo.VIRTUAL_HOST, ApplyTo.HTTP_ROUTE)
_NUMBERED = {number: item.value for number, item in enumerate(ApplyTo, 1)}
_OPERATIONS = {number: item.value for number, item in enumerate(Operation, 1)}
_CONTEXTS = {number: item.value for number, item in enumerate(PatchContext)}
_INVALID = "INVALID"


class WorkloadSelectorSpec(Spec):
    """istio.networking.v1alpha3.WorkloadSelector."""

    labels: dict[Text, Text] = {}


class ProxyMatchSpec(Spec):
    proxy_version: Text = ""
    metadata: dict[Text, Text] = {}


class SubFilterSpec(Spec):
    name: Text = ""


class FilterSpec(Spec):
    name: Text = ""
    sub_filter: SubFilterSpec | None = None


class FilterChainSpec(Spec):
    name: Text = ""
    sni: Text = ""
    transport_protocol: Text = ""
    application_protocols: Text = ""
    filter: FilterSpec | None = None
    destination_port: UInt32 = 0


class ListenerSpec(Spec):
    """EnvoyFilter.ListenerMatch."""

    port_number: UInt32 = 0
    port_name: Text = ""
    filter_chain: FilterChainSpec | None = None
    listener_filter: Text = ""
    name: Text = ""


class RouteSpec(Spec):
    name: Text = ""
    action: Annotated[str, Choice("ANY", "ROUTE", "REDIRECT", "DIRECT_RESPONSE", numbered=True)] = "ANY"


class VhostSpec(Spec):
    name: Text = ""
    domain_name: Text = ""
    route: RouteSpec | None = None


class RouteConfigurationSpec(Spec):
    """EnvoyFilter.RouteConfigurationMatch."""

    port_number: UInt32 = 0
    port_name: Text = ""
    gateway: Text = ""
    vhost: VhostSpec | None = None
    name: Text = ""


class ClusterSpec(Spec):
    """EnvoyFilter.ClusterMatch."""

    port_number: UInt32 = 0
    service: Text = ""
    subset: Text = ""
    name: Text = ""


class WaypointSpec(Spec):
    """EnvoyFilter.WaypointMatch."""

    port_number: Port = 0
    route: SubFilterSpec | None = None
    filter: FilterSpec | None = None


class MatchSpec(Spec):
    """EnvoyFilter.EnvoyConfigObjectMatch."""

    context: Annotated[PatchContext, EnumOf(PatchContext, _CONTEXTS)] = PatchContext.ANY
    proxy: ProxyMatchSpec | None = None
    listener: ListenerSpec | None = None
    route_configuration: RouteConfigurationSpec | None = None
    cluster: ClusterSpec | None = None
    waypoint: WaypointSpec | None = None

    @model_validator(mode="after")
    def _one_object(self) -> MatchSpec:
        at_most_one(self, *_OBJECTS)
        return self


_OBJECTS = ("listener", "route_configuration", "cluster", "waypoint")


class PatchSpec(Spec):
    """EnvoyFilter.Patch."""

    operation: Annotated[str, Choice(_INVALID, *Operation, numbered=True)] = _INVALID
    value: dict[str, Any] | None = None
    filter_class: Annotated[str, Choice("UNSPECIFIED", "AUTHN", "AUTHZ", "STATS", numbered=True)] = "UNSPECIFIED"


class ConfigPatchSpec(Spec):
    """EnvoyFilter.EnvoyConfigObjectPatch."""

    apply_to: Annotated[str, Choice(_INVALID, *ApplyTo, numbered=True)] = _INVALID
    match: MatchSpec | None = None
    patch: PatchSpec | None = None

    @property
    def context(self) -> PatchContext:
        return self.match.context if self.match is not None else PatchContext.ANY


class EnvoyFilterSpec(Spec):
    """EnvoyFilter."""

    workload_selector: WorkloadSelectorSpec | None = None
    target_refs: Annotated[list[TargetRefSpec], Field(max_length=MAX_TARGETS)] = []
    config_patches: list[ConfigPatchSpec] = []
    priority: Int32 = 0


def _check(spec: EnvoyFilterSpec, document: Document) -> Iterator[Finding]:
    if spec.workload_selector is not None:
        yield from _selector_findings(spec.workload_selector, ("spec", "workloadSelector"))
        if spec.target_refs:
            message = "workloadSelector and targetRefs exclude each other"
            yield Finding(("spec", "targetRefs"), message, "Keep one of them.")
    yield from targets_findings(spec.target_refs, any_kind=True)
    for at, patch in enumerate(spec.config_patches):
        yield from _patch_findings(patch, ("spec", "configPatches", at))


def _selector_findings(selector: WorkloadSelectorSpec, path: Path) -> Iterator[Finding]:
    for name, value in selector.labels.items():
        if not name:
            yield Finding((*path, "labels"), "a label needs a name")
        elif "*" in name or "*" in value:
            yield Finding((*path, "labels", name), f"{shown(f'{name}={value}')}: selectors have no wildcards")
    if not selector.labels:
        yield warning(path, "a selector without labels selects every workload of the namespace", "Give it labels.")


def _patch_findings(spec: ConfigPatchSpec, path: Path) -> Iterator[Finding]:
    """Judge one patch. Istio stops at the first fault of a patch, and does not look at patches for waypoints."""
    waypoint = spec.match is not None and spec.match.waypoint is not None
    others = bool(spec.match and set_fields(spec.match, *_OBJECTS[:3]))
    at_waypoint = spec.context is PatchContext.WAYPOINT
    if waypoint is not at_waypoint or (others and at_waypoint):
        message = "a waypoint match and the context WAYPOINT go together, and no other match goes with them"
        yield Finding((*path, "match"), message, "Write context: WAYPOINT and waypoint, or another context and match.")
        return
    if at_waypoint:
        message = "there are no waypoint proxies here: the patch is applied to nobody"
        yield Finding((*path, "match", "context"), message, "", NO_EFFECT, Severity.WARNING)
        return
    if spec.apply_to == _INVALID:
        yield Finding((*path, "applyTo"), "a patch needs applyTo", f"Use one of {', '.join(ApplyTo)}.")
    elif spec.patch is None:
        yield Finding((*path, "patch"), "a patch needs what it does", "Add patch.operation and patch.value.")
    elif spec.patch.operation == _INVALID:
        message = "a patch needs an operation"
        yield Finding((*path, "patch", "operation"), message, f"Use one of {', '.join(Operation)}.")
    elif spec.patch.operation != Operation.REMOVE and spec.patch.value is None:
        message = f"{spec.patch.operation} needs a value"
        yield Finding((*path, "patch", "value"), message, "Add the object, or the fields of it, that the patch brings.")
    else:
        yield from _match_findings(spec, path)
        yield from value_findings(ApplyTo(spec.apply_to), spec.patch.value, (*path, "patch", "value"))
        yield from _useless(spec, spec.patch, path)


def _match_findings(spec: ConfigPatchSpec, path: Path) -> Iterator[Finding]:
    match, kind = spec.match, ApplyTo(spec.apply_to)
    if match is None:
        return
    if match.proxy is not None and match.proxy.proxy_version:
        yield from _version_findings(match.proxy.proxy_version, (*path, "match", "proxy", "proxyVersion"))
    given = set_fields(match, *_OBJECTS)
    wanted = "listener" if kind in _OF_LISTENERS else "route_configuration" if kind in _OF_ROUTES else ""
    wanted = "cluster" if kind is ApplyTo.CLUSTER else wanted
    if wanted and given and given != [wanted]:
        message = f"a patch of a {kind} cannot match a {spelled(match, given[0])}"
        yield Finding((*path, "match", spelled(match, given[0])), message, f"Write match.{spelled(match, wanted)}.")
    elif match.listener is not None and kind in _OF_LISTENERS and match.listener.filter_chain is not None:
        chain = match.listener.filter_chain
        if chain.filter is not None:
            place = (*path, "match", "listener", "filterChain", "filter")
            yield from _filter_findings(chain.filter, kind, place)
    if match.listener is not None and match.listener.port_name:
        message = "listeners have no port names: portName matches nothing by itself (Istio ignores it too)"
        place = (*path, "match", "listener", "portName")
        yield Finding(place, message, "Use portNumber or name.", NO_EFFECT, Severity.WARNING)


def _version_findings(pattern: str, path: Path) -> Iterator[Finding]:
    if len(pattern) > MAX_PROXY_VERSION:
        yield warning(path, f"a pattern of more than {MAX_PROXY_VERSION} characters matches no proxy")
        return
    try:
        check_regex(pattern)
    except ValueError as error:
        yield Finding(path, str(error), "Write a pattern of RE2, such as ^1\\.3.*")


def _filter_findings(spec: FilterSpec, kind: ApplyTo, path: Path) -> Iterator[Finding]:
    if kind in (ApplyTo.LISTENER, ApplyTo.FILTER_CHAIN):
        yield warning(path, f"a match of filters has no effect on a patch of a {kind}", "Take it out.")
    if not spec.name:
        yield Finding((*path, "name"), "a filter is matched by its name", "Add name.")
    elif spec.sub_filter is not None:
        place = (*path, "subFilter")
        if kind is not ApplyTo.HTTP_FILTER:
            yield Finding(place, "subFilter goes with applyTo HTTP_FILTER only", "Take it out.")
        elif spec.name not in _HCM:
            message = "subFilter needs the HTTP connection manager as its filter"
            yield Finding((*path, "name"), message, f"Write {_HCM[0]}.")
        elif not spec.sub_filter.name:
            yield Finding((*place, "name"), "a filter is matched by its name", "Add name.")


def _useless(spec: ConfigPatchSpec, patch: PatchSpec, path: Path) -> Iterator[Finding]:
    """What Istio accepts and does not act on, or Headrace does not."""
    kind, operation = ApplyTo(spec.apply_to), Operation(patch.operation)
    if kind is ApplyTo.BOOTSTRAP:
        message = "Headrace writes the bootstrap of its proxies itself: patches of it are not supported"
        yield Finding((*path, "applyTo"), message, "", NOT_SUPPORTED, Severity.WARNING)
    elif not _acts(kind, operation):
        message = f"{operation} does nothing to a {kind}, as in Istio"
        yield Finding((*path, "patch", "operation"), message, "", NO_EFFECT, Severity.WARNING)
    if patch.filter_class != "UNSPECIFIED":
        message = "filterClass has no effect: Istio ignores it too"
        place = (*path, "patch", "filterClass")
        yield Finding(place, message, "Say the place with INSERT_BEFORE or INSERT_AFTER.", NO_EFFECT, Severity.WARNING)


def _acts(kind: ApplyTo, operation: Operation) -> bool:
    """Whether an operation does something to such an object (Istio takes an insertion elsewhere for ADD)."""
    added = operation in (Operation.ADD, Operation.INSERT_AFTER, Operation.INSERT_BEFORE, Operation.INSERT_FIRST)
    replaced = operation is Operation.REPLACE
    match kind:
        case ApplyTo.ROUTE_CONFIGURATION:
            return operation.merges
        case ApplyTo.EXTENSION_CONFIG:
            return added
        case ApplyTo.LISTENER | ApplyTo.FILTER_CHAIN | ApplyTo.CLUSTER | ApplyTo.HTTP_ROUTE:
            return not replaced
        case ApplyTo.NETWORK_FILTER | ApplyTo.HTTP_FILTER | ApplyTo.LISTENER_FILTER:
            return operation is not Operation.MERGE_AND_REPLACE_LIST
        case _:
            return True


def _lower(meta: Metadata, spec: EnvoyFilterSpec, document: Document) -> EnvoyFilter:
    selector = spec.workload_selector.labels if spec.workload_selector else {}
    patches = [_lower_patch(item) for item in spec.config_patches]
    return EnvoyFilter(
        meta=meta,
        scope=PolicyScope(tuple(sorted(selector.items())), lower_targets(spec.target_refs)),
        priority=spec.priority,
        patches=tuple(patch for patch in patches if patch is not None),
    )


def _lower_patch(spec: ConfigPatchSpec) -> Patch | None:
    """The patch; None where it can apply to nothing here."""
    match, patch = spec.match or MatchSpec(), spec.patch
    if match.context is PatchContext.WAYPOINT or patch is None or spec.apply_to == ApplyTo.BOOTSTRAP:
        return None
    proxy = match.proxy or ProxyMatchSpec()
    if proxy.proxy_version and not version_matches(proxy.proxy_version[: MAX_PROXY_VERSION + 1], MAX_PROXY_VERSION):
        return None
    kind, operation = ApplyTo(spec.apply_to), Operation(patch.operation)
    if not _acts(kind, operation):
        return None
    try:
        value = message_from_json(MESSAGES[kind], patch.value) if patch.value is not None else None
    except (UnknownTypeError, WrongMessageError):
        return None
    return Patch(
        apply_to=kind,
        operation=operation,
        value=value.SerializeToString(deterministic=True) if value is not None else b"",
        context=match.context,
        proxy_metadata=tuple(sorted(proxy.metadata.items())),
        listener=_listener(match.listener) if match.listener is not None else None,
        route=_route(match.route_configuration) if match.route_configuration is not None else None,
        cluster=_cluster(match.cluster) if match.cluster is not None else None,
    )


def _listener(spec: ListenerSpec) -> ListenerMatch:
    chain = spec.filter_chain or FilterChainSpec()
    sub = chain.filter.sub_filter if chain.filter is not None else None
    protocols = chain.application_protocols
    return ListenerMatch(
        name=spec.name,
        port=spec.port_number,
        listener_filter=spec.listener_filter,
        chain_name=chain.name,
        sni=chain.sni,
        transport_protocol=chain.transport_protocol,
        application_protocols=tuple(protocols.split(",")) if protocols else (),
        destination_port=chain.destination_port,
        filter=chain.filter.name if chain.filter is not None else None,
        sub_filter=sub.name if sub is not None else None,
    )


def _route(spec: RouteConfigurationSpec) -> RouteMatch:
    vhost = spec.vhost or VhostSpec()
    route = vhost.route or RouteSpec()
    return RouteMatch(
        name=spec.name,
        port=spec.port_number,
        port_name=spec.port_name,
        gateway=spec.gateway,
        vhost=spec.vhost is not None,
        vhost_name=vhost.name,
        vhost_domain=vhost.domain_name,
        route=vhost.route is not None,
        route_name=route.name,
        action=route.action,
    )


def _cluster(spec: ClusterSpec) -> ClusterMatch:
    return ClusterMatch(spec.name, spec.port_number, spec.service, spec.subset)


KIND = Kind(
    group="networking.istio.io",
    versions=("v1alpha3",),
    name="EnvoyFilter",
    model=EnvoyFilterSpec,
    lower=_lower,
    check=_check,
    body_required=False,
)
