"""`headrace describe`: what applies to a service or workload, from which document, in which order.

Reads a snapshot only; called by the management API (and by tests with a snapshot of their own). Every policy is named
with the place of its document, so that an answer leads to the line to change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headrace.app.control_plane.answers import Refused
from headrace.app.control_plane.describe_pool import policy_of, pool
from headrace.envoy.visibility import wildcard_covers
from headrace.model.authorization import Action, AuthorizationPolicy
from headrace.model.destination import DestinationRule
from headrace.model.engine_timeouts import engine_timeouts
from headrace.model.inference import InferencePolicy
from headrace.model.request_authentication import RequestAuthentication
from headrace.model.resource import Labels, Metadata, selects
from headrace.model.security import PeerAuthentication
from headrace.model.service import Endpoint, Service
from headrace.model.traffic import HttpMatch, HttpRoute, MatchKind, RouteDestination, StringMatch, VirtualService
from headrace.model.workload import Workload
from headrace.registry.mtls import settle
from headrace.registry.policies import PolicyTable
from headrace.registry.snapshot import MeshSnapshot

_REPLICA = ("proxy", "state", "address", "certificate_until", "restarts", "engine_metrics")

_ASKED = (Action.CUSTOM, Action.AUDIT, Action.DENY, Action.ALLOW)
"""The order in which a proxy asks the policies."""


def service(snapshot: MeshSnapshot, namespace: str, name: str) -> dict[str, Any]:
    """What applies to a service: ports, model engine, routes with timeouts, traffic policy, endpoints. Refused where
    there is none of that name (a ServiceEntry is found by its host)."""
    found = [
        item
        for items in snapshot.services.values()
        for item in items
        if item.namespace == namespace and name in (item.name, item.host)
    ]
    if not found:
        known = sorted({item.name for items in snapshot.services.values() for item in items})
        raise Refused(404, f"no service {name!r} in namespace {namespace!r}; there are: {', '.join(known) or 'none'}")
    one = min(found, key=lambda item: item.pool)  # a Service before an InferencePool of the same name
    endpoints = snapshot.endpoints.get((one.namespace, one.host), ())
    timeouts = _timeouts(one, policy_of(snapshot, one))
    default = timeouts.get("total", "none")
    return {
        "service": one.host,
        "document": _place(one.meta),
        "ports": [f"{port.number} {port.name} {port.protocol.value}".replace("  ", " ") for port in one.ports],
        "engine": one.engine or "none named",
        "routes": [_virtual_service(item, default) for item in snapshot.virtual_services if _concerns(item, one.host)],
        "destination_rules": [
            _destination_rule(item, endpoints)
            for item in snapshot.destination_rules
            if wildcard_covers(item.host, one.host)
        ],
        "pool": pool(snapshot, one),
        "timeouts": timeouts,
        "endpoints": [_endpoint(item) for item in endpoints],
    }


def _concerns(virtual_service: VirtualService, host: str) -> bool:
    """Whether it names the host, or sends requests there."""
    if any(wildcard_covers(pattern, host) for pattern in virtual_service.hosts):
        return True
    return any(item.destination.host == host for route in virtual_service.http for item in route.route)


def _timeouts(one: Service, policy: InferencePolicy | None) -> dict[str, str]:
    """What holds for routes that say nothing themselves."""
    defaults = engine_timeouts(one.engine)
    if policy is not None and policy.timeouts.total is not None:
        return {"total": f"{policy.timeouts.total:g} s (InferencePolicy {policy.meta.name})"}
    if defaults is None:
        return {"routes without a timeout": "none (no engine is named): write spec.http[].timeout"}
    source = f"explicit default of engine {one.engine}"
    return {
        "total": f"{defaults.total:g} s ({source})",
        "stream idle": f"{defaults.idle:g} s ({source})",
        "connect": f"{defaults.connect:g} s ({source})",
    }


def _virtual_service(item: VirtualService, default: str) -> dict[str, Any]:
    """`default`: the timeout of rules that write none."""
    return {
        "virtual_service": f"{item.meta.namespace}/{item.meta.name}",
        "document": _place(item.meta),
        "hosts": ", ".join(item.hosts),
        "bound to": ", ".join("sidecars (mesh)" if gateway == "mesh" else gateway for gateway in item.gateways),
        "rules": [_route(route, default) for route in item.http],
    }


def _route(route: HttpRoute, default: str) -> dict[str, Any]:
    if route.redirect is not None:
        action = "redirect"
    elif route.direct_response is not None:
        action = f"answer {route.direct_response.status} directly"
    else:
        action = ", ".join(_destination(item, len(route.route)) for item in route.route)
    described: dict[str, Any] = {
        "when": " or ".join(_match(match) for match in route.matches) or "always",
        "then": action,
        "line": route.line,
        "timeout": _route_timeout(route, default),
    }
    if route.retries is not None:
        described["retries"] = "none" if route.retries.attempts == 0 else f"{route.retries.attempts}"
    if route.mirrors:
        described["mirrors"] = ", ".join(f"{item.percent:g}% to {item.destination.host}" for item in route.mirrors)
    if route.fault is not None:
        described["fault"] = f"delay {route.fault.delay_percent:g}%, abort {route.fault.abort_percent:g}%"
    return described


def _route_timeout(route: HttpRoute, default: str) -> str:
    if route.timeout is not None:
        return f"{route.timeout:g} s (written)" if route.timeout else "none (written)"
    return default


def _destination(item: RouteDestination, count: int) -> str:
    target = item.destination
    text = (
        target.host
        + (f" subset {target.subset}" if target.subset else "")
        + (f" port {target.port}" if target.port else "")
    )
    return f"{item.weight}% to {text}" if count > 1 else f"to {text}"


def _match(match: HttpMatch) -> str:
    parts = []
    for name in ("uri", "method", "authority", "scheme"):
        value = getattr(match, name)
        if value is not None:
            parts.append(f"{name} {_comparison(value)}")
    pairs = {"header": match.headers, "without header": match.without_headers, "query": match.query_params}
    for label, items in pairs.items():
        parts += [f"{label} {name} {_comparison(value)}" for name, value in items]
    if match.port:
        parts.append(f"port {match.port}")
    if match.source_labels:
        parts.append("from " + ",".join(f"{name}={value}" for name, value in match.source_labels))
    if match.source_namespace:
        parts.append(f"from namespace {match.source_namespace}")
    return " and ".join(parts) or "always"


def _comparison(match: StringMatch) -> str:
    return match.kind.value if match.kind is MatchKind.PRESENT else f"{match.kind.value} {match.value!r}"


def _destination_rule(item: DestinationRule, endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "destination_rule": f"{item.meta.namespace}/{item.meta.name}",
        "document": _place(item.meta),
        "host": item.host,
    }
    policy = item.policy
    if policy is not None and policy.outlier_detection is not None:
        outlier = policy.outlier_detection
        described["outlier detection"] = (
            f"{outlier.consecutive_5xx_errors if outlier.consecutive_5xx_errors is not None else 5} consecutive 5xx, "
            f"interval {_or(outlier.interval, 10)} s, ejection {_or(outlier.base_ejection_time, 30)} s, "
            f"at most {outlier.max_ejection_percent if outlier.max_ejection_percent is not None else 10}%"
        )
    if policy is not None and policy.load_balancer is not None:
        lb = policy.load_balancer
        described["load balancer"] = "consistent hash" if lb.consistent_hash else lb.simple.value
    if policy is not None and policy.tls is not None:
        described["tls"] = policy.tls.mode.value
    described["subsets"] = [
        f"{subset.name}: {_count(subset.labels, endpoints)} endpoints with "
        + (",".join(f"{name}={value}" for name, value in subset.labels) or "any labels")
        for subset in item.subsets
    ]
    return described


def _or(value: float | None, default: float) -> str:
    return f"{default if value is None else value:g}"


def _count(labels: Sequence[tuple[str, str]], endpoints: Sequence[Endpoint]) -> int:
    return len({item.address for item in endpoints if selects(dict(labels), dict(item.labels))})


def _endpoint(item: Endpoint) -> dict[str, Any]:
    return {
        "address": f"{item.address}:{item.port}",
        "workload": item.workload or "-",
        "health": item.health.value,
        "mutual tls": "yes" if item.mtls else "no",
        "identity": item.identity or "-",
    }


def workload(snapshot: MeshSnapshot, namespace: str, name: str, proxies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What applies to a Workload: services in front, mutual TLS it accepts, replicas with their state."""
    found = [item for item in snapshot.workloads if item.meta.namespace == namespace and item.meta.name == name]
    if not found:
        known = sorted(item.meta.name for item in snapshot.workloads)
        raise Refused(404, f"no workload {name!r} in namespace {namespace!r}; there are: {', '.join(known) or 'none'}")
    one: Workload = found[0]
    labels = one.labels or {}
    policy = settle(snapshot.peer_authentications, snapshot.mesh.root_namespace, namespace, labels)
    services = [
        item.host
        for items in snapshot.services.values()
        for item in items
        if item.namespace == namespace and item.selector and selects(item.selector, labels)
    ]
    prefix = f"{namespace}/{name}-"
    replicas = [
        row for row in proxies if str(row["proxy"]).startswith(prefix) and str(row["proxy"])[len(prefix) :].isdigit()
    ]
    return {
        "workload": f"{namespace}/{name}",
        "document": _place(one.meta),
        "identity": f"spiffe://{snapshot.mesh.trust_domain}/ns/{namespace}/sa/{one.service_account}",
        "engine": one.engine.value if one.engine else "none named",
        "labels": ", ".join(f"{key}={value}" for key, value in sorted(labels.items())) or "none",
        "services": services,
        "mutual tls": policy.mode.value + "".join(f", port {port}: {mode.value}" for port, mode in policy.ports),
        "peer authentications": [
            f"{item.meta.namespace}/{item.meta.name} ({item.mode.value}) {_place(item.meta)}"
            for item in snapshot.peer_authentications
            if _demands(item, snapshot.mesh.root_namespace, namespace, labels)
        ],
        "request authentications": [
            f"{item.meta.namespace}/{item.meta.name} (issuers {_issuers(item)}) {_place(item.meta)}"
            for item in PolicyTable(snapshot.request_authentications, snapshot.mesh.root_namespace).of(
                namespace, labels
            )
        ],
        "authorization policies": _authorization(snapshot, namespace, labels),
        "replicas": [{key: row[key] for key in _REPLICA if key in row} for row in replicas],
    }


def _demands(item: PeerAuthentication, root: str, namespace: str, labels: Labels) -> bool:
    """Whether a PeerAuthentication is for a workload: the mesh's, its namespace's, or its own."""
    if item.meta.namespace == root:
        return not item.selector
    return item.meta.namespace == namespace and selects(item.selector, labels)


def _issuers(item: RequestAuthentication) -> str:
    return ", ".join(rule.issuer or "any" for rule in item.rules) or "none"


def _authorization(snapshot: MeshSnapshot, namespace: str, labels: Labels) -> list[str]:
    """The AuthorizationPolicies of a workload in the order in which their actions are asked, and what their absence or
    presence means for the rest."""
    found = PolicyTable(snapshot.authorization_policies, snapshot.mesh.root_namespace).of(namespace, labels)
    ordered = sorted(found, key=lambda item: _ASKED.index(item.action))
    lines = [
        f"{item.action} {item.meta.namespace}/{item.meta.name} ({_rules(item)}) {_place(item.meta)}" for item in ordered
    ]
    if found:
        allows = any(item.action is Action.ALLOW and not item.dry_run for item in found)
        lines.append("everything else is refused" if allows else "everything else is allowed")
    return lines


def _rules(item: AuthorizationPolicy) -> str:
    text = f"{len(item.rules)} rule{'' if len(item.rules) == 1 else 's'}" if item.rules else "matches nothing"
    text += f", asks {item.provider}" if item.provider else ""
    return text + (", dry run" if item.dry_run else "")


def _place(meta: Metadata) -> str:
    return f"{meta.origin.file}:{meta.origin.line}"
