"""MeshNetworks, in Istio's own ConfigMap: do the registries exist whose endpoints make a network?

IST0126. Called by `analyse`.
"""

from __future__ import annotations

from collections.abc import Iterator

from headrace.config.analysis.codes import Code
from headrace.config.analysis.index import Index
from headrace.config.analysis.written import items, mapping, text
from headrace.config.text import Parsed, parse
from headrace.model.problem import Problem

_REGISTRIES = ("Mock", "Kubernetes", "External")
_REMOTE_CLUSTER = "istio/multiCluster"
"""Label of Secrets whose keys are the names of other clusters."""


def judge_mesh_networks(index: Index) -> Iterator[Problem]:
    """IST0126 for every `fromRegistry` that nobody is called."""
    known = {*_REGISTRIES}
    for secret in index.written.kind("", "Secret"):
        if secret.labels.get(_REMOTE_CLUSTER) == "true":
            known |= {*mapping(secret.document.data, "data"), *mapping(secret.document.data, "stringData")}
    for config in index.written.kind("", "ConfigMap"):
        written = text(config.document.data, "data", "meshNetworks") if config.name.startswith("istio") else ""
        for part in parse(written):
            networks = mapping(part.data, "networks") if isinstance(part, Parsed) else {}
            for network, fields in sorted(networks.items()):
                for endpoint in items(fields, "endpoints"):
                    registry = text(endpoint, "fromRegistry")
                    if registry and registry not in known:
                        yield config.problem(
                            Code.UNKNOWN_REGISTRY,
                            ("data", "meshNetworks"),
                            f"Unknown service registry {registry} in network {network}.",
                            f"Use one of {', '.join(sorted(known)[:10])}, or add the Secret of that cluster.",
                        )
