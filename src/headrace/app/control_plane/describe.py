"""`headrace describe service`: what applies to a service, from which document, in which order.

Reads a snapshot only, as `describe_workload` and `describe_route` do; called through `described`. Every policy is named
with the place of its document, so that an answer leads to the line to change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from headrace.app.control_plane import precedence
from headrace.app.control_plane.answers import Refused
from headrace.app.control_plane.describe_pool import policy_of, pool
from headrace.model.destination import DestinationRule
from headrace.model.engine_timeouts import engine_timeouts
from headrace.model.inference import InferencePolicy
from headrace.model.resource import Metadata, selects
from headrace.model.service import Endpoint, Service
from headrace.model.traffic import (
    HttpMatch,
    HttpRoute,
    L4Match,
    L4Route,
    MatchKind,
    RouteDestination,
    StringMatch,
    VirtualService,
)
from headrace.registry.snapshot import MeshSnapshot


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
        "document": place(one.meta),
        "ports": [f"{port.number} {port.name} {port.protocol.value}".replace("  ", " ") for port in one.ports],
        "engine": one.engine or "none named",
        "routes": [
            virtual_service(item, default, standing) for item, standing in precedence.virtual_services(snapshot, one)
        ],
        "destination_rules": [
            _destination_rule(item, endpoints, standing)
            for item, standing in precedence.destination_rules(snapshot, one)
        ],
        "pool": pool(snapshot, one),
        "timeouts": timeouts,
        "endpoints": [_endpoint(item) for item in endpoints],
    }


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


def virtual_service(item: VirtualService, default: str, standing: str) -> dict[str, Any]:
    """A VirtualService, rule by rule. `default`: the timeout of rules that write none; `standing`: if it counts."""
    return {
        "virtual_service": f"{item.meta.namespace}/{item.meta.name}",
        "document": place(item.meta),
        "standing": standing,
        "hosts": ", ".join(item.hosts),
        "bound to": ", ".join("sidecars (mesh)" if gateway == "mesh" else gateway for gateway in item.gateways),
        "rules": [
            *(_route(route, default) for route in item.http),
            *(_connections("TLS", route) for route in item.tls),
            *(_connections("TCP", route) for route in item.tcp),
        ],
    }


def _route(route: HttpRoute, default: str) -> dict[str, Any]:
    if route.redirect is not None:
        action = "redirect"
    elif route.direct_response is not None:
        action = f"answer {route.direct_response.status} directly"
    else:
        action = _destinations(route.route)
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


def _connections(kind: str, route: L4Route) -> dict[str, Any]:
    """A rule for connections that are passed on as they are."""
    when = " or ".join(_l4_match(match) for match in route.matches) or "always"
    return {"when": f"{kind}: {when}", "then": _destinations(route.route), "line": route.line}


def _l4_match(match: L4Match) -> str:
    parts = [f"server name {', '.join(match.sni_hosts)}"] if match.sni_hosts else []
    parts += [f"to {', '.join(match.subnets)}"] if match.subnets else []
    return " and ".join([*parts, *_circumstances(match)]) or "always"


def _destinations(items: Sequence[RouteDestination]) -> str:
    total = sum(item.weight for item in items) if len(items) > 1 else 0
    return ", ".join(_destination(item, total) for item in items)


def _destination(item: RouteDestination, total: int) -> str:
    """A destination with its share of the weights; `total` 0: it takes everything."""
    target = item.destination
    text = (
        target.host
        + (f" subset {target.subset}" if target.subset else "")
        + (f" port {target.port}" if target.port else "")
    )
    return f"{100 * item.weight / total:g}% to {text}" if total else f"to {text}"


def _match(match: HttpMatch) -> str:
    parts = []
    for name in ("uri", "method", "authority", "scheme"):
        value = getattr(match, name)
        if value is not None:
            parts.append(f"{name} {_comparison(value)}")
    pairs = {"header": match.headers, "without header": match.without_headers, "query": match.query_params}
    for label, items in pairs.items():
        parts += [f"{label} {name} {_comparison(value)}" for name, value in items]
    return " and ".join([*parts, *_circumstances(match)]) or "always"


def _circumstances(match: HttpMatch | L4Match) -> Iterator[str]:
    """What a match asks of the port and the caller."""
    if match.port:
        yield f"port {match.port}"
    if match.source_labels:
        yield "from " + ",".join(f"{name}={value}" for name, value in match.source_labels)
    if match.source_namespace:
        yield f"from namespace {match.source_namespace}"


def _comparison(match: StringMatch) -> str:
    return match.kind.value if match.kind is MatchKind.PRESENT else f"{match.kind.value} {match.value!r}"


def _destination_rule(item: DestinationRule, endpoints: Sequence[Endpoint], standing: str) -> dict[str, Any]:
    described: dict[str, Any] = {
        "destination_rule": f"{item.meta.namespace}/{item.meta.name}",
        "document": place(item.meta),
        "standing": standing,
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


def place(meta: Metadata) -> str:
    return f"{meta.origin.file}:{meta.origin.line}"
