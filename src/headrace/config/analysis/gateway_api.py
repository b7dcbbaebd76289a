"""The Gateway API beside Istio's kinds: policies that select its gateways' Pods, and versions of its definitions.

IST0166 and IST0176. Called by `analyse`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from headrace.config.analysis.codes import Code
from headrace.config.analysis.index import Index
from headrace.config.analysis.written import pairs, within
from headrace.model.problem import Problem
from headrace.model.resource import Labels, selects

_GATEWAY_NAME = "gateway.networking.k8s.io/gateway-name"
_BUNDLE = "gateway.networking.k8s.io/bundle-version"
_POLICIES = (
    ("security.istio.io", "AuthorizationPolicy"),
    ("security.istio.io", "RequestAuthentication"),
    ("telemetry.istio.io", "Telemetry"),
    ("extensions.istio.io", "WasmPlugin"),
)
_MINIMUM = {
    "grpcroutes.gateway.networking.k8s.io": (1, 1, 0),
    "backendtlspolicies.gateway.networking.k8s.io": (1, 4, 0),
    "tlsroutes.gateway.networking.k8s.io": (1, 5, 0),
    "tcproutes.gateway.networking.k8s.io": (1, 6, 0),
}
"""Istio's oldest supported version of each definition."""
_VERSION = re.compile(r"v?(\d{1,9})\.(\d{1,9})\.(\d{1,9})([-+].*)?")


def judge_gateway_api(index: Index) -> Iterator[Problem]:
    """Every judgement of the Gateway API's gateways and definitions."""
    pods: dict[str, list[Labels]] = defaultdict(list)
    for pod in index.written.kind("", "Pod"):
        if _GATEWAY_NAME in pod.labels:
            pods[pod.namespace].append(pod.labels)
    for group, kind in _POLICIES if pods else ():
        for policy in index.written.kind(group, kind):
            selector = within(policy.spec, "selector")
            if selector is None or within(policy.spec, "targetRef") is not None:
                continue
            for labels in pods[policy.namespace]:
                if selects(pairs(selector, "matchLabels"), labels):
                    yield policy.problem(
                        Code.INEFFECTIVE_SELECTOR,
                        ("spec", "selector"),
                        f"The selector has no effect on the Gateway API's gateway {labels[_GATEWAY_NAME]}.",
                        "Name the Gateway in targetRefs instead.",
                    )
    yield from _judge_definitions(index)


def _judge_definitions(index: Index) -> Iterator[Problem]:
    for crd in index.written.kind("apiextensions.k8s.io", "CustomResourceDefinition"):
        minimum = _MINIMUM.get(crd.name)
        installed = _VERSION.fullmatch(crd.annotations.get(_BUNDLE, ""))
        if minimum is None or installed is None:
            continue
        if tuple(int(part) for part in installed.groups()[:3]) < minimum:
            wanted = ".".join(map(str, minimum))
            yield crd.problem(
                Code.OLD_DEFINITION,
                ("metadata", "annotations", _BUNDLE),
                f"The definition {crd.name} is of version {installed[0]}, older than the needed {wanted}.",
                f"Install the Gateway API's definitions of at least v{wanted}.",
            )
