"""Where things run: a locality is `region/zone/subzone`, and which labels say so.

Read by `config` (workloads), `registry` (replicas) and `envoy` (callers). The labels are Istio's and Kubernetes'.
"""

from __future__ import annotations

from headrace.model.resource import Labels

LOCALITY = ("topology.istio.io/locality", "istio-locality")
"""Labels that hold the whole locality, with dots between the parts; the first comes first."""
TOPOLOGY = ("topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone")
"""Labels of a locality's parts."""
NETWORK = "topology.istio.io/network"
NODE = "kubernetes.io/hostname"
"""Label of the machine that a workload runs on."""
LOCALITY_LABELS = frozenset((*LOCALITY, *TOPOLOGY))


TRAFFIC_DISTRIBUTION = "networking.istio.io/traffic-distribution"
"""Annotation of a Service, a ServiceEntry or their Namespace (Istio's)."""
_DISTRIBUTIONS = {"preferclose": "zone", "prefersamezone": "zone", "prefersamenode": "node"}


def distribution_of(annotations: Labels, written: str = "") -> str:
    """`zone` or `node` as spec.trafficDistribution (`written`) or the annotation asks for, `any` where the annotation
    has another value, '' where nothing is said."""
    found = _DISTRIBUTIONS.get(written.lower(), "")
    own = annotations.get(TRAFFIC_DISTRIBUTION, "").lower()
    return found or (_DISTRIBUTIONS.get(own, "any") if own else "")


def locality_of(labels: Labels) -> str:
    """Where something with these labels runs ('' where nothing says)."""
    for name in LOCALITY:
        written = labels.get(name, "")
        if written:
            return written if "/" in written else written.replace(".", "/")
    return "/".join(labels.get(name, "") for name in TOPOLOGY).rstrip("/")


def parts_of_locality(locality: str) -> tuple[str, str, str]:
    """Region, zone and subzone; '' for what is not said."""
    region, zone, subzone = (*locality.split("/", 2), "", "")[:3]
    return region, zone, subzone


def with_topology(labels: Labels, locality: str, network: str = "") -> dict[str, str]:
    """The labels, and those that locality and network stand for (Istio adds them to every workload)."""
    known = zip((*TOPOLOGY, NETWORK), (*parts_of_locality(locality), network), strict=True)
    return {**labels, **{name: value for name, value in known if value}}
