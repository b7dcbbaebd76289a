"""Security policies: do they select anybody, do the namespaces and authorizers that they name exist, are tokens
verified where routes look at claims?

IST0101 (namespaces), IST0127, IST0149, HR0121 and HR0122. Called by `analyse`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from headrace.config.analysis.codes import Code
from headrace.config.analysis.index import Index, Running, shown
from headrace.config.analysis.injection import asks_for_proxy, containers
from headrace.model.authorization import HOST, Action, Attribute, AuthorizationPolicy, Authorizer
from headrace.model.claims import routing_claim
from headrace.model.gateway import Gateway
from headrace.model.names import MESH_GATEWAY
from headrace.model.problem import Problem
from headrace.model.resource import Labels, selects
from headrace.model.traffic import VirtualService


def judge_policies(index: Index) -> Iterator[Problem]:
    """Every judgement of every AuthorizationPolicy."""
    authorizers = {authorizer.name: authorizer for authorizer in index.mesh.authorizers}
    namespaces = {meta.name for meta in index.metas if meta.key.kind == "Namespace"}
    if index.hosted:  # nobody need declare a namespace
        namespaces |= {meta.namespace for meta in index.metas}
    for policy in index.authorization_policies:
        yield from _judge_selection(index, policy)
        yield from _judge_namespaces(index, policy, namespaces)
        if policy.action is Action.CUSTOM:
            found = authorizers.get(policy.provider)
            if found is None or not _is_there(index, found, policy.meta.namespace):
                yield _no_authorizer(index, policy, found.service if found else "", sorted(authorizers))
        if policy.action is Action.DENY:
            yield from _judge_hosts(index, policy)


def _is_there(index: Index, authorizer: Authorizer, namespace: str) -> bool:
    """Whether the namespace sees the authorizer's service, with its port."""
    target = index.find_target(authorizer.service.rpartition("/")[2], (namespace,))
    return target is not None and authorizer.port in index.ports_of(target)


def _judge_selection(index: Index, policy: AuthorizationPolicy) -> Iterator[Problem]:
    """IST0127. A policy of the root namespace without a selector is for everybody, whoever that is."""
    scope, namespace = policy.scope, policy.meta.namespace
    everywhere = namespace == index.mesh.root_namespace
    if (scope.targets and index.hosted) or (everywhere and not scope.selector):
        return
    labels = dict(scope.selector)
    found = index.workloads_anywhere(labels) if everywhere else index.workloads_with(namespace, labels)
    if any(_in_mesh(index, running) for running in found):
        return
    if (
        everywhere
        and index.hosted
        and any(selects(labels, dict(gateway.selector)) for gateway in index.gateways.values())
    ):
        return  # `up` starts a proxy for the Gateway, in the root namespace
    yield index.problem(
        policy.meta,
        Code.NO_MATCHING_WORKLOADS,
        "spec.selector" if scope.selector else "spec",
        f"No matching workloads for this resource with the following labels: {shown(scope.selector)}.",
        "Correct the selector, or give the workload these labels; a policy is for its own namespace.",
    )


def _in_mesh(index: Index, running: Running) -> bool:
    """Whether a proxy stands before the workload; of a Pod, by what it and its namespace say of injection."""
    pod = index.written.find("", "Pod", running.meta.namespace, running.meta.name)
    if index.hosted or running.meta.key.kind != "Pod" or pod is None:
        return True
    found = index.written.find("", "Namespace", "", running.meta.namespace)
    own = asks_for_proxy(pod.labels, pod.annotations, containers(pod.spec), found.labels if found else None)
    return own or index.is_ambient(running)


def _judge_namespaces(index: Index, policy: AuthorizationPolicy, known: Iterable[str]) -> Iterator[Problem]:
    """IST0101: a namespace that no document is in, and no Namespace document declares."""
    names = sorted(known)
    for number, rule in enumerate(policy.rules):
        for place, source in enumerate(rule.sources):
            for attribute in source:
                if attribute.key == "source.namespace":
                    yield from _unknown_namespaces(index, policy, attribute, (number, place, names))


def _unknown_namespaces(
    index: Index, policy: AuthorizationPolicy, attribute: Attribute, where: tuple[int, int, list[str]]
) -> Iterator[Problem]:
    number, place, names = where
    for field, values in (("namespaces", attribute.values), ("notNamespaces", attribute.not_values)):
        for at, value in enumerate(values):
            if not any(_fits(name, value) for name in names):
                yield index.problem(
                    policy.meta,
                    Code.NOT_FOUND,
                    f"spec.rules[{number}].from[{place}].source.{field}[{at}]",
                    f'Referenced namespace not found: "{value}".',
                    "Add its Namespace document, or correct the name.",
                )


def _fits(name: str, value: str) -> bool:
    if value.startswith("*"):
        return name.endswith(value[1:])
    if value.endswith("*"):
        return name.startswith(value[:-1])
    return name.lower() == value.lower()


def _no_authorizer(index: Index, policy: AuthorizationPolicy, service: str, known: list[str]) -> Problem:
    what = f"its service {service} or its port is not there" if service else "MeshConfig has no such extensionProvider"
    remedy = f"Use one of {', '.join(known)}." if known else "Add it to MeshConfig's extensionProviders."
    return index.problem(
        policy.meta,
        Code.NO_AUTHORIZER,
        "spec.provider.name",
        f"The authorizer {policy.provider!r} cannot be asked ({what}): what the policy matches is refused.",
        "Add the service, with a port that is the provider's." if service else remedy,
    )


def _judge_hosts(index: Index, policy: AuthorizationPolicy) -> Iterator[Problem]:
    """HR0122: a host that is denied by its name alone, which the same name with a port goes around."""
    for number, rule in enumerate(policy.rules):
        for place, operation in enumerate(rule.operations):
            for attribute in operation:
                if attribute.key != HOST:
                    continue
                for at, value in enumerate(attribute.values):
                    if value.endswith("*") or ":" in value or _with_port(value) & set(attribute.values):
                        continue
                    yield index.problem(
                        policy.meta,
                        Code.HOST_WITHOUT_PORT,
                        f"spec.rules[{number}].to[{place}].operation.hosts[{at}]",
                        f"A request for {value} with a port in its Host ({value}:8080) is not denied.",
                        "Deny by path, method or source instead." if "*" in value else f"Add {value}:* to the list.",
                    )


def _with_port(host: str) -> set[str]:
    return {f"{host}:*", "*", f"{host}*"}


def judge_claim_routes(index: Index) -> Iterator[Problem]:
    """IST0149: a route of a gateway looks at a claim, and nobody verifies tokens there."""
    for rule in index.virtual_services:
        claim = _claim_of(rule)
        for name in rule.gateways if claim else ():
            gateway = index.gateways.get(name)
            if name == MESH_GATEWAY or gateway is None:
                continue
            for namespace, pod, labels in _proxies(index, gateway):
                if not _verifies(index, namespace, labels):
                    yield index.problem(
                        rule.meta,
                        Code.CLAIMS_NOT_VERIFIED,
                        "spec.http",
                        f"The virtual service uses the JWT claim based routing (key: {claim}) but found no request "
                        f"authentication for the gateway ({name}) pod ({pod}).",
                        "Add a RequestAuthentication that selects the gateway's proxies.",
                    )


def _claim_of(rule: VirtualService) -> str:
    """The first header match of a rule that is about a claim."""
    for route in rule.http:
        for match in route.matches:
            for name, _ in (*match.headers, *match.without_headers):
                if routing_claim(name):
                    return name
    return ""


def _proxies(index: Index, gateway: Gateway) -> Iterator[tuple[str, str, Mapping[str, str]]]:
    """Namespace, name and labels of the gateway's proxies; of the one that `up` starts where there is none."""
    found = False
    for running in index.running:
        if (running.gateway or running.pod) and selects(dict(gateway.selector), running.labels):
            found = True
            yield running.meta.namespace, running.meta.name, running.labels
    if not found and index.hosted:
        yield index.mesh.root_namespace, gateway.meta.name, dict(gateway.selector)


def _verifies(index: Index, namespace: str, labels: Labels) -> bool:
    return any(
        item.scope.targets or selects(dict(item.scope.selector), labels)
        for item in index.request_authentications
        if item.meta.namespace in (index.mesh.root_namespace, namespace)
    )
