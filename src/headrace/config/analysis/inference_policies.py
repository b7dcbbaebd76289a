"""InferencePolicies: is there what they are for, and is it theirs?

HR0102 and HR0103. Called by `analyse`. Rule (Gateway API's policy attachment): a target has one policy, the oldest.
"""

from __future__ import annotations

from collections.abc import Iterator

from headrace.config.analysis.codes import Code
from headrace.config.analysis.index import Index
from headrace.model.inference import InferencePolicy, TargetRef
from headrace.model.problem import Problem


def judge_inference_policies(index: Index) -> Iterator[Problem]:
    """HR0102 and HR0103 for every target of every InferencePolicy."""
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
