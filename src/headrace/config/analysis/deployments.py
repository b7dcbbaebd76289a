"""Deployments and Pods: Services that contradict each other about them, and users that the proxy needs for itself.

IST0116, IST0137, IST0144 and IST0175. Called by `analyse`. For Workloads, which have no document of Kubernetes', the
judgement of Services is in `services`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from headrace.config.analysis.codes import Code
from headrace.config.analysis.index import Index
from headrace.config.analysis.injection import PROXY, asks_for_proxy
from headrace.config.analysis.written import Written, items, mapping, pairs, text, within
from headrace.config.documents import Path
from headrace.model.problem import Problem
from headrace.model.resource import Labels, selects

PROXY_USER = 1337
"""The user that the sidecar runs as: its traffic is not captured."""
_MANAGED = "gateway.istio.io/managed"


def judge_deployments(index: Index) -> Iterator[Problem]:
    """Every judgement of every Deployment and Pod."""
    services: dict[str, list[Written]] = defaultdict(list)
    for service in index.written.kind("", "Service"):
        if pairs(service.spec, "selector"):
            services[service.namespace].append(service)
    namespaces = {written.name: written.labels for written in index.written.kind("", "Namespace")}
    for deployment in index.written.kind("apps", "Deployment"):
        template = mapping(deployment.spec, "template")
        yield from _judge_user(deployment, within(template, "spec"), ("spec", "template", "spec"))
        if deployment.labels.get(_MANAGED) == "istio.io-mesh-controller":
            continue
        if index.hosted or _in_mesh(template, namespaces.get(deployment.namespace)):
            labels = pairs(template, "metadata", "labels")
            found = [item for item in services[deployment.namespace] if selects(pairs(item.spec, "selector"), labels)]
            yield from _judge_transports(deployment, found)
            yield from _judge_targets(deployment, found)
    for pod in index.written.kind("", "Pod"):
        yield from _judge_user(pod, pod.spec, ("spec",))
    yield from _judge_key_fetching(index)


def _in_mesh(template: Any, namespace: Labels | None) -> bool:
    labels, annotations = pairs(template, "metadata", "labels"), pairs(template, "metadata", "annotations")
    return asks_for_proxy(labels, annotations, iter(items(template, "spec", "containers")), namespace)


def _ports(services: list[Written]) -> Iterator[tuple[Written, Any, str]]:
    """Every Service with each of its ports and their number."""
    for service in services:
        for port in items(service.spec, "ports"):
            yield service, port, str(within(port, "port"))


def _judge_transports(deployment: Written, services: list[Written]) -> Iterator[Problem]:
    """IST0116: one port with two protocols."""
    seen: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for service, port, number in _ports(services):
        seen[number][text(port, "protocol") or "TCP"].append(service.full_name)
    for number, protocols in seen.items():
        if len(protocols) > 1:
            names = ", ".join(sorted({name for found in protocols.values() for name in found}))
            yield deployment.problem(
                Code.SEVERAL_TRANSPORTS,
                ("metadata", "name"),
                f"The deployment {deployment.name} is associated with multiple Services using port {number} but "
                f"different protocols: {names}.",
                "Give each protocol a port number of its own.",
            )


def _judge_targets(deployment: Written, services: list[Written]) -> Iterator[Problem]:
    """IST0137: one target port behind two ports."""
    seen: dict[str, dict[str, str]] = defaultdict(dict)
    for service, port, number in _ports(services):
        target = within(port, "targetPort")
        seen[str(number if target in (None, 0, "", "0") else target)][number] = service.full_name
    for target, found in seen.items():
        if len(found) > 1:
            yield deployment.problem(
                Code.CONFLICTING_PORTS,
                ("metadata", "name"),
                f"The deployment {deployment.name} is associated with multiple Services "
                f"{', '.join(sorted(found.values()))} "
                f'using targetPort "{target}" but different ports: {", ".join(sorted(found))}.',
                "Give one target port one service port.",
            )


def _judge_user(written: Written, spec: Any, at: Path) -> Iterator[Problem]:
    """IST0144 for the Pod's user and its containers'."""
    if "istio" in written.labels or written.labels.get("release") == "istio":
        return
    places: list[Path] = []
    if within(spec, "securityContext", "runAsUser") == PROXY_USER:
        places.append((*at, "securityContext", "runAsUser"))
    for number, container in enumerate(items(spec, "containers")):
        own = text(container, "name") not in (PROXY, "istio-operator")
        if own and within(container, "securityContext", "runAsUser") == PROXY_USER:
            places.append((*at, "containers", number, "securityContext", "runAsUser"))
    for place in places:
        yield written.problem(
            Code.INVALID_USER,
            place,
            f"User {PROXY_USER} is reserved for the sidecar proxy: what the application sends is not captured.",
            "Run the application as another user.",
        )


def _judge_key_fetching(index: Index) -> Iterator[Problem]:
    """IST0175: an istiod that would fetch signing keys from any address."""
    users = [written.full_name for written in index.written.kind("security.istio.io", "RequestAuthentication")]
    for deployment in index.written.kind("apps", "Deployment") if users else ():
        found = items(deployment.spec, "template", "spec", "containers")
        if deployment.labels.get("app") == "istiod" and not any(_has_blocked_ranges(item) for item in found):
            more = f", and {len(users) - 5} more" if len(users) > 5 else ""
            yield deployment.problem(
                Code.KEY_FETCHING_UNRESTRICTED,
                ("spec", "template", "spec", "containers"),
                f"{len(users)} RequestAuthentication resources ({', '.join(users[:5])}{more}) let istiod fetch keys, "
                "and no address is blocked.",
                "Set BLOCKED_CIDRS_IN_JWKS_URIS in istiod's environment.",
            )


def _has_blocked_ranges(container: Any) -> bool:
    return any(
        text(variable, "name") == "BLOCKED_CIDRS_IN_JWKS_URIS" and within(variable, "value") not in (None, "")
        for variable in items(container, "env")
    )
