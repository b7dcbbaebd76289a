"""Which policies of a kind are for a workload: AuthorizationPolicies, RequestAuthentications, extensions.

Called by `envoy.guards` (what a proxy enforces), `registry.extensions` and `headrace describe`. Rule (Istio's policy
attachment): policies of the root namespace, then those of the workload's own; by selector, or, for a proxy that has its
Gateway's name as a label, by targetRefs of the Gateway's namespace. A policy with targetRefs is for nobody else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Generic, Protocol, TypeVar

from headrace.model.policy import GATEWAY_GROUP, GATEWAY_NAME_LABEL, PolicyScope
from headrace.model.resource import Labels, Metadata, selects


class Scoped(Protocol):
    """A policy that says whom it is for."""

    @property
    def meta(self) -> Metadata: ...

    @property
    def scope(self) -> PolicyScope: ...


P = TypeVar("P", bound=Scoped)


_Pair = tuple[str, str]


class PolicyTable(Generic[P]):
    """Policies of one kind by namespace and by one label that they select on (none: everybody, or targets), so that a
    workload looks only at those that may be for it; each with its place in the order of age."""

    def __init__(self, policies: Iterable[P], root: str) -> None:
        """`policies` are ordered oldest first; `root` is the mesh's root namespace."""
        self._root = root
        self._found: dict[tuple[str, _Pair | None], list[tuple[int, P]]] = {}
        for place, policy in enumerate(policies):
            pair = policy.scope.selector[0] if policy.scope.selector else None
            self._found.setdefault((policy.meta.namespace, pair), []).append((place, policy))

    def of(self, namespace: str, labels: Labels) -> tuple[P, ...]:
        """The policies for a workload with these labels: the mesh's, then its namespace's, each oldest first."""
        pairs: list[_Pair | None] = [None, *labels.items()]
        found: list[P] = []
        for owner in dict.fromkeys((self._root, namespace)):
            near = [item for pair in pairs for item in self._found.get((owner, pair), ())]
            near.sort(key=lambda item: item[0])
            found += [policy for _, policy in near if attached(policy, namespace, labels)]
        return tuple(found)


def attached(policy: Scoped, namespace: str, labels: Mapping[str, str]) -> bool:
    """Whether a policy of the root namespace or of `namespace` is for the workload with `labels` in `namespace`."""
    scope = policy.scope
    if not scope.targets:
        return selects(dict(scope.selector), labels)
    gateway = labels.get(GATEWAY_NAME_LABEL)
    return policy.meta.namespace == namespace and any(
        (target.group, target.kind, target.name) == (GATEWAY_GROUP, "Gateway", gateway) for target in scope.targets
    )
