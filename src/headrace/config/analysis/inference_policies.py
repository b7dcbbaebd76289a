"""InferencePolicies: is there what they are for, is it theirs, and does what does not fit go anywhere?

HR0102 to HR0106, and HR0002 on what they replace. Called by `analyse`. Rule (Gateway API's policy attachment): a target
has one policy, the oldest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from headrace.config.analysis.codes import Code
from headrace.config.analysis.index import Index, Target, covers
from headrace.model.destination import DestinationRule
from headrace.model.inference import InferencePolicy, TargetRef
from headrace.model.problem import Problem

_OVERFLOW = "spec.admission.overflow.backend"
_Owners = Mapping[str, InferencePolicy]
"""The policy that speaks for a host."""


def judge_inference_policies(index: Index) -> Iterator[Problem]:
    """Every judgement of every InferencePolicy."""
    yield from _judge_targets(index)
    owners: dict[str, InferencePolicy] = {}
    for policy in index.inference_policies:
        for target in policy.targets:
            owners.setdefault(target.host(policy.meta.namespace), policy)
    for policy in index.inference_policies:
        if policy.redirects is not None:
            yield from _judge_overflow(index, policy, policy.redirects, owners)
    yield from _judge_balancers(index, owners)


def _judge_targets(index: Index) -> Iterator[Problem]:
    """HR0102 and HR0103."""
    owners: dict[tuple[str, TargetRef], InferencePolicy] = {}
    for policy in index.inference_policies:
        namespace = policy.meta.namespace
        for at, target in enumerate(policy.targets):
            place = f"spec.targetRefs[{at}]"
            if index.find_target(target.host(namespace), (namespace,)) is None:
                yield index.problem(
                    policy.meta,
                    Code.INFERENCE_TARGET_NOT_FOUND,
                    f"{place}.name",
                    f"There is no {target.kind} {namespace}/{target.name}: the policy has no effect on it.",
                    f"Add the {target.kind}, or correct the name; a policy is for its own namespace.",
                )
            owner = owners.setdefault((namespace, target), policy)
            if owner is not policy:
                yield index.problem(
                    policy.meta,
                    Code.CONFLICTING_INFERENCE_POLICIES,
                    place,
                    f"{target.kind} {target.name} has an older InferencePolicy ({owner.meta.name}): this one has no "
                    "effect on it.",
                    "Merge the two, or take the target out of one.",
                )


def _judge_overflow(index: Index, policy: InferencePolicy, backend: TargetRef, owners: _Owners) -> Iterator[Problem]:
    """HR0104, HR0105 and HR0106: where redirected requests go."""
    namespace = policy.meta.namespace
    host = backend.host(namespace)
    other = index.find_target(host, (namespace,))
    place, missing = _missing(index, policy, other)
    if missing:
        yield index.problem(
            policy.meta,
            Code.OVERFLOW_NOT_FOUND,
            place,
            f"There is no {missing}: what does not fit is rejected.",
            f"Add it, or correct the name; {backend.kind}s of the policy's own namespace can be named.",
        )
        return
    own = sorted(target.name for target in policy.targets if target.host(namespace) == host)
    if own:
        yield index.problem(
            policy.meta,
            Code.OVERFLOW_TO_ITSELF,
            f"{_OVERFLOW}.name",
            f"{backend.kind} {own[0]} would overflow into itself: what does not fit there is rejected.",
            "Name another backend, or give the target a policy of its own.",
        )
        return
    for target in policy.targets:
        path = _cycle(target.host(namespace), owners)
        if path:
            yield index.problem(
                policy.meta,
                Code.OVERFLOW_CYCLE,
                f"{_OVERFLOW}.name",
                f"Overflow leads in a circle ({' → '.join(path)}); a request is redirected at most once, and rejected "
                "where it does not fit then.",
                "Let the last one reject.",
            )
            return


def _missing(index: Index, policy: InferencePolicy, other: Target | None) -> tuple[str, str]:
    """The field and the words for what is not there ('' : all is)."""
    overflow, backend, namespace = policy.admission.overflow, policy.redirects, policy.meta.namespace
    if backend is None:
        return "", ""
    if other is None:
        return f"{_OVERFLOW}.name", f"{backend.kind} {namespace}/{backend.name}"
    ports = index.ports_of(other)
    if overflow.port and overflow.port not in ports:
        return f"{_OVERFLOW}.port", f"port {overflow.port} of {backend.kind} {backend.name}"
    if not overflow.port and len(ports) > 1 and not ports & _ports_of_targets(index, policy):
        return f"{_OVERFLOW}.name", f"port of {backend.kind} {backend.name} with the number of the pool's own"
    rules = (rule for rule in index.destination_rules if covers(rule.host, other.host))
    if overflow.subset and not any(item.name == overflow.subset for rule in rules for item in rule.subsets):
        return f"{_OVERFLOW}.subset", f"subset {overflow.subset} of {backend.kind} {backend.name}"
    return "", ""


def _ports_of_targets(index: Index, policy: InferencePolicy) -> frozenset[int]:
    namespace = policy.meta.namespace
    found = (index.find_target(target.host(namespace), (namespace,)) for target in policy.targets)
    return frozenset[int]().union(*(index.ports_of(target) for target in found if target is not None))


def _cycle(start: str, owners: _Owners) -> list[str]:
    """The hosts from `start` by way of overflows back to it; empty where they end elsewhere."""
    path = [start]
    while True:
        policy = owners.get(path[-1])
        if policy is None or policy.redirects is None:
            return []
        path.append(policy.redirects.host(policy.meta.namespace))
        if path[-1] == start:
            return path
        if path[-1] in path[:-1]:
            return []


def _judge_balancers(index: Index, owners: _Owners) -> Iterator[Problem]:
    """HR0002 for load balancers that the picking of an InferencePolicy replaces."""
    for rule in index.destination_rules:
        target = index.find_target(rule.host, (rule.meta.namespace,))
        policy = owners.get(rule.host)
        if target is None or policy is None or target.meta.namespace != policy.meta.namespace:
            continue
        for place in _balancers(rule):
            yield index.problem(
                rule.meta,
                Code.NO_EFFECT,
                place,
                f"loadBalancer has no effect: InferencePolicy {policy.meta.namespace}/{policy.meta.name} says how an "
                "endpoint is picked.",
                "Say it there (spec.picking), or take one of them out.",
            )


def _balancers(rule: DestinationRule) -> Iterator[str]:
    """The fields of a rule that say how to choose an endpoint."""
    policies = [("spec.trafficPolicy", rule.policy)]
    policies += [(f"spec.subsets[{at}].trafficPolicy", subset.policy) for at, subset in enumerate(rule.subsets)]
    for place, policy in policies:
        if policy is None:
            continue
        if policy.load_balancer is not None and policy.load_balancer.chooses:
            yield f"{place}.loadBalancer"
        for at, port in enumerate(policy.ports):
            if port.load_balancer is not None and port.load_balancer.chooses:
                yield f"{place}.portLevelSettings[{at}].loadBalancer"
