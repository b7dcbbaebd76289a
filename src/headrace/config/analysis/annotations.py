"""Annotations of Istio's on Kubernetes kinds: known ones, on the kinds they belong to, with values that can be read.

IST0107, IST0108, IST0125 and IST0135. Called by `analyse`. The table follows istio.io/api's annotations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from headrace.config.analysis.annotation_values import fault_of
from headrace.config.analysis.codes import Code
from headrace.config.analysis.index import Index
from headrace.config.analysis.written import Written
from headrace.model.problem import Problem
from headrace.model.resource import Labels

SUPPRESS = "galley.istio.io/analyze-suppress"
"""Annotation with the codes (commas between, or `*`) that analysis does not report for the document."""

_JUDGED = (("", "Namespace"), ("", "Service"), ("", "Pod"), ("apps", "Deployment"))
_IGNORED = frozenset(("sidecar.istio.io/status", "gateway.istio.io/controller-version", "istio.io/rev"))
_ANY = (SUPPRESS, "gateway.istio.io/controller-version")
_ELSEWHERE: Mapping[str, tuple[str, ...]] = {
    "alpha.istio.io/canonical-serviceaccounts": ("Service",),
    "alpha.istio.io/kubernetes-serviceaccounts": ("Service",),
    "ambient.istio.io/waypoint-inbound-binding": ("GatewayClass", "Gateway"),
    "gateway.istio.io/name-override": ("Gateway",),
    "gateway.istio.io/service-account": ("Gateway",),
    "istio.io/autoRegistrationGroup": ("WorkloadEntry",),
    "istio.io/connectedAt": ("WorkloadEntry",),
    "istio.io/disconnectedAt": ("WorkloadEntry",),
    "istio.io/dry-run": ("AuthorizationPolicy",),
    "istio.io/use-waypoint-canary-weight": ("Service", "ServiceEntry", "Namespace"),
    "istio.io/workloadController": ("WorkloadEntry",),
    "kubernetes.io/ingress.class": ("Ingress",),
    "networking.istio.io/exportTo": ("Service",),
    "networking.istio.io/service-type": ("Gateway",),
    "networking.istio.io/traffic-distribution": ("Namespace", "Service", "ServiceEntry"),
    "topology.istio.io/controlPlaneClusters": ("Namespace",),
    "traffic.istio.io/nodeSelector": ("Service",),
}
_SIDECAR = (
    "agentLogLevel bootstrapOverride componentLogLevel discoveryAddress extraStatTags inject interceptionMode logLevel "
    "nativeSidecar proxyCPU proxyCPULimit proxyImage proxyImageType proxyMemory proxyMemoryLimit "
    "rewriteAppHTTPProbers statsCompression statsEvictionInterval statsFlushInterval statsHistogramBins "
    "statsHistogramBuckets statsInclusionPrefixes statsInclusionRegexps statsInclusionSuffixes status userVolume "
    "userVolumeMount"
)
_TRAFFIC = (
    "excludeInboundPorts excludeInterfaces excludeOutboundIPRanges excludeOutboundPorts includeInboundPorts "
    "includeOutboundIPRanges includeOutboundPorts kubevirtInterfaces"
)
_READINESS = "applicationPorts failureThreshold initialDelaySeconds periodSeconds"
_POD = frozenset(
    (
        "ambient.istio.io/bypass-inbound-capture",
        "ambient.istio.io/dns-capture",
        "ambient.istio.io/redirection",
        "inject.istio.io/templates",
        "istio.io/reroute-virtual-interfaces",
        "istio.io/rev",
        "prometheus.istio.io/merge-metrics",
        "proxy.istio.io/config",
        "proxy.istio.io/overrides",
        "status.sidecar.istio.io/port",
        *(f"sidecar.istio.io/{name}" for name in _SIDECAR.split()),
        *(f"traffic.sidecar.istio.io/{name}" for name in _TRAFFIC.split()),
        *(f"readiness.status.sidecar.istio.io/{name}" for name in _READINESS.split()),
    )
)
_DEPRECATED = frozenset(
    (
        "alpha.istio.io/canonical-serviceaccounts",
        "alpha.istio.io/kubernetes-serviceaccounts",
        "sidecar.istio.io/discoveryAddress",
        "sidecar.istio.io/extraStatTags",
        "sidecar.istio.io/inject",
        "sidecar.istio.io/statsCompression",
        "sidecar.istio.io/statsInclusionPrefixes",
        "sidecar.istio.io/statsInclusionRegexps",
        "sidecar.istio.io/statsInclusionSuffixes",
        "traffic.sidecar.istio.io/kubevirtInterfaces",
    )
)


def judge_annotations(index: Index) -> Iterator[Problem]:
    """Every judgement of the annotations of Namespaces, Services, Pods and Deployments."""
    for group, kind in _JUDGED:
        for written in index.written.kind(group, kind):
            for name in sorted(written.annotations):
                yield from _judge(written, name)


def _judge(written: Written, name: str) -> Iterator[Problem]:
    prefix = name.partition("/")[0]
    if not (prefix.endswith("istio.io") or name == "kubernetes.io/ingress.class") or name in _IGNORED:
        return
    place = ("metadata", "annotations", name)
    kinds = ("Pod",) if name in _POD else _ELSEWHERE.get(name, ())
    if not kinds and name not in _ANY:
        remedy = "Check the spelling; an unknown annotation does nothing."
        yield written.problem(Code.UNKNOWN_ANNOTATION, place, f"Unknown annotation: {name}.", remedy)
        return
    if name in _DEPRECATED and not (name == "sidecar.istio.io/inject" and name in written.labels):
        instead = ' in favor of the "sidecar.istio.io/inject" label' if name == "sidecar.istio.io/inject" else ""
        message = f'Annotation "{name}" has been deprecated{instead} and may not work in future Istio versions.'
        remedy = "Use the label instead." if instead else "Take it out."
        yield written.problem(Code.DEPRECATED_ANNOTATION, place, message, remedy)
    if kinds and written.document.kind not in kinds:
        message = f"Misplaced annotation: {name} can only be applied to {', '.join(kinds)}."
        yield written.problem(Code.MISPLACED_ANNOTATION, place, message, "Move it there, or take it out.")
    elif fault := fault_of(name, written.annotations[name]):
        message = f"Invalid annotation {name}: {fault}."
        yield written.problem(Code.INVALID_ANNOTATION, place, message, "Correct the value; as it is, it does nothing.")


def suppressed(annotations: Labels) -> frozenset[str]:
    """The codes that a document's own annotation silences (`*` for all)."""
    return frozenset(code.strip() for code in annotations.get(SUPPRESS, "").split(",") if code.strip())
